'use strict';
// What would change, shown before it is accepted: a cluster in two halves, and what is learned from corrections.

/** A dialog that says what the server is at, until it has answered; null if the person closed it before that. */
async function waitingFor(title, text, work) {
  const dialog = openDialog({ title, body: [make('p', { className: 'quiet working', role: 'status', textContent: text })], buttons: [closing()], kind: 'narrow' });
  try {
    const found = await work();
    const open = dialog.open;
    dialog.close();
    return open ? found : null;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    dialog.querySelector('.working').remove();
    complain(dialog, error.message);
    return null;
  }
}

/** A grid of images in a dialog, which opens no image. */
function previewGrid(name, rows) {
  const shown = new ImageGrid(name, {}, false);
  shown.size = 64;
  shown.element.id = `preview-${previewGrid.count++}`;
  requestAnimationFrame(() => shown.show(Int32Array.from(rows)));
  return shown;
}
previewGrid.count = 0;

/** Buttons to accept what a dialog shows, or not. */
function acceptButtons(text, accept) {
  const yes = button(text, async (event) => {
    const dialog = event.target.closest('dialog');
    yes.disabled = true;
    await accept().then(() => dialog.close(), (error) => {
      yes.disabled = false;
      complain(dialog, error.message);
    });
  }, { key: 'Enter', kind: 'primary accept' });
  return [closing(), yes];
}

/** The key of `acceptButtons`: Enter, wherever in the dialog, but on another button. */
function acceptKey(event) {
  if (event.key !== 'Enter' || event.target.matches('button')) return false;
  event.currentTarget.querySelector('.accept').click();
  return true;
}

async function proposeSplit(cluster) {
  const found = await waitingFor(make('span', {}, 'Split ', label(cluster)), 'Looking for two halves…', () => api.post('split', { cluster }));
  if (!found) return;
  const leaving = new Set(found.rows);
  const staying = store.rowsOf(cluster).filter((row) => !leaving.has(row) && store.status[row] === 0);
  const half = (title, rows) => {
    const shown = previewGrid(title, store.ordered(rows, 'typical'));
    return make('section', { className: 'half' }, make('h4', {}, `${title}: ${counted(rows.length, 'image')}`), shown.element);
  };
  openDialog({
    title: make('span', {}, 'Split ', label(cluster), ' in two?'),
    body: [make('div', { className: 'two-halves' },
      half(`Stays in ${store.nameOf(cluster)}`, staying), half(`Becomes cluster ${store.nClusters}`, found.rows))],
    buttons: acceptButtons('Split', () => perform({ do: 'split', cluster, rows: found.rows },
      `Split ${counted(found.rows.length, 'image')} off ${store.nameOf(cluster)}, as cluster ${store.nClusters}.`)),
    kind: 'wide',
    key: acceptKey,
  });
}

async function proposeLearning() {
  const found = await waitingFor('Learn from my corrections', 'Learning from what you corrected: this takes some seconds…', () => api.post('learn'));
  if (!found) return;
  if (!found.rows.length) {
    const dialog = openDialog({ title: 'No image would change', kind: 'narrow', key: acceptKey,
      body: [make('p', { textContent: 'All images are where your corrections want them. Accept it if you mean to export the classifier, which then knows your corrections.' })],
      buttons: acceptButtons('Accept', () => perform({ do: 'learn', head: found.head }, 'Learned: no image changed.')) });
    dialog.querySelector('.accept').focus();
    return;
  }
  const images = counted(found.rows.length, 'image');
  const shown = previewGrid('Images that would change', found.rows);
  openDialog({
    title: `${images} would change`,
    body: [flowsOf(found, shown), shown.element],
    buttons: acceptButtons('Accept', () => perform({ do: 'learn', head: found.head }, `Learned: ${images} changed.`)),
    kind: 'wide',
    key: acceptKey,
  });
  shown.element.focus();
}

/** From which cluster to which images would go, the most first; each a button that shows those images alone. */
function flowsOf({ rows, from, to }, shown) {
  const flows = new Map();
  rows.forEach((row, i) => {
    const key = `${from[i]}>${to[i]}`;
    if (!flows.has(key)) flows.set(key, { from: from[i], to: to[i], rows: [] });
    flows.get(key).rows.push(row);
  });
  const list = make('div', { className: 'flows', role: 'group', 'aria-label': 'From which cluster to which' });
  const chip = (content, own) => {
    const found = make('button', { type: 'button', className: 'chip', 'aria-pressed': 'false' }, ...content);
    found.addEventListener('click', () => {
      for (const other of list.children) other.setAttribute('aria-pressed', String(other === found));
      shown.show(Int32Array.from(own));
    });
    list.append(found);
    return found;
  };
  chip(['All ', make('span', { className: 'count', textContent: rows.length.toLocaleString('en') })], rows).setAttribute('aria-pressed', 'true');
  for (const flow of [...flows.values()].sort((a, b) => b.rows.length - a.rows.length)) {
    const arrow = make('span', { textContent: '→', 'aria-label': 'to' });
    chip([label(flow.from), arrow, label(flow.to), make('span', { className: 'count', textContent: flow.rows.length.toLocaleString('en') })], flow.rows);
  }
  return list;
}
