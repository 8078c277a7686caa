'use strict';
// What is known of the run, and what the corrections so far make of it. Rows are numbers of images in the manifest.

const NOWHERE = -2; // the label of an image that belongs to no cluster
const NOT_READ = -1; // and of one that could not be read
const ALL = -3; // in the place of a cluster: every image
const PAGE_OF_PATHS = 256;
const STEPS = 65536; // of a confidence
const ROWS = 2 ** 32; // more than a run has

class Store extends EventTarget {
  constructor() {
    super();
    this.run = null;
    this.paths = new Map(); // by page
  }

  async open() {
    const [run, points, state] = await Promise.all([api.get('run'), api.get('points'), api.get('state')]);
    this.run = run;
    this.certainty = unpack(points.confidence, Uint16Array);
    this.reliable = unpack(points.reliable, Uint8Array);
    this.runnersUp = unpack(points.runnersUp, Uint16Array);
    this.status = unpack(points.status, Uint8Array);
    this.positions = points.positions && unpack(points.positions, Uint16Array);
    this.take(state);
  }

  /** Takes a state of the corrections, and tells that all has changed. */
  take(state) {
    const first = !this.labels;
    const labels = unpack(state.labels, Int32Array);
    Object.assign(this, {
      labels, fixed: unpack(state.fixed, Uint8Array), version: state.version, nClusters: state.nClusters,
      names: state.names, merged: state.merged, undo: state.undo, redo: state.redo,
    });
    this.tally();
    if (this.colours?.length !== state.nClusters) this.colours = coloursOf(this.middles(), this.colours);
    if (!first) this.dispatchEvent(new Event('change'));
  }

  tally() {
    const { labels, fixed, reliable, nClusters } = this;
    this.sizes = new Int32Array(nClusters);
    this.checked = new Int32Array(nClusters);
    this.doubtful = new Int32Array(nClusters);
    this.nowhere = 0;
    let unread = 0;
    for (let row = 0; row < labels.length; row++) {
      const label = labels[row];
      if (label === NOWHERE) this.nowhere++;
      if (label === NOT_READ) unread++;
      if (label < 0) continue;
      this.sizes[label]++;
      if (fixed[row]) this.checked[label]++;
      else if (!reliable[row]) this.doubtful[label]++;
    }
    this.active = [...this.sizes.keys()].filter((cluster) => !(cluster in this.merged));
    this.read = labels.length - unread;
    this.typicals = new Map();
  }

  /** The places of the rows on the map; null where the run has none. */
  axes() {
    return this.positions && axesOf(this.positions);
  }

  /** Where the clusters lie on the map, if that matters for their colours. */
  middles() {
    const axes = this.nClusters > 10 && this.axes();
    return axes ? middlesOf({ ...axes, labels: this.labels }, this.nClusters) : Array(this.nClusters).fill(0);
  }

  confidence(row) {
    return this.certainty[row] / (STEPS - 1);
  }

  nameOf(cluster) {
    if (cluster === NOWHERE) return 'Belongs nowhere';
    if (cluster === ALL) return 'All images';
    return this.names[cluster] ?? `Cluster ${cluster}`;
  }

  /** The cluster that a row would be in if not in its own: what the model found next likely, or what that was merged into. */
  nextLikely(row) {
    let cluster = this.runnersUp[row];
    while (cluster in this.merged) cluster = this.merged[cluster];
    return cluster;
  }

  sizeOf(cluster) {
    if (cluster === NOWHERE) return this.nowhere;
    return cluster === ALL ? this.read : this.sizes[cluster];
  }

  rowsOf(cluster) {
    const { labels } = this;
    const rows = new Int32Array(this.sizeOf(cluster));
    for (let row = 0, k = 0; row < labels.length; row++) {
      if (cluster === ALL ? labels[row] !== NOT_READ : labels[row] === cluster) rows[k++] = row;
    }
    return rows;
  }

  /** Rows in an order: `doubt` what nobody checked and is least sure first, `typical` the surest first, `file` by number. */
  ordered(rows, order) {
    const { certainty, fixed, reliable } = this;
    const ranks = {
      doubt: (row) => (fixed[row] * 4 + reliable[row] * 2) * STEPS + certainty[row],
      typical: (row) => (1 - reliable[row]) * STEPS + STEPS - 1 - certainty[row],
      file: () => 0,
    };
    const keys = new Float64Array(rows.length); // rank and row in one number: such arrays are sorted twenty times as fast
    for (let k = 0; k < rows.length; k++) keys[k] = ranks[order](rows[k]) * ROWS + rows[k];
    keys.sort();
    const found = new Int32Array(rows.length);
    for (let k = 0; k < rows.length; k++) found[k] = keys[k] % ROWS;
    return found;
  }

  /** The images that stand for a cluster: up to `count` of the surest, no two of the same content. */
  typical(cluster, count) {
    if (!this.typicals.has(cluster)) {
      const own = this.rowsOf(cluster).filter((row) => this.status[row] === 0);
      this.typicals.set(cluster, this.ordered(own, 'typical').subarray(0, 24));
    }
    return [...this.typicals.get(cluster).subarray(0, count)];
  }

  /** The path of an image, as text that can be shown. */
  async path(row) {
    const page = Math.floor(row / PAGE_OF_PATHS);
    const start = page * PAGE_OF_PATHS;
    if (!this.paths.has(page)) {
      const stop = Math.min(this.run.n, start + PAGE_OF_PATHS);
      this.paths.set(page, api.get(`paths?start=${start}&stop=${stop}`).catch(() => {
        this.paths.delete(page);
        return [];
      }));
    }
    return (await this.paths.get(page))[row - start] ?? `image ${row}`;
  }
}

const store = new Store();
const colourOf = (cluster) => store.colours[cluster];
