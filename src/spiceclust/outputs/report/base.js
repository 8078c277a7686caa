'use strict';
// What the scripts of a page build it with.

const byId = (id) => document.getElementById(id);

/** An element with properties, attributes (names with a dash, or `role`) and children; text is only ever text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role') element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** A name from outside, kept from turning the text around it. */
function named(text) {
  return make('bdi', { textContent: text });
}

function swatch(cluster) {
  return make('span', { className: `swatch c${colourOf(cluster)}`, 'aria-hidden': 'true' });
}

function note(text, kind = 'note') {
  return make('p', { className: kind, textContent: text });
}

function meter(share) {
  const bar = make('span', { className: 'meter', 'aria-hidden': 'true' }, make('span', {}));
  bar.firstChild.style.width = `${share * 100}%`;
  return bar;
}

const counted = (n, thing) => `${n.toLocaleString('en')} ${thing}${n === 1 ? '' : 's'}`;
const percent = (share) => `${Math.round(share * 100)}%`;

/** Numbers that were packed as base64 of little-endian integers. */
function unpack(text, Kind) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return new Kind(bytes.buffer);
}
