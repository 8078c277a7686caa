'use strict';
// Where clusters lie on the map, and which of the ten colours each one has.

/** The middle of each cluster's points, 0 for a cluster without any. `points` are {x, y, labels}. */
function middlesOf({ x, y, labels }, clusters) {
  const members = Array.from({ length: clusters }, () => []);
  for (let i = 0; i < labels.length; i++) members[labels[i]]?.push(i);
  const median = (values) => values.sort()[values.length >> 1];
  return members.map((own) => own.length && [x, y].map((axis) => median(Float32Array.from(own, (i) => axis[i]))));
}

/** A number of a colour for each cluster: its own up to ten, beyond that one that only far clusters share. `known` ones stay. */
function coloursOf(middles, known = []) {
  const chosen = [];
  middles.forEach((middle, cluster) => {
    const distance = Array(10).fill(Infinity);
    if (cluster >= 10 && cluster >= known.length) {
      chosen.forEach((colour, other) => {
        const apart = middle && middles[other];
        const [dx, dy] = apart ? [middle[0] - apart[0], middle[1] - apart[1]] : [2, 2];
        distance[colour] = Math.min(distance[colour], dx * dx + dy * dy);
      });
    }
    chosen.push(known[cluster] ?? (cluster < 10 ? cluster : distance.indexOf(Math.max(...distance))));
  });
  return chosen;
}
