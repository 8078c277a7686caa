'use strict';
// The page: what is in view, and what holds its parts together.

const view = { cluster: ALL, rows: null, title: '', back: null };
let grid = null;
let list = null;

function showCluster(cluster) {
  Object.assign(view, { cluster, rows: null, back: null });
  grid.show(rowsInView());
  afterShowing(cluster);
}

/** Shows images that are no cluster: those like one, or a selection of the map. */
function showRows(rows, title, selected = false) {
  const back = view.cluster ?? view.back;
  Object.assign(view, { cluster: undefined, rows, title, back });
  grid.show(rowsInView(), { select: selected ? rows : [] });
  afterShowing();
  if (byId('plane').hidden) grid.element.focus();
}

function afterShowing(cluster) {
  list.mark(cluster);
  showHead();
  refreshActions();
  followPlane();
}

function rowsInView() {
  return view.rows ?? store.ordered(store.rowsOf(view.cluster), byId('order').value);
}

/** The cluster before or after the one that is shown, in the order of the list. */
function showBeside(by) {
  const numbers = list.numbers();
  const here = numbers.indexOf(view.cluster ?? view.back);
  showCluster(numbers[Math.min(numbers.length - 1, Math.max(0, here + by))]);
}

function showHead() {
  const title = byId('view-title');
  if (view.rows) {
    const back = button(`Back to ${store.nameOf(view.back)}`, () => showCluster(view.back), { key: 'Esc', shortcut: 'Escape', kind: 'small' });
    title.replaceChildren(view.title, ' ', back);
  } else title.replaceChildren(view.cluster >= 0 ? label(view.cluster) : store.nameOf(view.cluster));
  byId('order').disabled = Boolean(view.rows);
  byId('view-size').textContent = counted(grid.rows.length, 'image');
  grid.element.dataset.empty = emptyWords();
}

function emptyWords() {
  if (view.cluster === NOWHERE) return 'Nothing yet. Select images and press X: they belong nowhere, and exports leave them out.';
  if (!store.read) return 'No image of this run could be read.';
  return view.rows ? 'No image is selected.' : 'No image is in this cluster.';
}

function afterChange() {
  if (view.cluster in store.merged) {
    let into = view.cluster;
    while (into in store.merged) into = store.merged[into];
    list.chosen = into;
    list.show();
    showCluster(into);
    return;
  }
  if (view.cluster >= store.nClusters) Object.assign(view, { cluster: ALL }); // a split was undone
  if (view.back >= store.nClusters) view.back = ALL;
  list.chosen = view.cluster;
  list.show();
  grid.show(rowsInView(), { keep: true });
  afterShowing(view.cluster);
}

function showOverview() {
  const { run } = store;
  document.title = `${run.name} · review`;
  byId('name').append(named(run.name));
  byId('source').append(named(run.source));
  if (!run.missing) return;
  byId('banner').replaceChildren(make('p', {}, make('strong', { textContent: 'No pictures: ' }), named(run.missing)));
  byId('banner').hidden = false;
}

async function start() {
  await store.open();
  grid = new ImageGrid('Images', {
    changed: () => { refreshActions(); followPlane(); },
    open: openImage,
    swatches: () => !(view.cluster >= 0),
  });
  grid.element.id = 'grid';
  byId('grid-place').append(grid.element);
  list = new ClusterList(byId('clusters'), byId('cluster-order'), showCluster);
  buildActions();
  showOverview();
  list.chosen = store.active.find((cluster) => store.sizes[cluster]) ?? ALL;
  list.show();
  showCluster(list.chosen);
  grid.element.focus({ preventScroll: true });
  store.addEventListener('change', afterChange);
  byId('order').addEventListener('change', () => showCluster(view.cluster));
  byId('size').addEventListener('input', (event) => grid.resize(Number(event.target.value)));
  byId('map-toggle').addEventListener('click', togglePlane);
  for (const bar of ['commands', 'cluster-actions', 'image-actions', 'history']) roving(byId(bar), 'button:not(:disabled)', true);
  document.addEventListener('keydown', keyInPage);
  document.documentElement.dataset.ready = 'true';
}

start().catch((error) => {
  if (!byId('banner').hidden) return;
  byId('banner').textContent = `The page could not be built: ${error.message}`;
  byId('banner').hidden = false;
});
