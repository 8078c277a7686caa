'use strict';
// Clusters against true classes, after `evaluate`.

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
    ['images with a label', scores.n?.toLocaleString('en') ?? '–'],
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
        cell.className = i === match ? 'right' : 'wrong';
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
