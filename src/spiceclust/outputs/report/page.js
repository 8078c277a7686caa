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
const tiles = new Tiles(content.atlases, unpack(content.tiles, Int32Array));
let map = null;
const heats = new Map(); // point -> its values, where it has a map
if (content.heat) {
  const { side, points: heated, values } = content.heat;
  const bytes = unpack(values, Uint8Array);
  heated.forEach((point, i) => heats.set(point, bytes.subarray(i * side * side, (i + 1) * side * side)));
}

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
  const { gone, room } = content.without;
  const all = `of ${counted(counts.images, 'image')}`;
  if (content.missing) notes.push(`No pictures: ${content.missing}.`);
  else if (gone) notes.push(`${gone.toLocaleString('en')} ${all} have no picture: they changed or are gone.`);
  byId('notes').append(...notes.map((text) => note(text, 'warning')));
  if (!content.missing && room) {
    byId('notes').append(note(`${room.toLocaleString('en')} ${all} have no picture: there is room for so many; those on the cards come first.`, 'quiet'));
  }
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
      if (map.picked !== number) pick(number);
      byId('map').scrollIntoView();
      byId('canvas').focus({ preventScroll: true });
    });
    head.append(show);
  }
  const facts = make('p', { className: 'facts' }, meter(cluster.reliable), `${percent(cluster.reliable)} reliable`);
  facts.append(make('span', { className: 'quiet', textContent: `mean confidence ${cluster.confidence.toFixed(2)}` }));
  card.append(facts, figure('Typical', cluster.typical));
  if (cluster.doubtful.length) card.append(figure('Doubtful', cluster.doubtful));
  if (cluster.nearest !== null) {
    const between = figure(`Between ${number} and ${cluster.nearest}`, cluster.between);
    [...between.lastChild.children].forEach((tile, i) => tile.append(swatch(points.labels[cluster.between[i]])));
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

// What made it belong

function showHeat() {
  if (!heats.size) return;
  byId('heat-switch').hidden = false;
  byId('heat-switch').after(heatLegend());
  byId('heat').addEventListener('change', (event) => {
    byId('clusters').classList.toggle('heated', event.target.checked);
    if (!byId('cards').querySelector('.heat')) heatCards();
  });
}

function heatCards() {
  for (const card of byId('cards').children) {
    for (const picture of card.querySelector('.tiles')?.querySelectorAll('.picture') ?? []) { // the typical ones
      const values = heats.get(Number(picture.dataset.point));
      if (values) picture.after(heatOf(content.heat.side, values));
    }
  }
}

/** The large picture, and where there is a map a switch that lays it over. */
function heatedPicture(point) {
  const canvas = make('canvas', { className: 'large', 'aria-hidden': 'true' });
  tiles.draw(canvas, point);
  const part = make('div', { className: 'pictured' }, make('div', { className: 'laid' }, canvas));
  if (!heats.has(point)) return part;
  part.firstChild.append(heatOf(content.heat.side, heats.get(point)));
  const box = make('input', { type: 'checkbox', checked: byId('heat').checked });
  const show = () => part.classList.toggle('heated', box.checked);
  box.addEventListener('change', show);
  show();
  part.append(make('label', {}, box, ' What made it belong'), heatLegend());
  return part;
}

// One image

function openDetail(point) {
  const facts = [
    ['Cluster', points.labels[point]],
    ['Confidence', points.confidence[point].toFixed(3)],
    ['Next likely', points.runnersUp[point]],
    ['Reliable', points.reliable[point] ? 'yes: its neighbours agree' : 'no'],
  ].map(([name, value]) => make('div', {}, make('dt', { textContent: name }), make('dd', { textContent: value })));
  const close = make('button', { type: 'button', textContent: 'Close', autofocus: true });
  close.addEventListener('click', () => byId('detail').close());
  const path = make('h3', { id: 'detail-path' }, named(points.paths[point]));
  byId('detail').replaceChildren(heatedPicture(point), make('div', {}, path, make('dl', {}, ...facts), close));
  byId('detail').showModal();
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
  const groups = [];
  let before = null;
  for (const [stage, what, texts] of rows) {
    if (stage !== before) {
      groups.push(make('tbody', {}, make('tr', { className: 'stage-row' }, make('th', { colSpan: columns.length + 1, scope: 'rowgroup', textContent: stage }))));
    }
    before = stage;
    groups.at(-1).append(make('tr', {}, make('th', { scope: 'row', textContent: what }), ...texts.map((text) => make('td', { className: 'number', textContent: text || '–' }))));
  }
  const table = make('table', { className: 'plain scores' }, make('thead', {}, head), ...groups);
  const hint = note('Higher is better. How many neighbours are asked is no score.', 'quiet');
  return make('div', {}, make('h3', { textContent: 'Scores per stage' }), hint, make('div', { className: 'scroll' }, table));
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
  const { reasons, others, files } = content.quarantined;
  if (!files.length) {
    byId('quarantine').remove();
    return;
  }
  const why = make('ul', { className: 'reasons' });
  for (const [reason, count] of reasons) why.append(make('li', {}, `${counted(count, 'file')}: `, named(reason)));
  if (others) why.append(make('li', { textContent: `and ${counted(others, 'other reason')}` }));
  const lines = make('tbody');
  for (const [path, reason] of files) {
    lines.append(make('tr', {}, make('th', { scope: 'row' }, named(path)), make('td', { textContent: reason })));
  }
  const head = make('tr', {}, make('th', { scope: 'col', textContent: 'file' }), make('th', { scope: 'col', textContent: 'why' }));
  const table = make('table', { className: 'plain files' }, make('thead', {}, head), lines);
  body.append(why, make('div', { className: 'scroll tall', tabIndex: 0, role: 'region', 'aria-label': 'Files that were not read' }, table));
  const more = content.counts.quarantined - files.length;
  if (more) body.append(note(`and ${more.toLocaleString('en')} more in quarantine.csv`, 'quiet'));
}

function showLinks() {
  for (const section of document.querySelectorAll('main > header, main > section')) {
    const title = section.querySelector('h2')?.textContent ?? 'Overview';
    byId('links').append(make('a', { href: `#${section.id}`, textContent: title }));
  }
}

window.addEventListener('beforeprint', () => tiles.drawAll());
showOverview();
if (content.points.positions) buildMap();
else byId('map-body').append(note('This run was made before positions were kept. Give its fit command again to add them: finished stages are skipped.', 'quiet'));
showClusters();
showHeat();
showTruth();
showChoices();
showCurves();
showQuarantine();
showLinks();
document.documentElement.dataset.ready = 'true';
