'use strict';
// The map: all points on one canvas, with zoom, pan, hover, choice by click and by lasso.

const CELLS = 96; // the map is searched through a grid of so many cells a side
const REACH = 14; // pixels around the pointer within which a point is found

class ImageMap {
  /**
   * @param canvas where it is drawn.
   * @param points {x, y, labels}: Float32Arrays in [0, 1], up and right, and cluster numbers, less than 0 for none.
   * @param clusters how many.
   * @param told {hover(point or -1, x, y), select(points), pick(cluster or -1, point)}: what the person did;
   *   {nameOf(cluster)}: what stands in the middle of a cluster, its number where that is left out.
   */
  constructor(canvas, points, clusters, told) {
    Object.assign(this, points, { canvas, told });
    this.n = this.x.length;
    this.context = canvas.getContext('2d', { willReadFrequently: true });
    this.picked = -1;
    this.selected = new Uint8Array(this.n);
    this.anySelected = false;
    this.lassoing = false;
    this.hovered = -1;
    this.loop = [];
    this.pointers = new Map();
    this.middles = middlesOf(this, clusters);
    this.colours = coloursOf(this.middles);
    this.order = this.mixed();
    this.buildGrid();
    this.home();
    this.listen();
    this.resize();
  }

  // What it shows

  home() {
    this.zoom = 1;
    this.left = 0.5; // the place in the middle of the canvas
    this.top = 0.5;
    this.redraw();
  }

  /** Brings a cluster into colour and the rest into grey; -1 for all in colour. */
  pick(cluster) {
    this.picked = cluster;
    this.redraw();
  }

  select(points) {
    this.selected.fill(0);
    for (const point of points) this.selected[point] = 1;
    this.anySelected = points.length > 0;
    this.redraw();
  }

  /** Other clusters for the same points, and their colours. */
  relabel(labels, clusters, colours) {
    this.labels = labels;
    this.middles = middlesOf(this, clusters);
    this.colours = colours;
    this.redraw();
  }

  magnify(factor, x = this.width / 2, y = this.height / 2) {
    const zoom = Math.min(200, Math.max(0.5, this.zoom * factor));
    const [before, after] = [this.scale(), this.scale() * (zoom / this.zoom)];
    this.left += (x - this.width / 2) * (1 / before - 1 / after);
    this.top += (y - this.height / 2) * (1 / before - 1 / after);
    this.zoom = zoom;
    this.redraw();
  }

  pan(dx, dy) {
    this.left = Math.min(1, Math.max(0, this.left - dx / this.scale()));
    this.top = Math.min(1, Math.max(0, this.top - dy / this.scale()));
    this.redraw();
  }

  // Places

  scale() {
    return Math.min(this.width - 48, this.height - 48) * this.zoom;
  }

  screenX(point) {
    return (this.x[point] - this.left) * this.scale() + this.width / 2;
  }

  screenY(point) {
    return (1 - this.y[point] - this.top) * this.scale() + this.height / 2;
  }

  buildGrid() {
    const cell = (value) => Math.min(CELLS - 1, Math.floor(value * CELLS));
    this.cellOf = cell;
    this.grid = Array.from({ length: CELLS * CELLS }, () => []);
    for (let i = 0; i < this.n; i++) this.grid[cell(this.y[i]) * CELLS + cell(this.x[i])].push(i);
  }

  /** The point nearest to a place on the canvas, -1 where none is within reach. */
  nearest(px, py) {
    const scale = this.scale();
    const x = (px - this.width / 2) / scale + this.left;
    const y = 1 - ((py - this.height / 2) / scale + this.top);
    const reach = REACH / scale;
    let [best, found] = [reach * reach, -1];
    const clamp = (value) => this.cellOf(Math.max(0, value));
    for (let row = clamp(y - reach); row <= clamp(y + reach); row++) {
      for (let column = clamp(x - reach); column <= clamp(x + reach); column++) {
        for (const i of this.grid[row * CELLS + column]) {
          if (this.picked >= 0 && this.labels[i] !== this.picked) continue;
          const distance = (this.x[i] - x) ** 2 + (this.y[i] - y) ** 2;
          if (distance < best) [best, found] = [distance, i];
        }
      }
    }
    return found;
  }

  /** The points inside a closed line on the canvas; of a cluster that is picked, only its own. */
  inside(loop) {
    const xs = loop.map(([x]) => x);
    const ys = loop.map(([, y]) => y);
    const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const found = [];
    for (let i = 0; i < this.n; i++) {
      if (this.picked >= 0 && this.labels[i] !== this.picked) continue;
      const [x, y] = [this.screenX(i), this.screenY(i)];
      if (x < x0 || x > x1 || y < y0 || y > y1) continue;
      let within = false;
      for (let a = 0, b = loop.length - 1; a < loop.length; b = a++) {
        if (ys[a] > y !== ys[b] > y && x < ((xs[b] - xs[a]) * (y - ys[a])) / (ys[b] - ys[a]) + xs[a]) within = !within;
      }
      if (within) found.push(i);
    }
    return found;
  }

