'use strict';
// Small pictures: cut out of the atlases, shown as buttons in rows that the arrow keys walk through.

class Tiles {
  /**
   * @param atlases {columns, perAtlas, sheets: [{side, image}]}, the images base64 of WebP.
   * @param places for each point the number of its tile, -1 for none.
   */
  constructor(atlases, places) {
    this.columns = atlases.columns;
    this.perAtlas = atlases.perAtlas;
    this.places = places;
    this.sheets = atlases.sheets.map((sheet) => ({ side: sheet.side, source: sheet.image, image: null }));
    this.seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        this.seen.unobserve(target);
        this.draw(target, Number(target.dataset.point));
      }
    }, { rootMargin: '600px' });
  }

  has(point) {
    return this.places[point] >= 0;
  }

  /** A picture of a point that is drawn when it comes near the screen; an empty one where there is no tile. */
  picture(point) {
    const canvas = make('canvas', { width: 1, height: 1, className: 'picture', 'aria-hidden': 'true' });
    if (!this.has(point)) canvas.classList.add('none');
    else {
      canvas.dataset.point = point;
      canvas.classList.add('waiting');
      this.seen.observe(canvas);
    }
    return canvas;
  }

  /** Draws what has not come near the screen: paper shows it all. */
  drawAll() {
    for (const canvas of document.querySelectorAll('.waiting')) this.draw(canvas, Number(canvas.dataset.point));
  }

  /** Draws a point's tile into a canvas, at once if its sheet is decoded. */
  draw(canvas, point) {
    const place = this.places[point];
    canvas.dataset.point = point;
    canvas.classList.remove('waiting');
    canvas.classList.toggle('none', place < 0);
    if (place < 0) {
      canvas.width = canvas.height = 1;
      return;
    }
    const sheet = this.sheets[Math.floor(place / this.perAtlas)];
    const number = place % this.perAtlas;
    const x = (number % this.columns) * sheet.side;
    const y = Math.floor(number / this.columns) * sheet.side;
    this.decoded(sheet).then((image) => {
      if (Number(canvas.dataset.point) !== point) return; // it shows another one by now
      canvas.width = canvas.height = sheet.side;
      canvas.classList.toggle('tiny', sheet.side <= 16);
      canvas.getContext('2d').drawImage(image, x, y, sheet.side, sheet.side, 0, 0, sheet.side, sheet.side);
    });
  }

  decoded(sheet) {
    if (!sheet.image) {
      const image = new Image();
      image.src = `data:image/webp;base64,${sheet.source}`;
      sheet.source = null;
      sheet.image = image.decode().then(() => image);
    }
    return sheet.image;
  }
}

/**
 * A row of tiles as buttons: one stop of the tab key, walked through with the arrow keys.
 * @param describe what a point is, in words; `nameOf` what stands in a tile without a picture.
 */
function tileRow(points, tiles, { describe, nameOf, open }) {
  const row = make('div', { className: 'tiles', role: 'group' });
  points.forEach((point, i) => {
    const button = make('button', { type: 'button', className: 'tile', tabIndex: i ? -1 : 0, title: describe(point) });
    button.setAttribute('aria-label', describe(point));
    button.append(tiles.picture(point));
    if (!tiles.has(point)) button.append(make('span', { className: 'name', 'aria-hidden': 'true' }, named(nameOf(point))));
    button.addEventListener('click', () => open(point));
    row.append(button);
  });
  row.addEventListener('keydown', (event) => {
    const buttons = [...row.children];
    const here = buttons.indexOf(document.activeElement);
    const across = buttons.filter((button) => button.offsetTop === buttons[0].offsetTop).length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
    const next = buttons[here + step];
    if (here < 0 || !next) return;
    event.preventDefault();
    buttons[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  return row;
}
