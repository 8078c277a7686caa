'use strict';
// The map beside the grid: a click shows the cluster of a point, a lasso selects images.

const LONGEST = 16; // signs of a name on the map
const plane = { map: null, stage: null, rows: null, points: null };

function togglePlane() {
  const shown = byId('plane').hidden;
  byId('plane').hidden = !shown;
  byId('work').classList.toggle('with-map', shown);
  byId('map-toggle').setAttribute('aria-pressed', String(shown));
  if (!shown) return;
  if (!plane.stage) openPlane();
  plane.stage?.canvas.focus({ preventScroll: true });
  followPlane();
}

function openPlane() {
  const axes = store.axes();
  if (!axes) {
    byId('plane').replaceChildren(note('This run was made before positions were kept. Give its fit command again to add them: finished stages are skipped.', 'quiet empty-note'));
    return;
  }
  plane.rows = store.rowsOf(ALL);
  plane.points = new Int32Array(store.run.n).fill(-1);
  plane.rows.forEach((row, point) => { plane.points[row] = point; });
  plane.stage = new MapStage();
  byId('plane').append(plane.stage.element, note('Click a point to see its cluster. Drag to move, hold Shift or press Lasso to select; once clicked, the wheel zooms.', 'quiet'));
  const [x, y] = [axes.x, axes.y].map((axis) => Float32Array.from(plane.rows, (row) => axis[row]));
  plane.map = plane.stage.open({ x, y, labels: labelsOfPoints() }, store.nClusters, {
    hover: tellPoint,
    pick: pickPoint,
    select: (points) => showRows(Int32Array.from(points, (point) => plane.rows[point]), 'Selected on the map', true),
    nameOf: (cluster) => shortened(store.names[cluster] ?? `${cluster}`),
  });
  plane.map.relabel(plane.map.labels, store.nClusters, store.colours);
}

const shortened = (name) => ([...name].length > LONGEST ? `${[...name].slice(0, LONGEST - 1).join('')}…` : name);
const labelsOfPoints = () => Int32Array.from(plane.rows, (row) => store.labels[row]);

function pickPoint(cluster, point = -1) {
  if (cluster === NOT_READ) { // beside all points
    if (view.cluster !== ALL) showCluster(ALL);
    else grid.select([]);
    return;
  }
  showCluster(cluster);
  const place = grid.rows.indexOf(plane.rows[point]);
  if (place < 0) return;
  moveTo(grid, place);
  grid.reveal(place);
}

/** The card beside a point, once its picture and its path have come. */
async function tellPoint(point, x, y) {
  const { stage } = plane;
  stage.tip.hidden = point < 0;
  if (point < 0) return;
  const row = plane.rows[point];
  const facts = `${store.nameOf(store.labels[row])} · confidence ${store.confidence(row).toFixed(2)}`;
  if (plane.told !== row) {
    plane.told = row;
    stage.tip.firstChild.replaceWith(sheets.thumb(row, 128));
    stage.tell(x, y, ' ', facts);
    const path = await store.path(row);
    if (plane.told === row) stage.tell(x, y, path, facts);
  } else stage.tell(x, y, stage.tip.children[1].textContent, facts);
}

/** Shows on the map what is chosen and what is selected. */
function followPlane(relabelled = false) {
  const { map } = plane;
  if (!map || byId('plane').hidden) return;
  if (relabelled || plane.version !== store.version) map.relabel(labelsOfPoints(), store.nClusters, store.colours);
  plane.version = store.version;
  map.picked = view.cluster >= 0 ? view.cluster : -1;
  const chosen = grid.chosen();
  map.select(chosen.map((row) => plane.points[row]).filter((point) => point >= 0));
}
