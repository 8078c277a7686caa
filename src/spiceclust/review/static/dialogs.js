'use strict';
// Dialogs: one at a time above the page, closed by Escape, each with a title and buttons at its foot.

/**
 * Opens a dialog, and tells when it is closed.
 * @param title text or an element. @param body elements. @param buttons at its foot.
 * @param kind a class that says how wide it is. @param key what a key does in it; true if it did something.
 */
function openDialog({ title, body = [], buttons = [], kind = '', key = () => false }) {
  const heading = make('h3', { id: `dialog-title-${openDialog.count++}`, className: 'dialog-title' }, title);
  const foot = make('div', { className: 'dialog-foot' }, ...buttons);
  const dialog = make('dialog', { className: `sheet ${kind}`, 'aria-labelledby': heading.id },
    heading, make('div', { className: 'dialog-body' }, ...body), ...(buttons.length ? [foot] : []));
  dialog.addEventListener('keydown', (event) => {
    const typing = event.target.matches('input:not([type=range]), select, textarea') && event.key !== 'Escape';
    if (!event.defaultPrevented && !typing && key(event)) event.preventDefault();
    event.stopPropagation();
  });
  dialog.addEventListener('click', (event) => { // beside it
    if (event.target !== dialog) return;
    const box = dialog.getBoundingClientRect();
    const within = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
    if (!within && !dialog.classList.contains('firm')) dialog.close();
  });
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
openDialog.count = 0;

const dialogIsOpen = () => Boolean(document.querySelector('dialog[open]'));

/** A line in a dialog that says what went wrong. */
function complain(dialog, text) {
  dialog.querySelector('.complaint')?.remove();
  const line = make('p', { className: 'warning complaint', role: 'alert', textContent: text });
  dialog.querySelector('.dialog-body').after(line);
}

function closing(text = 'Cancel') {
  return button(text, (event) => event.target.closest('dialog').close(), { key: 'Esc', shortcut: 'Escape' });
}

/** Asks for a name of a cluster, and gives it on. */
function askName(cluster, done) {
  const input = make('input', { type: 'text', value: store.names[cluster] ?? '', maxLength: 80, autocomplete: 'off', id: 'name-input' });
  input.placeholder = `Cluster ${cluster}`;
  const accept = async () => {
    await done(input.value.trim()).then(() => dialog.close(), (error) => complain(dialog, error.message));
  };
  const dialog = openDialog({
    title: make('span', {}, 'Name ', label(cluster)),
    body: [
      make('label', { htmlFor: 'name-input', className: 'aside', textContent: 'Name' }), input,
      make('div', { className: 'strip-row' }, ...store.typical(cluster, 8).map((row) => sheets.thumb(row))),
    ],
    buttons: [closing(), button('Name it', accept, { key: 'Enter', kind: 'primary' })],
    kind: 'narrow',
  });
  input.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    event.preventDefault();
    accept();
  });
  input.select();
}
