'use strict';
// The page: everything it shows comes from the JSON in it.

const byId = (id) => document.getElementById(id);
const content = JSON.parse(byId('content').textContent);
byId('content').remove(); // the text of it; the pictures in it take megabytes

const points = {
  paths: content.points.paths,
  labels: unpack(content.points.labels, Uint16Array),
  runnersUp: unpack(content.points.runnersUp, Uint16Array),
  confidence: Float32Array.from(unpack(content.points.confidence, Uint16Array), (value) => value / 65535),
  reliable: unpack(content.points.reliable, Uint8Array),
};
const tiles = new Tiles(content.atlases, unpack(content.points.tiles, Int32Array));
const STRIP = 96; // pictures of a selection that are shown
let map = null;

const describe = (point) =>
  `${points.paths[point]}, cluster ${points.labels[point]}, confidence ${points.confidence[point].toFixed(2)}`;
const nameOf = (point) => points.paths[point].split('/').pop();
const colourOf = (cluster) => (map ? map.colours[cluster] : cluster % 10);

function swatch(cluster) {
  return make('span', { className: `swatch c${colourOf(cluster)}`, 'aria-hidden': 'true' });
}

function note(text, kind = 'note') {
  return make('p', { className: kind, textContent: text });
}

function command(text) {
  return make('code', { textContent: text });
}

// Overview

function showOverview() {
  const { counts } = content;
  byId('name').append(named(content.name));
  byId('source').append(named(content.source));
  const rows = [
    ['images', counts.images.toLocaleString('en')],
    ['clusters', counts.clusters.toLocaleString('en')],
    ['reliable', counts.images ? percent(counts.reliable / counts.images) : '–'],
    [counts.duplicates === 1 ? 'duplicate' : 'duplicates', counts.duplicates.toLocaleString('en')],
    ['not read', counts.quarantined.toLocaleString('en')],
  ];
  if (content.truth) rows.push(['accuracy', content.truth.scores.acc.toFixed(3)]);
  for (const [name, value] of rows) {
    byId('counts').append(make('div', {}, make('dt', { textContent: name }), make('dd', { textContent: value })));
  }
  const notes = [...content.warnings];
  if (counts.empty) notes.push(`${counted(counts.empty, 'cluster')} of ${counts.clusters} hold no image: ask for fewer.`);
  if (content.missing) notes.push(`No pictures: ${content.missing}.`);
  byId('notes').append(...notes.map((text) => note(text, 'warning')));
}

// Clusters

function meter(share) {
  const bar = make('span', { className: 'meter', 'aria-hidden': 'true' }, make('span', {}));
  bar.firstChild.style.width = `${share * 100}%`;
  return bar;
}

function figure(title, shown) {
  const row = tileRow(shown, tiles, { describe, nameOf, open: openDetail });
  row.setAttribute('aria-label', `${title}: ${counted(shown.length, 'image')}`);
  return make('div', { className: 'figure' }, make('h4', { textContent: title }), row);
}

function clusterCard(cluster, number) {
  const card = make('article', { className: 'card', id: `cluster-${number}`, 'aria-labelledby': `cluster-${number}-title` });
  const title = make('h3', { id: `cluster-${number}-title` }, swatch(number), `Cluster ${number}`);
  const head = make('div', { className: 'card-head' }, title);
  card.append(head);
  if (!cluster.size) {
    card.append(note('No image is in this cluster.', 'quiet'));
    return card;
  }
  head.append(make('span', { className: 'size', textContent: counted(cluster.size, 'image') }));
  const matched = content.truth?.rows.find((row) => row.cluster === number)?.match ?? null;
  if (matched !== null) title.append(make('span', { className: 'match' }, 'class ', named(content.truth.classes[matched])));
  if (map) {
    const show = make('button', { type: 'button', className: 'small', textContent: 'Show on map' });
    show.setAttribute('aria-label', `Show cluster ${number} on the map`);
    show.addEventListener('click', () => {
      pick(number);
      byId('map').scrollIntoView();
    });
    head.append(show);
  }
  const facts = make('p', { className: 'facts' }, meter(cluster.reliable), `${percent(cluster.reliable)} reliable`);
  facts.append(make('span', { className: 'quiet', textContent: `mean confidence ${cluster.confidence.toFixed(2)}` }));
  card.append(facts, figure('Typical', cluster.typical));
  if (cluster.doubtful.length) card.append(figure('Doubtful', cluster.doubtful));
  if (cluster.nearest !== null) {
    const between = figure(`Between ${number} and ${cluster.nearest}`, cluster.between);
    const link = make('a', { href: `#cluster-${cluster.nearest}`, textContent: `cluster ${cluster.nearest}` });
    between.firstChild.replaceChildren('Between this and ', link, ', the nearest');
    if (!cluster.between.length) between.lastChild.replaceWith(note('No image hesitates between the two.', 'quiet'));
    card.append(between);
  }
  return card;
}

