'use strict';
// Around the map: its tools and clusters, what is hovered, and the list of what is selected.

const STRIP = 96; // pictures of a selection that are shown
let stage = null; // the map's

function pick(cluster) {
  const same = cluster === map.picked;
  map.pick(same ? -1 : cluster);
  for (const chip of byId('legend').children) {
    chip.setAttribute('aria-pressed', String(Number(chip.dataset.cluster) === map.picked));
  }
  const members = [];
  if (map.picked >= 0) for (let i = 0; i < points.labels.length; i++) if (points.labels[i] === map.picked) members.push(i);
  map.select([]);
  showSelection(members);
}

function selectPoints(chosen) {
  map.select(chosen);
  showSelection(chosen);
}

function showSelection(chosen) {
  const panel = byId('selection-body');
  const title = byId('selection-title');
  if (!chosen.length) {
    title.textContent = 'Nothing selected';
    panel.replaceChildren(
      note('Draw around points with the lasso, or choose a cluster. What you choose is listed here.', 'quiet'),
    );
    return;
  }
  const sizes = new Map();
  for (const point of chosen) sizes.set(points.labels[point], (sizes.get(points.labels[point]) ?? 0) + 1);
  const ranked = [...sizes].sort((a, b) => b[1] - a[1]);
  const list = make('ul', { className: 'chips' });
  for (const [cluster, size] of ranked.slice(0, 12)) {
    list.append(make('li', {}, swatch(cluster), `${cluster}`, make('span', { className: 'quiet', textContent: size.toLocaleString('en') })));
  }
  if (ranked.length > 12) list.append(make('li', { textContent: `and ${ranked.length - 12} more` }));
  const copy = make('button', { type: 'button', textContent: 'Copy paths' });
  copy.addEventListener('click', () => copyText(chosen.map((point) => points.paths[point]).join('\n'), copy));
  const clear = make('button', { type: 'button', textContent: 'Clear' });
  clear.addEventListener('click', () => pick(-1));
  const withPictures = chosen.filter((point) => tiles.has(point));
  const shown = (withPictures.length ? withPictures : chosen).slice(0, STRIP);
  const row = tileRow(shown, tiles, { describe, nameOf, open: openDetail });
  row.setAttribute('aria-label', 'Selected images');
  title.textContent = `${counted(chosen.length, 'image')} in ${counted(sizes.size, 'cluster')}`;
  panel.replaceChildren(
    list,
    make('div', { className: 'buttons' }, copy, clear),
    row,
  );
  if (chosen.length > shown.length) panel.append(note(`and ${(chosen.length - shown.length).toLocaleString('en')} more`, 'quiet'));
}

async function copyText(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no leave to use the clipboard: the old way
    const area = make('textarea', { value: text });
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = label; }, 1500);
}

function showHover(point, x, y) {
  stage.tip.hidden = point < 0;
  if (point < 0) return;
  tiles.draw(stage.tip.firstChild, point);
  stage.tell(x, y, points.paths[point], `cluster ${points.labels[point]} · confidence ${points.confidence[point].toFixed(2)}`);
}

function buildMap() {
  byId('placed').textContent = `Each point is an image, placed by ${content.placed} of the embeddings: near points look alike to the model.`;
  stage = new MapStage();
  const panel = make('div', { id: 'selection' },
    make('h3', {}, make('span', { id: 'selection-title', role: 'status' })), make('div', { id: 'selection-body' }));
  const legend = make('div', { id: 'legend', role: 'group', 'aria-label': 'Clusters' });
  const hint = note('Click a point to see its cluster. Drag to move, hold Shift to lasso; once clicked, the wheel zooms.', 'quiet');
  byId('map-body').append(legend, make('div', { className: 'map-grid' }, make('div', {}, stage.element, hint), panel));
  const axes = axesOf(unpack(content.points.positions, Uint16Array));
  map = stage.open({ ...axes, labels: points.labels }, content.counts.clusters, { hover: showHover, select: selectPoints, pick });
  content.clusters.forEach((cluster, number) => {
    const chip = make('button', { type: 'button', className: 'chip', 'aria-pressed': 'false' }, swatch(number), `${number}`);
    chip.setAttribute('aria-label', `Cluster ${number}, ${counted(cluster.size, 'image')}`);
    chip.dataset.cluster = number;
    chip.addEventListener('click', () => pick(number));
    legend.append(chip);
  });
  showSelection([]);
}
