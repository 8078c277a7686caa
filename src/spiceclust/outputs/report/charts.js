'use strict';
// Small charts, as SVG.

const SVG = document.getElementById('blank').namespaceURI;

function drawn(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));

/** A curve over the steps of a training, with its first, lowest and last value. */
function lineChart(values, label) {
  const [width, height, left, right, top, bottom] = [360, 150, 44, 8, 10, 22];
  const low = Math.min(...values);
  const high = Math.max(...values);
  const span = high - low || 1;
  const x = (i) => left + (i / Math.max(1, values.length - 1)) * (width - left - right);
  const y = (value) => top + ((high - value) / span) * (height - top - bottom);
  const last = values[values.length - 1];
  const svg = drawn('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', class: 'chart' });
  svg.setAttribute('aria-label', `${label}: from ${short(values[0])} to ${short(last)}`);
  for (const value of new Set([high, (high + low) / 2, low])) {
    svg.append(
      drawn('line', { x1: left, x2: width - right, y1: y(value), y2: y(value), class: 'grid' }),
      drawn('text', { x: left - 8, y: y(value) + 4, class: 'tick end' }, short(value)),
    );
  }
  const path = values.map((value, i) => `${i ? 'L' : 'M'}${x(i).toFixed(1)},${y(value).toFixed(1)}`).join('');
  svg.append(
    drawn('path', { d: path, class: 'curve' }),
    drawn('circle', { cx: x(values.length - 1), cy: y(last), r: 3, class: 'dot' }),
    drawn('text', { x: left, y: height - 4, class: 'tick' }, 'start'),
    drawn('text', { x: width - right, y: height - 4, class: 'tick end' }, 'end'),
  );
  return svg;
}

/** Values of several heads on one line from `low` to `high`; the kept one filled. */
function stripChart(values, kept, low, high, label) {
  const [width, height, side, middle] = [360, 46, 12, 16];
  const x = (value) => side + ((value - low) / (high - low || 1)) * (width - 2 * side);
  const svg = drawn('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', class: 'chart' });
  const told = values.map((value) => value.toFixed(3)).join(', ');
  svg.setAttribute('aria-label', `${label}: ${told}; kept: ${kept === null ? 'none' : values[kept].toFixed(3)}`);
  svg.append(drawn('line', { x1: side, x2: width - side, y1: middle, y2: middle, class: 'grid' }));
  values.forEach((value, i) => {
    if (i !== kept) svg.append(drawn('circle', { cx: x(value), cy: middle, r: 5, class: 'ring' }));
  });
  if (kept !== null) svg.append(drawn('circle', { cx: x(values[kept]), cy: middle, r: 6, class: 'dot' }));
  svg.append(
    drawn('text', { x: side - 6, y: height - 4, class: 'tick' }, low.toFixed(2)),
    drawn('text', { x: width - side + 6, y: height - 4, class: 'tick end' }, high.toFixed(2)),
  );
  return svg;
}
