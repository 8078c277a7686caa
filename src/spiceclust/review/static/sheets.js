'use strict';
// Small pictures: sheets of up to 256 from the server, held as bitmaps, the oldest dropped when they take too much.

const COLUMNS = 16; // of a sheet
const SIDES = [32, 64, 128, 256];
const HELD_BYTES = 192e6;
const LANES = 3; // sheets that are asked for at once: the browser has six connections, and actions must not wait

class Sheets {
  constructor() {
    this.places = new Map(); // 'side/row' -> {sheet, x, y}
    this.sheets = []; // oldest first
    this.bytes = 0;
    this.waiting = [];
    this.running = 0;
    this.batch = null;
  }

  /** The side to ask for, of a picture that is shown so large, in CSS pixels. */
  sideFor(size) {
    const pixels = size * Math.min(2, window.devicePixelRatio || 1);
    return SIDES.find((side) => side >= pixels * 0.75) ?? SIDES.at(-1);
  }

  /** How many pictures a sheet of this side holds: large ones come in smaller parts, so that the first are soon there. */
  perSheet(side) {
    return { 128: 64, 256: 32 }[side] ?? 256;
  }

  has(row, side) {
    return this.places.has(`${side}/${row}`);
  }

  /** Draws a picture that is held; false where it is not. */
  draw(canvas, row, side) {
    const place = this.places.get(`${side}/${row}`);
    if (!place) return false;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext('2d');
    context.drawImage(place.sheet.image, place.x, place.y, side, side, 0, 0, side, side);
    return true;
  }

  /** Fetches the pictures of rows, when it is their turn. Rejects where that is aborted or refused. */
  load(rows, side, signal) {
    return new Promise((resolve, reject) => {
      this.waiting.push({ rows, side, signal, resolve, reject });
      this.pump();
    });
  }

  pump() {
    while (this.running < LANES && this.waiting.length) {
      const job = this.waiting.shift();
      if (job.signal?.aborted) {
        job.reject(new DOMException('scrolled past', 'AbortError'));
        continue;
      }
      this.running++;
      this.fetch(job).then(job.resolve, job.reject).finally(() => {
        this.running--;
        this.pump();
      });
    }
  }

  async fetch({ rows, side, signal }) {
    const response = await reached(`tiles?rows=${rows.join(',')}&side=${side}`, { signal });
    const image = await createImageBitmap(await response.blob());
    const sheet = { image, keys: rows.map((row) => `${side}/${row}`), bytes: image.width * image.height * 4 };
    sheet.keys.forEach((key, k) => {
      this.places.set(key, { sheet, x: (k % COLUMNS) * side, y: Math.floor(k / COLUMNS) * side });
    });
    this.sheets.push(sheet);
    this.bytes += sheet.bytes;
    while (this.bytes > HELD_BYTES && this.sheets.length > 1) this.drop(this.sheets.shift());
  }

  drop(sheet) {
    for (const key of sheet.keys) if (this.places.get(key)?.sheet === sheet) this.places.delete(key);
    this.bytes -= sheet.bytes;
    sheet.image.close();
  }

  /** A picture of its own, drawn when it has come; those asked for in one turn come in one sheet. */
  thumb(row, side = 64) {
    const canvas = make('canvas', { width: 1, height: 1, className: 'picture', 'aria-hidden': 'true' });
    if (store.run.missing || this.draw(canvas, row, side)) return canvas;
    if (!this.batch) {
      this.batch = [];
      queueMicrotask(() => this.loadBatch());
    }
    this.batch.push({ canvas, row, side });
    return canvas;
  }

  loadBatch() {
    const { batch } = this;
    this.batch = null;
    for (const side of new Set(batch.map((one) => one.side))) {
      const ofSide = batch.filter((one) => one.side === side);
      for (let start = 0; start < ofSide.length; start += this.perSheet(side)) {
        const part = ofSide.slice(start, start + this.perSheet(side));
        const rows = [...new Set(part.map(({ row }) => row))];
        this.load(rows, side).then(() => part.forEach(({ canvas, row }) => this.draw(canvas, row, side)), () => {});
      }
    }
  }
}

const sheets = new Sheets();