  /** All points in an order that favours no cluster: a later point covers an earlier one. */
  mixed() {
    const order = Uint32Array.from({ length: this.n }, (_, i) => i);
    let state = 1;
    for (let i = this.n - 1; i > 0; i--) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const other = state % (i + 1);
      [order[i], order[other]] = [order[other], order[i]];
    }
    return order;
  }

  // Drawing

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = this.canvas.getBoundingClientRect();
    [this.width, this.height, this.ratio] = [width || 600, height || 400, ratio];
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.redraw();
  }

  /** Draws all again in the next frame. */
  redraw() {
    this.stale = true;
    this.redrawTop();
  }

  /** Draws again what lies on the points. */
  redrawTop() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  theme() {
    const style = getComputedStyle(this.canvas);
    const value = (name) => style.getPropertyValue(name).trim();
    return {
      paper: value('--card'), ink: value('--ink'), grey: value('--dim'),
      palette: Array.from({ length: 10 }, (_, i) => value(`--c${i}`)),
    };
  }

  draw() {
    const theme = this.theme();
    const size = Math.min(7, Math.max(1.1, 38 / Math.cbrt(this.n)) * Math.max(1, this.zoom) ** 0.35);
    if (this.stale) paintPoints(this, size, theme);
    this.stale = false;
    this.context.putImageData(this.image, 0, 0);
    this.context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    this.drawNumbers(theme);
    if (this.hovered >= 0) this.ring(this.hovered, size + 4, theme);
    this.drawLoop(theme);
  }

  /** The clusters' numbers, or names, at their middles; of those that would lie on each other, the first. */
  drawNumbers(theme) {
    const { context } = this;
    const taken = [];
    context.font = '600 14px system-ui, sans-serif';
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    context.lineJoin = 'round';
    const first = this.picked >= 0 ? [this.picked] : [];
    for (const cluster of [...first, ...this.middles.keys()]) {
      const middle = this.middles[cluster];
      if (!middle || (this.picked >= 0 && cluster !== this.picked)) continue;
      const x = (middle[0] - this.left) * this.scale() + this.width / 2;
      const y = (1 - middle[1] - this.top) * this.scale() + this.height / 2;
      if (taken.some(([a, b]) => Math.abs(a - x) < 22 && Math.abs(b - y) < 16)) continue;
      taken.push([x, y]);
      context.strokeStyle = theme.paper;
      context.lineWidth = 4;
      const name = this.told.nameOf?.(cluster) ?? cluster;
      context.strokeText(name, x, y);
      context.fillStyle = theme.ink;
      context.fillText(name, x, y);
    }
  }

  ring(point, radius, theme) {
    this.context.beginPath();
    this.context.arc(this.screenX(point), this.screenY(point), radius, 0, 7);
    this.context.strokeStyle = theme.ink;
    this.context.lineWidth = 2;
    this.context.stroke();
  }

  drawLoop(theme) {
    if (this.loop.length < 2) return;
    const { context } = this;
    context.beginPath();
    for (const [x, y] of this.loop) context.lineTo(x, y);
    context.closePath();
    context.strokeStyle = theme.ink;
    context.lineWidth = 1.5;
    context.setLineDash([5, 4]);
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 0.06;
    context.fillStyle = theme.ink;
    context.fill();
    context.globalAlpha = 1;
  }

  // What the person does

  listen() {
    const { canvas } = this;
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.redraw());
    canvas.addEventListener('pointerdown', (event) => this.down(event));
    canvas.addEventListener('pointermove', (event) => this.move(event));
    canvas.addEventListener('pointerup', (event) => this.up(event));
    canvas.addEventListener('pointercancel', (event) => this.up(event));
    canvas.addEventListener('pointerleave', () => this.hover(-1, 0, 0));
    canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    canvas.addEventListener('keydown', (event) => this.key(event));
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    if (event.button > 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
    this.travelled = 0;
    this.hover(-1, 0, 0);
    const draws = this.pointers.size === 1 && (this.lassoing || event.shiftKey);
    this.loop = draws ? [this.at(event)] : [];
  }

  move(event) {
    const [x, y] = this.at(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.hover(this.nearest(x, y), x, y);
      return;
    }
    this.travelled += Math.abs(x - before[0]) + Math.abs(y - before[1]);
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const far = ([a, b]) => Math.hypot(a - other[0], b - other[1]) || 1;
      this.pan((x - before[0]) / 2, (y - before[1]) / 2);
      this.magnify(far([x, y]) / far(before), (x + other[0]) / 2, (y + other[1]) / 2);
    } else if (this.loop.length) {
      this.loop.push([x, y]);
      this.redrawTop();
    } else this.pan(x - before[0], y - before[1]);
    this.pointers.set(event.pointerId, [x, y]);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const { loop } = this;
    this.loop = [];
    const clicked = this.travelled < 6 && event.type === 'pointerup';
    if (clicked) {
      const point = this.nearest(...this.at(event));
      this.told.pick(point < 0 ? -1 : this.labels[point], point);
    } else if (loop.length > 2) this.told.select(this.inside(loop));
    this.redraw();
  }

  wheel(event) {
    if (!event.ctrlKey && document.activeElement !== this.canvas) return; // the page scrolls
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : 1;
    this.magnify(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), ...this.at(event));
  }

  key(event) {
    const actions = {
      ArrowLeft: () => this.pan(60, 0),
      ArrowRight: () => this.pan(-60, 0),
      ArrowUp: () => this.pan(0, 60),
      ArrowDown: () => this.pan(0, -60),
      '+': () => this.magnify(1.4),
      '=': () => this.magnify(1.4),
      '-': () => this.magnify(1 / 1.4),
      0: () => this.home(),
      Escape: () => this.told.pick(-1),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    actions[event.key]();
  }

  hover(point, x, y) {
    if (point !== this.hovered) this.redrawTop();
    this.hovered = point;
    this.told.hover(point, x, y);
  }
}
