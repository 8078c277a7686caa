'use strict';
// What a person can do to images and clusters, one at a time; and the buttons for it.

let acting = Promise.resolve(); // the last action: the next one waits for it

/** Says what an action did, or what went wrong. */
function say(text, wrong = false) {
  byId('told').textContent = text;
  byId('told').classList.toggle('wrong', wrong);
}

/** Sends a correction (`path` act, undo or redo), takes the new state and says what was done. Rejects if it was refused. */
async function perform(body, told, path = 'act') {
  const state = await api.post(path, body);
  store.take(state);
  say(told);
}

/** Does something after what is being done, and says what goes wrong. `work` reads the selection when its turn has come. */
function inTurn(work) {
  acting = acting.then(work).catch((error) => {
    if (!(error instanceof Refused)) throw error;
    say(error.message, true);
  });
  return acting;
}

/** Moves images to a cluster, marks them as of none, or confirms them. */
async function place(kind, rows, to = null) {
  if (!rows.length) return;
  const images = counted(rows.length, 'image');
  const told = {
    move: () => `Moved ${images} to ${store.nameOf(to)}.`,
    nowhere: () => `${images} ${rows.length === 1 ? 'belongs' : 'belong'} nowhere.`,
    confirm: () => `${images} ${rows.length === 1 ? 'is' : 'are'} right.`,
  }[kind]();
  await perform(kind === 'move' ? { do: kind, rows, to } : { do: kind, rows }, told);
}

/** The same for what is selected in the page; where that was one image, the next one is selected. */
function placeSelected(kind, to = null) {
  return inTurn(async () => {
    const rows = grid.chosen();
    if (!rows.length) return;
    const before = grid.rows.indexOf(rows[0]);
    await place(kind, rows, to);
    if (rows.length === 1) selectNext(rows[0], before);
  });
}

/** Selects the image after one that was at a place before it was put elsewhere, which may have left that place. */
function selectNext(row, before) {
  if (!grid.rows.length) return;
  const stays = grid.rows[before] === row;
  moveTo(grid, Math.max(0, Math.min(grid.rows.length - 1, before + (stays ? 1 : 0))));
  grid.reveal(grid.cursor);
}

function moveSelected() {
  const rows = grid.chosen();
  const here = new Set(rows.map((row) => store.labels[row]));
  const likely = tallied(rows.map((row) => store.nextLikely(row)));
  chooseCluster({
    title: `Move ${counted(rows.length, 'image')} to`,
    without: here.size === 1 ? [...here] : [],
    first: likely,
    done: async (to) => {
      const before = grid.rows.indexOf(rows[0]);
      await place('move', rows, to);
      if (rows.length === 1) selectNext(rows[0], before);
    },
  });
}

/** Values, the commonest first. */
function tallied(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
}

function mergeShown() {
  const from = view.cluster;
  chooseCluster({
    title: make('span', {}, 'Merge ', label(from), ' into'),
    without: [from],
    done: (into) => perform({ do: 'merge', clusters: [from], into }, `Merged ${store.nameOf(from)} into ${store.nameOf(into)}.`),
  });
}

function nameShown() {
  const { cluster } = view;
  askName(cluster, (name) =>
    perform({ do: 'name', cluster, name }, name ? `Cluster ${cluster} is called ${name}.` : `Cluster ${cluster} has no name.`));
}

function takeBack(path) {
  return inTurn(async () => {
    const what = store[path];
    if (what) await perform({}, `${path === 'undo' ? 'Undone' : 'Done again'}: ${what}.`, path);
  });
}

const someSelected = () => grid.selected.size > 0;
const clusterShown = () => view.cluster >= 0;

/** Everything that has a button and a key. */
const ACTIONS = [
  { where: 'cluster-actions', text: 'Name', key: 'N', shortcut: 'N F2', can: clusterShown, run: nameShown, help: 'name the cluster (also F2)' },
  { where: 'cluster-actions', text: 'Merge into…', key: 'M', can: () => clusterShown() && store.active.length > 1, run: mergeShown, help: 'merge the cluster into another' },
  { where: 'cluster-actions', text: 'Split', key: 'S', can: () => clusterShown() && store.sizes[view.cluster] > 1, run: () => proposeSplit(view.cluster), help: 'part the cluster in two; you see both halves first' },
  { where: 'image-actions', text: 'Move to…', key: 'V', can: someSelected, run: moveSelected, help: 'move the selected images to a cluster' },
  { where: 'image-actions', text: 'Belongs nowhere', key: 'X', can: someSelected, run: () => placeSelected('nowhere'), help: 'the selected images belong to no cluster' },
  { where: 'image-actions', text: 'Right as it is', key: 'C', can: someSelected, run: () => placeSelected('confirm'), help: 'the selected images are right where they are' },
  { where: 'history', text: 'Undo', key: 'Ctrl Z', shortcut: 'Control+Z', can: () => Boolean(store.undo), run: () => takeBack('undo'), what: () => store.undo },
  { where: 'history', text: 'Redo', key: 'Ctrl Y', shortcut: 'Control+Shift+Z Control+Y', can: () => Boolean(store.redo), run: () => takeBack('redo'), what: () => store.redo },
  { where: 'commands', text: 'Review these', key: 'R', kind: 'primary', can: () => true, run: askQuestions, help: 'go through the images whose answer helps most' },
  { where: 'commands', text: 'Learn', key: 'L', can: () => true, run: proposeLearning, help: 'learn from your corrections; you see first what would change', title: 'Learn from my corrections' },
  { where: 'commands', text: 'Export…', key: 'E', can: () => true, run: exportRun, help: 'write the images as they are sorted now' },
  { where: 'commands', text: 'Keys', key: '?', can: () => true, run: showKeys, help: 'this list' },
];

function buildActions() {
  for (const action of ACTIONS) {
    const { text, run, key, shortcut, kind = '', title = '' } = action;
    action.button = button(text, run, { key, shortcut, kind, title });
    byId(action.where).append(action.button);
  }
}

/** Says of each button whether it can be used now, and what it would take back. */
function refreshActions() {
  for (const { button: own, can, what, text } of ACTIONS) {
    own.disabled = !can();
    if (!what) continue;
    own.title = what() ? `${text}: ${what()}` : `There is nothing to ${text.toLowerCase()}`;
    own.setAttribute('aria-label', own.title);
  }
  byId('cluster-actions').hidden = !clusterShown();
  byId('selected').textContent = grid.selected.size ? `${grid.selected.size.toLocaleString('en')} selected` : 'Nothing selected';
}
