'use strict';
// Heat maps over pictures: what made an image belong to its cluster.

// From the least heat that is shown to the most. Lightness rises all along, so that no colour need be told apart.
const HEAT = [[74, 31, 140], [205, 52, 98], [252, 147, 40], [255, 240, 120]];

/** A canvas to lay over a picture, side × side values in 0 to 255: clear where nothing spoke for the cluster. */
function heatOf(side, values) {
  const canvas = make('canvas', { width: side, height: side, className: 'heat', 'aria-hidden': 'true' });
  const image = new ImageData(side, side);
  values.forEach((value, i) => {
    const share = value / 255;
    const at = Math.min(HEAT.length - 2, Math.floor(share * (HEAT.length - 1)));
    const part = share * (HEAT.length - 1) - at;
    const colour = HEAT[at].map((low, k) => low + (HEAT[at + 1][k] - low) * part);
    image.data.set([...colour, 190 * Math.min(1, share * 2)], 4 * i);
  });
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

/** What the colours mean. */
function heatLegend() {
  const strip = make('span', { className: 'heat-strip', 'aria-hidden': 'true' });
  return make('span', { className: 'heat-legend quiet' }, 'a little', strip, 'the most');
}
