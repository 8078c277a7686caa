'use strict';
// A grid of images of any number: what is in view is in the page, and pictures are asked for where it scrolls.

const GAP = 4;
const SETTLED = 100; // ms that images are in view before their pictures are asked for: not while it flies past
const TALLEST = 12e6; // pixels that a browser scrolls through with ease; a taller grid scrolls faster than it shows

class ImageGrid {
  /**
   * @param name of the grid, for screen readers.
   * @param told {changed(), open(row), swatches(): whether each image shows its cluster}; each may be left out.
   * @param picks whether images can be selected.
   */
  constructor(name, told = {}, picks = true) {
    Object.assign(this, { told, picks });
    this.rows = new Int32Array(0);
    this.size = 96;
    this.selected = new Set(); // rows
    this.cursor = 0; // a place in `rows`
    this.anchor = 0;
    this.cells = new Map(); // place -> element
    this.spare = [];
    this.pending = new Map(); // block -> AbortController
    this.nearSince = new Map(); // block -> ms
    this.failed = new Set(); // blocks
    this.tall = make('div', { className: 'tall-inside', role: 'presentation' });
    this.element = make('div', { className: 'grid', tabIndex: 0, role: 'listbox' }, this.tall);
    this.element.setAttribute('aria-label', name);
    this.element.setAttribute('aria-multiselectable', 'true');
    this.element.addEventListener('scroll', () => this.later());
    new ResizeObserver(() => this.arrange()).observe(this.element);
    listenToGrid(this);
  }

  // What it shows

  /** Shows these rows, from the top; or, with `keep`, from where it is, with what is still there of the selection. */
  show(rows, { keep = false, select = [] } = {}) {
    this.rows = rows;
    this.abort();
    this.failed.clear();
    const chosen = keep ? this.selected : new Set(select);
    const here = new Set(rows);
    this.selected = new Set([...chosen].filter((row) => here.has(row)));
    this.cursor = keep ? Math.max(0, Math.min(this.cursor, rows.length - 1)) : 0;
    this.anchor = this.cursor;
    for (const place of this.cells.keys()) this.release(place);
    if (!keep) this.element.scrollTop = 0;
    this.arrange();
    this.told.changed?.();
  }

  resize(size) {
    const kept = this.places()[0] ?? 0;
    this.size = size;
    this.arrange();
    this.reveal(kept, true);
  }

