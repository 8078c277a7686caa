'use strict';
// What stands around a map: the tools, and the card that tells of the point under the pointer.

/** Both axes of the map, in [0, 1], of positions that are x and y in turn, in 65535ths. */
function axesOf(positions) {
  const [x, y] = [new Float32Array(positions.length / 2), new Float32Array(positions.length / 2)];
  for (let i = 0; i < x.length; i++) [x[i], y[i]] = [positions[2 * i] / 65535, positions[2 * i + 1] / 65535];
  return { x, y };
}

class MapStage {
  constructor() {
    this.tools = make('div', { className: 'tools', role: 'toolbar', 'aria-label': 'Map' });
    this.canvas = make('canvas', { id: 'canvas', tabIndex: 0, role: 'application' });
    this.canvas.setAttribute('aria-label', 'Map of all images. Arrow keys move it, plus and minus zoom, 0 shows all, Escape clears.');
    this.tip = make('div', { id: 'tip', hidden: true }, make('canvas', { className: 'picture' }), make('p', {}), make('p', { className: 'quiet' }));
    this.element = make('div', { className: 'stage' }, this.canvas, this.tip, this.tools);
  }

  /** The map itself, once the stage is in the page; what it takes is what `ImageMap` takes. */
  open(points, clusters, told) {
    const map = new ImageMap(this.canvas, points, clusters, told);
    const lasso = this.tool('Lasso', 'Lasso: draw around points', () => {
      map.lassoing = !map.lassoing;
      lasso.setAttribute('aria-pressed', String(map.lassoing));
      this.canvas.classList.toggle('lassoing', map.lassoing);
    });
    lasso.setAttribute('aria-pressed', 'false');
    this.tool('+', 'Zoom in', () => map.magnify(1.5));
    this.tool('−', 'Zoom out', () => map.magnify(1 / 1.5));
    this.tool('All', 'Show all', () => map.home());
    return map;
  }

  tool(text, label, action) {
    const button = make('button', { type: 'button', textContent: text, 'aria-label': label, title: label });
    button.addEventListener('click', action);
    this.tools.append(button);
    return button;
  }

  /** Shows the card beside a place on the canvas. */
  tell(x, y, path, facts) {
    const { tip } = this;
    tip.children[1].replaceChildren(named(path));
    tip.children[2].textContent = facts;
    const { width, height } = this.canvas.getBoundingClientRect();
    tip.style.left = `${x > width / 2 ? x - tip.offsetWidth - 16 : x + 16}px`;
    tip.style.top = `${Math.min(Math.max(8, y - tip.offsetHeight / 2), height - tip.offsetHeight - 8)}px`;
  }
}
