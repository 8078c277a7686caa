'use strict';
// What is known of the run, and what the corrections so far make of it. Rows are numbers of images in the manifest.

const NOWHERE = -2; // the label of an image that belongs to no cluster
const NOT_READ = -1; // and of one that could not be read
const ALL = -3; // in the place of a cluster: every image
const PAGE_OF_PATHS = 256;

class Store extends EventTarget {
  constructor() {
    super();
    this.run = null;
    this.paths = new Map(); // by page
  }

  async open() {
    const [run, points, state] = await Promise.all([api.get('run'), api.get('points'), api.get('state')]);
    const shares = (text) => Float32Array.from(unpack(text, Uint16Array), (value) => value / 65535);
    this.run = run;
    this.confidence = shares(points.confidence);
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
    for (let row = 0; row < labels.length; row++) {
      const label = labels[row];
      if (label === NOWHERE) this.nowhere++;
      if (label < 0) continue;
      this.sizes[label]++;
      if (fixed[row]) this.checked[label]++;
      else if (!reliable[row]) this.doubtful[label]++;
    }
    this.active = [...this.sizes.keys()].filter((cluster) => !(cluster in this.merged));
    this.read = labels.reduce((sum, label) => sum + (label !== NOT_READ), 0);
    this.typicals = new Map();
  }

  /** The places of the rows on the map; null where the run has none. */
  axes() {
    return this.positions && axesOf(this.positions);
  }

  middles() {
    const axes = this.axes();
    return axes ? middlesOf({ ...axes, labels: this.labels }, this.nClusters) : Array(this.nClusters).fill(0);
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
    const { confidence, fixed, reliable } = this;
    if (order === 'file') return Int32Array.from(rows).sort();
    const doubt = (row) => (fixed[row] ? 4 : 0) + (reliable[row] ? 2 : 0) + confidence[row];
    const sure = (row) => -(reliable[row] ? 2 : 0) - confidence[row];
    const rank = Float64Array.from(rows, order === 'doubt' ? doubt : sure);
    const places = Uint32Array.from(rows, (_, k) => k).sort((a, b) => rank[a] - rank[b] || rows[a] - rows[b]);
    return Int32Array.from(places, (k) => rows[k]);
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
