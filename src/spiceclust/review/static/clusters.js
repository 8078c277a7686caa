'use strict';
// The list of clusters beside the images.

class ClusterList {
  /** @param told choose(cluster): a person chose one. */
  constructor(list, order, choose) {
    Object.assign(this, { list, order, choose, chosen: ALL });
    order.addEventListener('change', () => this.show());
    roving(list, 'button');
  }

  /** All clusters that are not merged away, in the order that is chosen, and what is not one. */
  numbers() {
    const doubt = (cluster) => store.doubtful[cluster] / Math.max(1, store.sizes[cluster]);
    const orders = {
      number: () => 0,
      size: (a, b) => store.sizes[b] - store.sizes[a],
      doubt: (a, b) => doubt(b) - doubt(a),
    };
    const sorted = [...store.active].sort((a, b) => orders[this.order.value](a, b) || a - b);
    return [ALL, ...sorted, ...(store.nowhere || this.chosen === NOWHERE ? [NOWHERE] : [])];
  }

  show() {
    const focused = this.list.contains(document.activeElement);
    const { scrollTop } = this.list;
    this.list.replaceChildren(...this.numbers().map((cluster) => make('li', {}, this.entry(cluster))));
    this.list.scrollTop = scrollTop;
    if (focused) this.list.querySelector('[aria-current="true"]')?.focus();
  }

  entry(cluster) {
    const size = store.sizeOf(cluster);
    const current = cluster === this.chosen;
    const entry = make('button', { type: 'button', className: 'entry', 'aria-current': String(current), tabIndex: current ? 0 : -1 });
    const line = make('span', { className: 'line' }, label(cluster));
    if (cluster >= 0 && cluster <= 9) line.append(make('kbd', { textContent: cluster, 'aria-hidden': 'true' }));
    line.append(make('span', { className: 'number', textContent: size.toLocaleString('en') }));
    entry.append(line);
    entry.dataset.cluster = cluster;
    entry.title = store.nameOf(cluster);
    let told = `${store.nameOf(cluster)}, ${counted(size, 'image')}`;
    if (cluster >= 0 && size) {
      const [doubt, checked] = [store.doubtful, store.checked].map((counts) => shareOf(counts[cluster], size));
      entry.append(bars(cluster), make('span', { className: 'line small quiet' },
        make('span', { textContent: `${doubt} doubtful` }), make('span', { textContent: `${checked} checked` })));
      told += `, ${doubt} doubtful, ${checked} checked`;
    }
    entry.setAttribute('aria-label', told);
    entry.addEventListener('click', () => this.choose(cluster));
    return entry;
  }

  /** Marks the cluster that is shown; `undefined` where what is shown is none. */
  mark(cluster) {
    this.chosen = cluster;
    for (const entry of this.list.querySelectorAll('.entry')) {
      const current = Number(entry.dataset.cluster) === cluster;
      entry.setAttribute('aria-current', String(current));
      entry.tabIndex = current ? 0 : -1;
    }
    if (cluster === undefined && this.list.querySelector('.entry')) this.list.querySelector('.entry').tabIndex = 0;
    this.list.querySelector('[aria-current="true"]')?.scrollIntoView({ block: 'nearest' });
  }
}
