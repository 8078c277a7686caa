'use strict';
// A grid of images of any number: what is in view is in the page, and pictures are asked for where it scrolls.

const GAP = 4;
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
    this.real = 0; // how far down it is
    this.cells = new Map(); // place -> element
    this.spare = [];
    this.near = new NearSheets(this);
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
    const place = keep ? rows.indexOf(this.rows[this.cursor]) : 0;
    this.rows = rows;
    this.near.forget();
    const chosen = keep ? this.selected : new Set(select);
    const here = new Set(rows);
    this.selected = new Set([...chosen].filter((row) => here.has(row)));
    this.cursor = place >= 0 ? place : Math.max(0, Math.min(this.cursor, rows.length - 1));
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
    const side = sheets.sideFor(this.pitch);
    if (side !== this.side) this.near.forget();
    this.side = side;
    this.element.classList.toggle('empty', !this.rows.length);
    for (const place of this.cells.keys()) this.release(place);
    this.draw();
    this.near.look(0);
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
    const { real } = this;
    const first = Math.max(0, Math.floor(real / this.pitch) - around) * this.columns;
    const last = (Math.ceil((real + this.height) / this.pitch) + around) * this.columns;
    return [first, Math.min(this.rows.length, last)];
  }

  draw() {
    const { real, shift } = this.offset();
    this.real = real;
    const [first, end] = this.places(2);
    for (const place of this.cells.keys()) if (place < first || place >= end) this.release(place);
    for (let place = first; place < end; place++) {
      const cell = this.cells.get(place) ?? this.fill(place);
      const top = GAP + Math.floor(place / this.columns) * this.pitch + shift;
      if (cell.top === top && cell.at === place) continue;
      Object.assign(cell, { top, at: place });
      cell.style.transform = `translate(${GAP + (place % this.columns) * this.pitch}px, ${top}px)`;
    }
    for (const cell of this.spare) {
      cell.hidden = true;
      delete cell.dataset.place;
    }
    this.pointOut();
    this.near.look();
  }

  fill(place) {
    const cell = this.spare.pop() ?? makeCell();
    const row = this.rows[place];
    if (cell.hidden) cell.hidden = false;
    if (!cell.parentNode) this.tall.append(cell);
    if (cell.size !== this.pitch) cell.style.width = cell.style.height = `${this.pitch - GAP}px`;
    Object.assign(cell, { row, size: this.pitch, told: false });
    cell.dataset.place = place;
    this.cells.set(place, cell);
    this.picture(cell);
    this.mark(place, cell);
    if (store.run.missing) tellName(cell, row);
    return cell;
  }

  picture(cell) {
    const [canvas] = cell.children;
    const there = sheets.draw(canvas, cell.row, this.side);
    if (there === canvas.hidden) canvas.hidden = !there;
  }

  release(place) {
    this.spare.push(this.cells.get(place));
    this.cells.delete(place);
  }

  /** What each image in view is: selected, under the cursor, checked. */
  markAll() {
    for (const [place, cell] of this.cells) this.mark(place, cell);
    this.pointOut();
  }

  mark(place, cell) {
    const { row } = cell;
    const label = this.told.swatches?.() ? store.labels[row] : NOT_READ;
    const chosen = this.selected.has(row);
    const state = store.fixed[row] ? 'is-checked' : store.reliable[row] ? '' : 'is-doubtful';
    const kind = `cell ${state} ${place === this.cursor ? 'cursor' : ''}`;
    if (cell.className !== kind) cell.className = kind;
    if (cell.chosen !== chosen) cell.setAttribute('aria-selected', String(chosen));
    cell.chosen = chosen;
    const mark = label >= 0 ? `swatch c${colourOf(label)}` : 'swatch gone';
    if (cell.children[1].className !== mark) cell.children[1].className = mark;
    cell.told = false;
  }

  /** Tells screen readers where the cursor is, and, once it stays so, what each image in view is. */
  pointOut() {
    const cell = this.cells.get(this.cursor);
    if (cell) {
      this.describe(this.cursor, cell);
      this.element.setAttribute('aria-activedescendant', cell.id);
    } else this.element.removeAttribute('aria-activedescendant');
    clearTimeout(this.describing);
    this.describing = setTimeout(() => this.cells.forEach((one, place) => this.describe(place, one)), SETTLED);
  }

  describe(place, cell) {
    if (cell.told) return;
    cell.told = true;
    cell.id = `${this.element.id || 'grid'}-${place}`;
    cell.title = '';
    cell.setAttribute('aria-posinset', place + 1);
    cell.setAttribute('aria-setsize', this.rows.length);
    cell.setAttribute('aria-label', describeRow(cell.row));
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
