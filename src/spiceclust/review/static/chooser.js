'use strict';
// Choosing a cluster out of a list that can be searched.

const SHOWN = 60; // that match

/**
 * Opens the list.
 * @param title what the cluster is for. @param without clusters that cannot be chosen.
 * @param done takes the chosen one; what it rejects with is shown.
 */
function chooseCluster({ title, without = [], first = [], done }) {
  const input = make('input', { type: 'text', role: 'combobox', autocomplete: 'off', placeholder: 'Name or number' });
  input.setAttribute('aria-label', 'Search the clusters by name or number');
  input.setAttribute('aria-expanded', 'true');
  input.setAttribute('aria-controls', 'choices');
  const list = make('ul', { id: 'choices', role: 'listbox', 'aria-label': 'Clusters' });
  let found = [];
  let at = 0;
  const point = (place) => {
    at = Math.max(0, Math.min(place, found.length - 1));
    [...list.children].forEach((choice, i) => choice.setAttribute('aria-selected', String(i === at)));
    const choice = list.children[at];
    input.setAttribute('aria-activedescendant', found.length ? choice.id : '');
    if (found.length) choice.scrollIntoView({ block: 'nearest' });
  };
  const search = () => {
    found = matching(input.value, without, first);
    list.replaceChildren(...found.slice(0, SHOWN).map((cluster, i) => {
      const choice = make('li', { role: 'option', id: `choice-${cluster}` },
        label(cluster), make('span', { className: 'number quiet', textContent: store.sizes[cluster].toLocaleString('en') }),
        make('span', { className: 'strip-row' }, ...store.typical(cluster, 5).map((row) => sheets.thumb(row))));
      choice.addEventListener('click', () => accept(i));
      return choice;
    }));
    if (!found.length) list.replaceChildren(make('li', { className: 'quiet', textContent: 'No cluster is called so.' }));
    found = found.slice(0, SHOWN);
    point(0);
  };
  const accept = (place) => {
    if (place >= found.length) return;
    Promise.resolve(done(found[place])).then(() => dialog.close(), (error) => complain(dialog, error.message));
  };
  input.addEventListener('input', search);
  input.addEventListener('keydown', (event) => {
    const act = {
      ArrowDown: () => point(at + 1), ArrowUp: () => point(at - 1), PageDown: () => point(at + 8), PageUp: () => point(at - 8),
      Enter: () => accept(at),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  const dialog = openDialog({
    title, body: [input, list], kind: 'narrow chooser',
    buttons: [closing(), button('Choose', () => accept(at), { key: 'Enter', kind: 'primary' })],
  });
  search();
  input.focus();
}

/** The clusters whose name or number holds a text: those whose number it is first, then those that begin with it. */
function matching(text, without, first) {
  const wanted = text.trim().toLowerCase();
  const rank = (cluster) => {
    const name = store.nameOf(cluster).toLowerCase();
    if (String(cluster) === wanted || name === wanted) return 0;
    if (!wanted && first.includes(cluster)) return 1 + first.indexOf(cluster) / 100;
    if (name.startsWith(wanted)) return 2;
    return name.includes(wanted) ? 3 : Infinity;
  };
  return store.active
    .filter((cluster) => !without.includes(cluster) && rank(cluster) < Infinity)
    .sort((a, b) => rank(a) - rank(b) || a - b);
}