  /** Lays the grid out again, after a change of its width, its size or its rows. */
  arrange() {
    const width = this.element.clientWidth - 2 * GAP;
    this.height = this.element.clientHeight;
    this.columns = Math.max(1, Math.floor((width + GAP) / (this.size + GAP)));
    this.pitch = (width + GAP) / this.columns;
    this.lines = Math.ceil(this.rows.length / this.columns);
    this.total = this.lines * this.pitch + GAP;
    this.tall.style.height = `${Math.min(TALLEST, this.total)}px`;
    this.side = sheets.sideFor(this.pitch);
    this.element.classList.toggle('empty', !this.rows.length);
    for (const place of this.cells.keys()) this.release(place);
    this.draw();
    this.fetchNear(0);
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  /** How far down the grid is, in pixels of all its lines, and how much further these lie than the scrolled place. */
  offset() {
    const shown = Math.min(TALLEST, this.total);
    const top = this.element.scrollTop;
    const real = shown > this.height ? (top / (shown - this.height)) * (this.total - this.height) : 0;
    return { real, shift: shown < this.total ? top - real : 0 };
  }

  /** The first and the last place in view, with some lines around it. */
  places(around = 0) {
    const { real } = this.offset();
    const first = Math.max(0, Math.floor(real / this.pitch) - around) * this.columns;
    const last = (Math.ceil((real + this.height) / this.pitch) + around) * this.columns;
    return [first, Math.min(this.rows.length, last)];
  }

  draw() {
    const [first, end] = this.places(2);
    const { shift } = this.offset();
    for (const place of this.cells.keys()) if (place < first || place >= end) this.release(place);
    for (let place = first; place < end; place++) {
      const cell = this.cells.get(place) ?? this.fill(place);
      cell.style.transform = `translate(${GAP + (place % this.columns) * this.pitch}px, ${GAP + Math.floor(place / this.columns) * this.pitch + shift}px)`;
    }
    this.pointOut();
    this.fetchNear();
  }

  fill(place) {
    const cell = this.spare.pop() ?? makeCell();
    const row = this.rows[place];
    const [canvas] = cell.children;
    cell.id = `${this.element.id || 'grid'}-${place}`;
    cell.dataset.place = place;
    cell.title = '';
    cell.style.width = cell.style.height = `${this.pitch - GAP}px`;
    cell.setAttribute('aria-posinset', place + 1);
    cell.setAttribute('aria-setsize', this.rows.length);
    cell.hidden = false;
    canvas.classList.toggle('none', !sheets.draw(canvas, row, this.side));
    if (!cell.parentNode) this.tall.append(cell);
    this.cells.set(place, cell);
    this.mark(place, cell);
    cell.lastChild.textContent = '';
    if (store.run.missing) tellName(cell, row);
    return cell;
  }

  release(place) {
    const cell = this.cells.get(place);
    this.cells.delete(place);
    cell.hidden = true;
    this.spare.push(cell);
  }

  /** What each image in view is: selected, under the cursor, checked. */
  markAll() {
    for (const [place, cell] of this.cells) this.mark(place, cell);
    this.pointOut();
  }

  mark(place, cell) {
    const row = this.rows[place];
    const shown = this.told.swatches?.() && store.labels[row] >= 0;
    cell.setAttribute('aria-selected', String(this.selected.has(row)));
    cell.setAttribute('aria-label', describeRow(row));
    cell.classList.toggle('cursor', place === this.cursor);
    cell.classList.toggle('is-checked', Boolean(store.fixed[row]));
    cell.classList.toggle('is-doubtful', !store.fixed[row] && !store.reliable[row]);
    cell.children[1].className = shown ? `swatch c${colourOf(store.labels[row])}` : 'swatch gone';
  }

  /** Tells screen readers where the cursor is. */
  pointOut() {
    if (this.cells.has(this.cursor)) this.element.setAttribute('aria-activedescendant', this.cells.get(this.cursor).id);
    else this.element.removeAttribute('aria-activedescendant');
  }

  // Pictures

  /** Asks for the sheets around what is in view, those in view first, once they stay there; gives up those that do not. */
  fetchNear(wait = SETTLED) {
    if (store.run.missing || !this.rows.length || !this.height) return;
    const per = sheets.perSheet(this.side);
    const [first, end] = this.places();
    const reach = end - first;
    const near = new Set();
    for (const [from, to] of [[first, end], [end, end + reach], [first - reach, first]]) {
      const last = Math.min(to, this.rows.length) - 1;
      for (let block = Math.floor(Math.max(0, from) / per); block <= Math.floor(last / per); block++) near.add(block);
    }
    for (const [block, control] of this.pending) {
      if (near.has(block)) continue;
      control.abort();
      this.pending.delete(block);
    }
    const now = performance.now();
    for (const block of this.nearSince.keys()) if (!near.has(block)) this.nearSince.delete(block);
    for (const block of near) {
      if (!this.nearSince.has(block)) this.nearSince.set(block, now);
      if (now - this.nearSince.get(block) < wait) this.again ??= setTimeout(() => { this.again = null; this.fetchNear(); }, SETTLED);
      else if (!this.pending.has(block) && !this.failed.has(block)) this.fetch(block, per);
    }
  }

  async fetch(block, per) {
    const { side } = this;
    const rows = this.rows.subarray(block * per, (block + 1) * per);
    const missing = [...rows].filter((row) => !sheets.has(row, side));
    if (!missing.length) return;
    const control = new AbortController();
    this.pending.set(block, control);
    try {
      await sheets.load(missing, side, control.signal);
    } catch {
      if (!control.signal.aborted) this.failed.add(block);
    }
    if (this.pending.get(block) === control) this.pending.delete(block);
    if (control.signal.aborted || side !== this.side) return;
    for (const [place, cell] of this.cells) {
      if (Math.floor(place / per) !== block) continue;
      const [canvas] = cell.children;
      if (canvas.classList.contains('none')) canvas.classList.toggle('none', !sheets.draw(canvas, this.rows[place], side));
    }
  }

  abort() {
    for (const control of this.pending.values()) control.abort();
    this.pending.clear();
  }

  // Where the cursor is

  /** Brings a place into view. */
  reveal(place, atTop = false) {
    const line = Math.floor(place / this.columns);
    const [above, below] = [line * this.pitch, (line + 1) * this.pitch + GAP];
    const { real } = this.offset();
    let wanted = real;
    if (atTop || above < real) wanted = above;
    else if (below > real + this.height) wanted = below - this.height;
    if (wanted === real) return;
    const shown = Math.min(TALLEST, this.total);
    this.element.scrollTop = wanted * (shown > this.height ? (shown - this.height) / (this.total - this.height) : 1);
    this.draw();
  }

  /** The rows that are selected, in the order of the grid. */
  chosen() {
    return this.selected.size ? [...this.rows].filter((row) => this.selected.has(row)) : [];
  }

  select(rows) {
    this.selected = new Set(this.picks ? rows : []);
    this.markAll();
    this.told.changed?.();
  }
}

function makeCell() {
  return make('div', { className: 'cell', role: 'option' },
    make('canvas', { width: 1, height: 1, className: 'picture', 'aria-hidden': 'true' }), make('span', {}),
    make('span', { className: 'name', 'aria-hidden': 'true' }));
}

function describeRow(row) {
  const checked = store.fixed[row] ? 'checked' : store.reliable[row] ? 'reliable' : 'doubtful';
  return `image ${row}, ${store.nameOf(store.labels[row])}, ${checked}, confidence ${store.confidence[row].toFixed(2)}`;
}

/** The name of a file in the place of its picture. */
async function tellName(cell, row) {
  const { place } = cell.dataset;
  const path = await store.path(row);
  if (cell.dataset.place === place) cell.lastChild.replaceChildren(named(path.split('/').pop()));
}
