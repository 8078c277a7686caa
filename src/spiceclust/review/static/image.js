'use strict';
// One image, large: what is known of it, what made it belong to its cluster, and what looks like it.

/** Opens an image of the page's grid; the arrow keys go on to those beside it. */
function openImage(row) {
  const holder = make('div', { className: 'one-image' });
  const dialog = openDialog({
    title: 'Image', body: [holder], kind: 'image', buttons: [closing('Close')],
    key: (event) => keyInImage(event, one),
  });
  const one = { row, holder, dialog, heat: false };
  showImage(one, row);
}

function showImage(one, row) {
  const { holder, dialog } = one;
  one.row = row;
  const picture = make('img', { className: 'whole', alt: describeRow(row), src: `picture?row=${row}` });
  picture.addEventListener('load', () => picture.classList.toggle('tiny', Math.max(picture.naturalWidth, picture.naturalHeight) <= 64));
  picture.addEventListener('error', () => picture.replaceWith(make('p', { className: 'whole quiet missing', textContent: store.run.missing ? 'No picture: the images are not there any more.' : 'No picture: the file has changed or is gone.' })));
  one.frame = make('div', { className: 'picture-frame' }, picture);
  const facts = make('dl', {}, ...factsOf(row).map(([name, value]) => make('div', {}, make('dt', { textContent: name }), make('dd', {}, value))));
  const act = (kind) => () => placeOne(one, kind);
  one.toggle = button('Heat map', () => toggleHeat(one), { key: 'H' });
  one.toggle.setAttribute('aria-pressed', String(one.heat));
  const tools = make('div', { className: 'buttons' }, one.toggle, button('Similar images', () => showSimilar(one), { key: 'I' }));
  const moves = make('div', { className: 'buttons' }, button('Move to…', () => moveOne(one), { key: 'V' }),
    button('Belongs nowhere', act('nowhere'), { key: 'X' }), button('Right as it is', act('confirm'), { key: 'C' }));
  const steps = make('div', { className: 'buttons steps' }, button('Before', () => step(one, -1), { key: '←', shortcut: 'ArrowLeft' }),
    button('Next', () => step(one, 1), { key: '→', shortcut: 'ArrowRight' }));
  holder.replaceChildren(one.frame, make('div', { className: 'of-image' }, facts, tools, moves, steps, make('p', { className: 'heat-note quiet', role: 'status' })));
  const title = dialog.querySelector('.dialog-title');
  title.replaceChildren(`Image ${row}`);
  store.path(row).then((path) => one.row === row && title.replaceChildren(named(path)));
  if (one.heat) drawHeat(one);
}

function factsOf(row) {
  const found = [
    ['Cluster', label(store.labels[row])],
    ['Checked', store.fixed[row] ? 'yes, by you' : 'no'],
    ['Model', make('span', {}, `confidence ${store.confidence(row).toFixed(3)}, `, store.reliable[row] ? 'reliable: its neighbours agree' : 'doubtful')],
  ];
  if (store.nextLikely(row) !== store.labels[row]) found.push(['Next likely', label(store.nextLikely(row))]);
  if (store.status[row] === 1) found.push(['Copy', 'the same file is here more than once']);
  return found;
}

function keyInImage(event, one) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const act = {
    ArrowLeft: () => step(one, -1), ArrowRight: () => step(one, 1), h: () => toggleHeat(one), i: () => showSimilar(one),
    v: () => moveOne(one), x: () => placeOne(one, 'nowhere'), c: () => placeOne(one, 'confirm'),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act) act();
  else if (isCluster(event.key)) placeOne(one, 'move', Number(event.key));
  else return false;
  return true;
}

/** Whether a key is the number of a cluster that there is. */
const isCluster = (key) => /^[0-9]$/.test(key) && store.active.includes(Number(key));

function step(one, by) {
  const here = grid.rows.indexOf(one.row);
  const next = Math.min(grid.rows.length - 1, Math.max(0, here < 0 ? grid.cursor : here + by));
  if (!grid.rows.length || grid.rows[next] === one.row) return;
  moveTo(grid, next);
  grid.reveal(next);
  showImage(one, grid.rows[next]);
}

/** Says where the image belongs, and goes on to the next one. */
function placeOne(one, kind, to = null) {
  return inTurn(async () => {
    const before = grid.rows.indexOf(one.row);
    await place(kind, [one.row], to);
    afterPlacing(one, before);
  });
}

function afterPlacing(one, before) {
  if (!grid.rows.length) {
    one.dialog.close();
    return;
  }
  selectNext(one.row, before);
  showImage(one, grid.rows[grid.cursor]);
}

function moveOne(one) {
  chooseCluster({
    title: 'Move this image to', without: [store.labels[one.row]], first: [store.nextLikely(one.row)],
    done: async (to) => {
      const before = grid.rows.indexOf(one.row);
      await place('move', [one.row], to);
      afterPlacing(one, before);
    },
  });
}

async function showSimilar(one) {
  try {
    const rows = await api.get(`similar?row=${one.row}&k=200`);
    one.dialog.close();
    showRows(Int32Array.from(rows), `Similar to image ${one.row}`);
  } catch (error) {
    complain(one.dialog, error.message);
  }
}

// What made it belong to its cluster

function toggleHeat(one) {
  one.heat = !one.heat;
  one.toggle.setAttribute('aria-pressed', String(one.heat));
  one.frame.querySelector('.heat')?.remove();
  one.holder.querySelector('.heat-note').textContent = '';
  if (one.heat) drawHeat(one);
}

async function drawHeat(one) {
  const { row, frame } = one;
  const note = one.holder.querySelector('.heat-note');
  note.textContent = 'Looking…';
  try {
    const { side, values, cluster } = await api.get(`heat?row=${row}`);
    if (one.row !== row || !one.heat) return;
    const heat = heatOf(side, unpack(values, Uint8Array));
    const { naturalWidth: width, naturalHeight: height } = frame.querySelector('img') ?? {};
    heat.style.width = heat.style.height = `${(100 * Math.min(width, height)) / Math.max(width, height) || 100}%`; // the centre square
    frame.querySelector('.heat')?.remove();
    frame.append(heat);
    const some = unpack(values, Uint8Array).some((value) => value > 0);
    note.replaceChildren(`${some ? 'In colour: what' : 'Nothing in it'} speaks for ${store.nameOf(cluster)}. `, ...(some ? [heatLegend()] : []));
  } catch (error) {
    if (one.row === row) note.textContent = error.message;
  }
}