const ORDERS = {
  number: () => 0,
  size: (a, b) => b.size - a.size,
  doubt: (a, b) => (a.reliable ?? 2) - (b.reliable ?? 2),
};

function showClusters() {
  const cards = content.clusters.map(clusterCard);
  byId('cards').append(...cards);
  byId('order').addEventListener('change', (event) => {
    const order = ORDERS[event.target.value];
    const numbers = [...cards.keys()].sort((a, b) => order(content.clusters[a], content.clusters[b]) || a - b);
    byId('cards').append(...numbers.map((number) => cards[number]));
  });
}

// One image

function openDetail(point) {
  const canvas = make('canvas', { className: 'large', 'aria-hidden': 'true' });
  tiles.draw(canvas, point);
  const facts = [
    ['Cluster', points.labels[point]],
    ['Confidence', points.confidence[point].toFixed(3)],
    ['Next likely', points.runnersUp[point]],
    ['Reliable', points.reliable[point] ? 'yes: its neighbours agree' : 'no'],
  ].map(([name, value]) => make('div', {}, make('dt', { textContent: name }), make('dd', { textContent: value })));
  const close = make('button', { type: 'button', textContent: 'Close' });
  close.addEventListener('click', () => byId('detail').close());
  const path = make('h3', { id: 'detail-path' }, named(points.paths[point]));
  byId('detail').replaceChildren(canvas, make('div', {}, path, make('dl', {}, ...facts), close));
  byId('detail').showModal();
}

