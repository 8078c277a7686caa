'use strict';
// Points as pixels: several times as fast as the canvas draws so many discs.

const OUTLINED = 4000; // up to so many points have an outline, which parts those that lie on each other
const GREY = 10; // after the ten colours

/** Paints the points of an `ImageMap` into its `image`; those that are not picked or selected in grey, below the others. */
function paintPoints(map, size, theme) {
  const { width, height } = map.canvas;
  if (map.image?.width !== width || map.image?.height !== height) map.image = new ImageData(width, height);
  const pixels = map.image.data;
  const parse = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  const paper = parse(theme.paper);
  new Uint32Array(pixels.buffer).fill(new Uint32Array(Uint8Array.of(...paper, 255).buffer)[0]);
  const colours = [...theme.palette, theme.grey].map(parse);
  const stamp = stampOf(size * map.ratio, map.n <= OUTLINED ? map.ratio : 0);
  const scale = map.scale() * map.ratio;
  const [left, top] = [width / 2 - map.left * scale, height / 2 - map.top * scale];
  const greyed = (i) => (map.picked >= 0 && map.labels[i] !== map.picked) || (map.anySelected && !map.selected[i]);
  for (const grey of map.picked >= 0 || map.anySelected ? [true, false] : [false]) {
    for (const i of map.order) {
      if (greyed(i) !== grey) continue;
      const x = Math.round(left + map.x[i] * scale);
      const y = Math.round(top + (1 - map.y[i]) * scale);
      if (x < -stamp.reach || y < -stamp.reach || x > width + stamp.reach || y > height + stamp.reach) continue;
      const [red, green, blue] = colours[grey || map.labels[i] < 0 ? GREY : map.colours[map.labels[i]]];
      for (let k = 0; k < stamp.n; k++) {
        const column = x + stamp.dx[k];
        const row = y + stamp.dy[k];
        if (column < 0 || row < 0 || column >= width || row >= height) continue;
        const at = 4 * (row * width + column);
        const own = stamp.own[k];
        const rim = stamp.rim[k];
        const under = 1 - own - rim;
        pixels[at] = red * own + paper[0] * rim + pixels[at] * under;
        pixels[at + 1] = green * own + paper[1] * rim + pixels[at + 1] * under;
        pixels[at + 2] = blue * own + paper[2] * rim + pixels[at + 2] * under;
      }
    }
  }
}

/** The pixels of a disc and its rim, in device pixels, and how much each covers of them. */
function stampOf(radius, rim) {
  const reach = Math.ceil(radius + rim);
  const found = { reach, dx: [], dy: [], own: [], rim: [] };
  const covered = (distance, within) => Math.min(1, Math.max(0, within + 0.5 - distance));
  for (let dy = -reach; dy <= reach; dy++) {
    for (let dx = -reach; dx <= reach; dx++) {
      const own = covered(Math.hypot(dx, dy), radius);
      const all = covered(Math.hypot(dx, dy), radius + rim);
      if (!all) continue;
      found.dx.push(dx);
      found.dy.push(dy);
      found.own.push(own);
      found.rim.push(all - own);
    }
  }
  return { ...found, own: Float64Array.from(found.own), rim: Float64Array.from(found.rim), n: found.dx.length };
}
