'use strict';
// Which pictures a grid asks for: those around what is in view, once they stay there.

const SETTLED = 150; // ms that images are in view before their pictures are asked for: not while they fly past

class NearSheets {
  /** @param grid an `ImageGrid`; its rows come in blocks, one for each sheet. */
  constructor(grid) {
    this.grid = grid;
    this.pending = new Map(); // block -> AbortController
    this.since = new Map(); // block -> when it came near, in ms
    this.failed = new Set(); // blocks
  }

  /** Begins anew, with other rows. */
  forget() {
    for (const control of this.pending.values()) control.abort();
    this.pending.clear();
    this.since.clear();
    this.failed.clear();
  }

  /** Asks for what has been near for `wait` ms, what is in view first, and gives up what is near no longer. */
  look(wait = SETTLED) {
    if (store.run.missing || !this.grid.rows.length || !this.grid.height) return;
    const near = this.blocks(wait);
    for (const [block, control] of this.pending) {
      if (near.has(block)) continue;
      control.abort();
      this.pending.delete(block);
    }
    const now = performance.now();
    for (const block of this.since.keys()) if (!near.has(block)) this.since.delete(block);
    let early = false;
    for (const [block, long] of near) {
      if (!this.since.has(block)) this.since.set(block, now);
      if (now - this.since.get(block) < long) early = true;
      else if (!this.pending.has(block) && !this.failed.has(block)) this.fetch(block);
    }
    if (early) this.again ??= setTimeout(() => { this.again = null; this.look(); }, SETTLED);
  }

  /** The blocks in view, then a screen below, then one above, and how long each should have been near. */
  blocks(wait) {
    const { grid } = this;
    const per = sheets.perSheet(grid.side);
    const [first, end] = grid.places();
    const reach = end - first;
    const found = new Map();
    for (const [from, to, times] of [[first, end, 1], [end, end + reach, 2], [first - reach, first, 2]]) {
      const last = Math.min(to, grid.rows.length) - 1;
      for (let block = Math.floor(Math.max(0, from) / per); block <= Math.floor(last / per); block++) {
        if (!found.has(block)) found.set(block, times * wait);
      }
    }
    return found;
  }

  async fetch(block) {
    const { grid } = this;
    const { rows, side } = grid;
    const per = sheets.perSheet(side);
    const missing = [...rows.subarray(block * per, (block + 1) * per)].filter((row) => !sheets.has(row, side));
    if (!missing.length) return;
    const control = new AbortController();
    this.pending.set(block, control);
    try {
      await sheets.load(missing, side, control.signal);
    } catch {
      if (!control.signal.aborted) this.failed.add(block);
    }
    if (this.pending.get(block) === control) this.pending.delete(block);
    if (control.signal.aborted || side !== grid.side) return;
    for (const [place, cell] of grid.cells) {
      if (Math.floor(place / per) === block && cell.firstChild.hidden) grid.picture(cell);
    }
  }
}
