'use strict';
// Choosing images in a grid: by mouse, by touch and by keys, as file managers do.

function listenToGrid(grid) {
  const { element } = grid;
  element.addEventListener('click', (event) => {
    const place = placeOf(event);
    if (place < 0) return;
    if (event.shiftKey) extendTo(grid, place, event.ctrlKey || event.metaKey);
    else if (event.ctrlKey || event.metaKey || touched(event)) toggle(grid, place);
    else moveTo(grid, place);
  });
  element.addEventListener('dblclick', (event) => {
    const place = placeOf(event);
    if (place >= 0) grid.told.open?.(grid.rows[place]);
  });
  element.addEventListener('mousedown', (event) => {
    if (event.shiftKey) event.preventDefault(); // no text is selected
    element.focus({ preventScroll: true });
  });
  element.addEventListener('pointerover', async (event) => {
    const cell = event.target.closest('.cell');
    if (!cell || cell.title) return;
    const { place } = cell.dataset;
    const path = await store.path(grid.rows[place]);
    if (cell.dataset.place === place) cell.title = path;
  });
  element.addEventListener('keydown', (event) => keyInGrid(grid, event));
}

function placeOf(event) {
  const cell = event.target.closest('.cell');
  return cell ? Number(cell.dataset.place) : -1;
}

const touched = (event) => event.pointerType === 'touch';

/** The cursor goes to a place and selects it alone. */
function moveTo(grid, place) {
  grid.cursor = grid.anchor = place;
  grid.select([grid.rows[place]]);
}

function toggle(grid, place) {
  grid.cursor = grid.anchor = place;
  const chosen = new Set(grid.selected);
  if (!chosen.delete(grid.rows[place])) chosen.add(grid.rows[place]);
  grid.select(chosen);
}

/** Selects all from the anchor to a place; `added` to what is selected. */
function extendTo(grid, place, added = false) {
  grid.cursor = place;
  const [from, to] = [Math.min(grid.anchor, place), Math.max(grid.anchor, place)];
  const range = grid.rows.subarray(from, to + 1);
  grid.select(added ? [...grid.selected, ...range] : range);
}

function keyInGrid(grid, event) {
  if (event.altKey || !grid.rows.length) return;
  const control = event.ctrlKey || event.metaKey;
  const page = Math.max(1, Math.floor(grid.height / grid.pitch) - 1) * grid.columns;
  const last = grid.rows.length - 1;
  const steps = {
    ArrowRight: 1, ArrowLeft: -1, ArrowDown: grid.columns, ArrowUp: -grid.columns,
    PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity,
  };
  if (event.key in steps) {
    const wanted = grid.cursor + steps[event.key];
    const stays = Math.abs(steps[event.key]) === grid.columns && (wanted < 0 || wanted > last); // no line there
    const place = stays ? grid.cursor : Math.min(last, Math.max(0, wanted));
    if (event.shiftKey) extendTo(grid, place);
    else if (control) {
      grid.cursor = place;
      grid.markAll();
    } else moveTo(grid, place);
    grid.reveal(place);
  } else if (event.key === ' ') toggle(grid, grid.cursor);
  else if (event.key === 'Enter' && grid.told.open) grid.told.open(grid.rows[grid.cursor]);
  else if (event.key.toLowerCase() === 'a' && control) grid.select(grid.rows);
  else if (event.key === 'Escape' && grid.selected.size) grid.select([]);
  else return;
  event.preventDefault();
  event.stopPropagation();
}