// Map

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
  const panel = byId('selection');
  panel.replaceChildren();
  if (!chosen.length) {
    panel.append(
      make('h3', { textContent: 'Nothing selected' }),
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
  panel.append(
    make('h3', { textContent: `${counted(chosen.length, 'image')} in ${counted(sizes.size, 'cluster')}` }),
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
  const tip = byId('tip');
  tip.hidden = point < 0;
  if (point < 0) return;
  tiles.draw(tip.querySelector('canvas'), point);
  const [path, facts] = tip.querySelectorAll('p');
  path.replaceChildren(named(points.paths[point]));
  facts.textContent = `cluster ${points.labels[point]} · confidence ${points.confidence[point].toFixed(2)}`;
  const { width, height } = byId('canvas').getBoundingClientRect();
  tip.style.left = `${x > width / 2 ? x - tip.offsetWidth - 16 : x + 16}px`;
  tip.style.top = `${Math.min(Math.max(8, y - tip.offsetHeight / 2), height - tip.offsetHeight - 8)}px`;
}

function buildMap() {
  byId('placed').textContent = `Each point is an image, placed by ${content.placed} of the embeddings: near points look alike to the model.`;
  const places = unpack(content.points.positions, Uint16Array);
  const axis = (first) => Float32Array.from({ length: places.length / 2 }, (_, i) => places[2 * i + first] / 65535);
  const tools = make('div', { className: 'tools', role: 'toolbar', 'aria-label': 'Map' });
  const canvas = make('canvas', { id: 'canvas', tabIndex: 0, role: 'application' });
  canvas.setAttribute('aria-label', 'Map of all images. Arrow keys move it, plus and minus zoom, 0 shows all, Escape clears.');
  const tip = make('div', { id: 'tip', hidden: true }, make('canvas', { className: 'picture' }), make('p', {}), make('p', { className: 'quiet' }));
  const stage = make('div', { className: 'stage' }, canvas, tip, tools);
  const panel = make('div', { id: 'selection', 'aria-live': 'polite' });
  const legend = make('div', { id: 'legend', role: 'group', 'aria-label': 'Clusters' });
  const hint = note('Click a point to see its cluster. Drag to move, hold Shift to lasso; once clicked, the wheel zooms.', 'quiet');
  byId('map-body').append(legend, make('div', { className: 'map-grid' }, make('div', {}, stage, hint), panel));
  map = new ImageMap(canvas, { x: axis(0), y: axis(1), labels: points.labels }, content.counts.clusters, {
    hover: showHover, select: selectPoints, pick,
  });
  const tool = (text, label, action) => {
    const button = make('button', { type: 'button', textContent: text, 'aria-label': label, title: label });
    button.addEventListener('click', () => action(button));
    tools.append(button);
    return button;
  };
  const lasso = tool('Lasso', 'Lasso: draw around points', () => {
    map.lassoing = !map.lassoing;
    lasso.setAttribute('aria-pressed', String(map.lassoing));
    canvas.classList.toggle('lassoing', map.lassoing);
  });
  lasso.setAttribute('aria-pressed', 'false');
  tool('+', 'Zoom in', () => map.magnify(1.5));
  tool('−', 'Zoom out', () => map.magnify(1 / 1.5));
  tool('All', 'Show all', () => map.home());
  content.clusters.forEach((cluster, number) => {
    const chip = make('button', { type: 'button', className: 'chip', 'aria-pressed': 'false' }, swatch(number), `${number}`);
    chip.setAttribute('aria-label', `Cluster ${number}, ${counted(cluster.size, 'image')}`);
    chip.dataset.cluster = number;
    chip.addEventListener('click', () => pick(number));
    legend.append(chip);
  });
  showSelection([]);
}

// True labels

function showTruth() {
  const body = byId('truth-body');
  if (!content.truth) {
    body.append(note('This run was not compared with true labels. If you have some:', 'quiet'),
      make('pre', {}, command(`spiceclust evaluate RUN --labels FILE.csv\nspiceclust report RUN`)));
    return;
  }
  const { scores, classes, rows } = content.truth;
  const three = (value) => (value === null || value === undefined ? '–' : value.toFixed(3));
  const figures = [
    ['accuracy', three(scores.acc)], ['NMI', three(scores.nmi)], ['ARI', three(scores.ari)],
    ['right among reliable', three(scores.reliable_precision)], ['calibration error', three(scores.ece)],
    ['images with a label', scores.n.toLocaleString('en')],
  ];
  body.append(make('dl', { className: 'figures' }, ...figures.map(([name, value]) =>
    make('div', {}, make('dt', { textContent: name }), make('dd', { textContent: value })))));
  if (!rows.length) body.append(note('To see which classes are in which cluster, give the evaluate command again.', 'quiet'));
  else if (classes.length <= 60 && rows.length <= 60) body.append(confusionMatrix(classes, rows));
  else body.append(confusionList(classes, rows));
}

function confusionMatrix(classes, rows) {
  const head = make('tr', {}, make('th', { scope: 'col', className: 'corner', textContent: 'cluster' }));
  for (const name of classes) head.append(make('th', { scope: 'col' }, make('span', {}, named(name))));
  head.append(make('th', { scope: 'col', textContent: 'images' }));
  const table = make('table', { className: 'matrix' }, make('thead', {}, head));
  const lines = make('tbody');
  for (const { cluster, match, counts } of rows) {
    const size = Object.values(counts).reduce((sum, count) => sum + count, 0);
    const line = make('tr', {}, make('th', { scope: 'row' }, swatch(cluster), `${cluster}`));
    classes.forEach((_, i) => {
      const share = (counts[i] ?? 0) / size;
      const cell = make('td', { textContent: counts[i] ?? '' });
      if (counts[i]) {
        cell.className = `${i === match ? 'right' : 'wrong'}${share > 0.5 ? ' strong' : ''}`;
        cell.style.setProperty('--share', share.toFixed(3));
      }
      line.append(cell);
    });
    line.append(make('td', { className: 'sum', textContent: size.toLocaleString('en') }));
    lines.append(line);
  }
  table.append(lines);
  const caption = note('Rows are clusters, columns true classes, each cluster in the line of the class it matches best. The shade is the share of the cluster.', 'quiet');
  const scroll = make('div', { className: 'scroll', tabIndex: 0, role: 'region', 'aria-label': 'Clusters and true classes' }, table);
  return make('div', {}, caption, scroll);
}

function confusionList(classes, rows) {
  const table = make('table', { className: 'plain' }, make('thead', {}, make('tr', {},
    ...['cluster', 'matches', 'images', 'commonest classes'].map((text) => make('th', { scope: 'col', textContent: text })))));
  const lines = make('tbody');
  for (const { cluster, match, counts } of rows) {
    const ranked = Object.entries(counts).sort((a, b) => b[1] - a[1]);
    const common = make('td');
    ranked.slice(0, 4).forEach(([i, count], k) => common.append(k ? ', ' : '', named(classes[i]), ` ${count}`));
    lines.append(make('tr', {},
      make('th', { scope: 'row', textContent: cluster }),
      make('td', {}, match === null ? '–' : named(classes[match])),
      make('td', { className: 'number', textContent: ranked.reduce((sum, [, count]) => sum + count, 0).toLocaleString('en') }),
      common));
  }
  table.append(lines);
  return make('div', { className: 'scroll', tabIndex: 0, role: 'region', 'aria-label': 'Clusters and true classes' }, table);
}

// How it was made

function showChoices() {
  const body = byId('choices-body');
  const list = make('dl', { className: 'choices' });
  for (const [heading, sentence] of content.choices) {
    list.append(make('dt', { textContent: heading }), make('dd', {}, named(sentence)));
  }
  body.append(list);
  const parts = make('div', { className: 'halves' });
  if (content.scores.rows.length) parts.append(scoreTable(content.scores));
  if (content.heads.length) parts.append(headCharts(content.heads));
  body.append(parts);
}

function scoreTable({ columns, shipped, rows }) {
  const head = make('tr', {}, make('th', { scope: 'col', textContent: 'score, no label needed' }));
  columns.forEach((name, i) => head.append(make('th', { scope: 'col', className: 'number' }, name, ...(i === shipped ? [make('span', { className: 'tag', textContent: 'ships' })] : []))));
  const lines = make('tbody');
  let before = null;
  for (const [stage, what, texts] of rows) {
    if (stage !== before) lines.append(make('tr', { className: 'stage-row' }, make('th', { colSpan: columns.length + 1, scope: 'colgroup', textContent: stage })));
    before = stage;
    lines.append(make('tr', {}, make('th', { scope: 'row', textContent: what }), ...texts.map((text) => make('td', { className: 'number', textContent: text || '–' }))));
  }
  const table = make('table', { className: 'plain scores' }, make('thead', {}, head), lines);
  return make('div', {}, make('h3', { textContent: 'Scores per stage' }), make('div', { className: 'scroll' }, table));
}

function headCharts(heads) {
  const all = heads.flatMap(({ values }) => values);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const part = make('div', {}, make('h3', { textContent: 'Spread over heads' }),
    note('Share of neighbours that agree with a head’s labels; the head that was kept is filled.', 'quiet'));
  for (const { name, values, kept } of heads) {
    part.append(make('div', { className: 'strip' }, make('h4', { textContent: name }), stripChart(values, kept, low, high, name)));
  }
  return part;
}

function showCurves() {
  const body = byId('curves-body');
  if (!content.curves.length) {
    body.append(note('The folders of the stages, which hold the losses, are not beside this report.', 'quiet'));
    return;
  }
  const grid = make('div', { className: 'charts' });
  for (const { stage, name, values } of content.curves) {
    grid.append(make('div', { className: 'chart-card' },
      make('h3', { textContent: stage }), make('p', { className: 'quiet', textContent: name || ' ' }), lineChart(values, `${stage} ${name}`)));
  }
  body.append(grid);
}

// Not read

function showQuarantine() {
  const body = byId('quarantine-body');
  if (!content.quarantined.length) {
    body.append(note('Every file could be read.', 'quiet'));
    return;
  }
  const lines = make('tbody');
  for (const [path, reason] of content.quarantined) {
    lines.append(make('tr', {}, make('th', { scope: 'row' }, named(path)), make('td', { textContent: reason })));
  }
  const head = make('tr', {}, make('th', { scope: 'col', textContent: 'file' }), make('th', { scope: 'col', textContent: 'why' }));
  const table = make('table', { className: 'plain files' }, make('thead', {}, head), lines);
  body.append(make('div', { className: 'scroll tall', tabIndex: 0, role: 'region', 'aria-label': 'Files that were not read' }, table));
}

function showLinks() {
  for (const section of document.querySelectorAll('main > header, main > section')) {
    const title = section.querySelector('h2')?.textContent ?? 'Overview';
    byId('links').append(make('a', { href: `#${section.id}`, textContent: title }));
  }
}

showOverview();
if (content.points.positions) buildMap();
else byId('map-body').append(note('This run was made before positions were kept. Give its fit command again to add them: finished stages are skipped.', 'quiet'));
showClusters();
showTruth();
showChoices();
showCurves();
showQuarantine();
showLinks();
document.documentElement.dataset.ready = 'true';
