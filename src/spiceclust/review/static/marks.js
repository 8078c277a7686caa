'use strict';
// Small parts of the page: a cluster's name with its colour, bars, buttons with their keys.

/** What stands for a cluster in a line of text: its colour and its name, which is only ever text. */
function label(cluster) {
  const mark = cluster >= 0 ? swatch(cluster) : make('span', { className: 'swatch hollow', 'aria-hidden': 'true' });
  return make('span', { className: 'label' }, mark, named(store.nameOf(cluster)));
}

/** How much of a cluster was checked, is reliable, and is doubtful. */
function bars(cluster) {
  const size = store.sizes[cluster];
  const shares = { checked: store.checked[cluster], doubtful: store.doubtful[cluster] };
  const bar = make('span', { className: 'bars', 'aria-hidden': 'true' });
  for (const kind of ['checked', 'sure', 'doubtful']) {
    const count = shares[kind] ?? size - shares.checked - shares.doubtful;
    const part = make('i', { className: kind });
    part.style.flexGrow = count;
    if (count) bar.append(part);
  }
  return bar;
}

/** A share in percent that says 0 and 100 of nothing else. */
function shareOf(count, all) {
  if (!all) return '0%';
  return `${Math.min(count < all ? 99 : 100, Math.max(count ? 1 : 0, Math.round((count / all) * 100)))}%`;
}

/** A button with the key that does the same. `key` is what is shown, `shortcut` its name for screen readers. */
function button(text, action, { key = '', shortcut = key, kind = '', title = '' } = {}) {
  const found = make('button', { type: 'button', className: kind, title }, make('span', { textContent: text }));
  if (key) {
    found.append(make('kbd', { textContent: key, 'aria-hidden': 'true' }));
    found.setAttribute('aria-keyshortcuts', shortcut);
  }
  found.addEventListener('click', action);
  return found;
}

/** Makes a list of elements one stop of the tab key, walked through with the arrow keys. */
function roving(list, selector, across = false) {
  list.addEventListener('keydown', (event) => {
    const all = [...list.querySelectorAll(selector)];
    const here = all.indexOf(document.activeElement);
    const [back, on] = across ? ['ArrowLeft', 'ArrowRight'] : ['ArrowUp', 'ArrowDown'];
    const next = { [back]: here - 1, [on]: here + 1, Home: 0, End: all.length - 1 }[event.key];
    if (here < 0 || next === undefined || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    all[Math.min(all.length - 1, Math.max(0, next))].focus();
  });
  list.addEventListener('focusin', (event) => {
    const own = event.target.closest(selector);
    if (own) for (const one of list.querySelectorAll(selector)) one.tabIndex = one === own ? 0 : -1;
  });
}

/** An empty cell of a grid: its picture, the mark of its cluster, and the name that stands there without a picture. */
function makeCell() {
  return make('div', { className: 'cell', role: 'option' },
    make('canvas', { width: 1, height: 1, className: 'picture', 'aria-hidden': 'true', hidden: true }), make('span', {}),
    make('span', { className: 'name', 'aria-hidden': 'true' }));
}

function describeRow(row) {
  const checked = store.fixed[row] ? 'checked' : store.reliable[row] ? 'reliable' : 'doubtful';
  return `image ${row}, ${store.nameOf(store.labels[row])}, ${checked}, confidence ${store.confidence(row).toFixed(2)}`;
}

/** The name of a file in the place of its picture. */
async function tellName(cell, row) {
  const path = await store.path(row);
  if (cell.row === row) cell.lastChild.replaceChildren(named(path.split('/').pop()));
}
