'use strict';
// Keys of the page, and the list of them.

function keyInPage(event) {
  if (event.defaultPrevented || event.altKey || dialogIsOpen() || !store.run) return;
  const control = event.ctrlKey || event.metaKey;
  const typing = event.target.matches?.('input[type=text], textarea, select');
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (typing && !control) return;
  if (control) {
    const path = { z: event.shiftKey ? 'redo' : 'undo', y: 'redo' }[key];
    if (!path) return;
    event.preventDefault();
    takeBack(path);
    return;
  }
  const action = ACTIONS.find((one) => one.key.toLowerCase() === key || (key === 'F2' && one.key === 'N'));
  if (action) {
    event.preventDefault();
    if (action.can()) action.run();
    else say(action.where === 'image-actions' ? 'Select images first.' : 'Show a cluster first.');
  } else if (key === 'g') {
    event.preventDefault();
    togglePlane();
  } else if (/^[0-9]$/.test(key)) {
    event.preventDefault();
    moveByDigit(Number(key));
  } else if (key === '[' || key === ']') {
    event.preventDefault();
    showBeside(key === '[' ? -1 : 1);
  } else if (key === 'Escape' && view.back !== null) showCluster(view.back);
}

function moveByDigit(cluster) {
  if (!store.active.includes(cluster)) say(`There is no cluster ${cluster}.`);
  else if (!grid.selected.size) say('Select images first.');
  else placeSelected('move', cluster);
}

const OTHER_KEYS = [
  ['In the grid', [
    ['← → ↑ ↓', 'walk; with Shift select up to there, with Ctrl without selecting'],
    ['Home End PgUp PgDn', 'walk further'],
    ['Space', 'select or not; so does Ctrl click'],
    ['Ctrl A', 'select all'], ['Esc', 'select nothing; go back'],
    ['Enter', 'open the image; so does a double click'],
    ['0 … 9', 'move the selected images to that cluster'],
  ]],
  ['Around it', [['[ ]', 'the cluster before, the next one'], ['G', 'the map'], ['Ctrl Z', 'undo'], ['Ctrl Y', 'redo (also Ctrl Shift Z)']]],
  ['In an image', [['← →', 'the one before, the next one'], ['H', 'heat map'], ['I', 'similar images'], ['V X C 0 … 9', 'as in the grid']]],
  ['In “Review these”', [
    ['Enter Y', 'right'], ['N', 'the next likely one'], ['0 … 9 V', 'another cluster'], ['X', 'belongs nowhere'],
    ['Space', 'skip'], ['⌫', 'one back'],
  ]],
];

function showKeys() {
  const own = ACTIONS.filter(({ help }) => help).map(({ key, help }) => [key, help]);
  const part = ([title, lines]) => make('section', {}, make('h4', { textContent: title }), make('dl', { className: 'keys' },
    ...lines.map(([keys, what]) => make('div', {}, make('dt', {}, ...keys.split(' ').map(keyMark)), make('dd', { textContent: what })))));
  openDialog({
    title: 'Keys', kind: 'wide', buttons: [closing('Close')],
    body: [make('div', { className: 'key-columns' }, ...[['Actions', own], ...OTHER_KEYS].map(part))],
  });
}

const keyMark = (key) => (key === '…' ? ' … ' : make('kbd', { textContent: key }));
