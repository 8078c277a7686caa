'use strict';
// Writing the images as they are sorted now.

const KINDS = {
  folders: 'a folder for each cluster',
  csv: 'a table, CSV',
  parquet: 'a table, Parquet',
  imagefolder: 'ImageFolder, for Hugging Face datasets',
  coco: 'COCO',
  labelstudio: 'Label Studio',
  fiftyone: 'FiftyOne',
};

function exportRun() {
  const kind = make('select', { id: 'export-kind' },
    ...store.run.kinds.map((name) => make('option', { value: name, textContent: KINDS[name] ?? name })));
  const name = make('input', { type: 'text', id: 'export-name', value: store.run.kinds[0], maxLength: 80, autocomplete: 'off' });
  let typed = false;
  name.addEventListener('input', () => { typed = true; });
  kind.addEventListener('change', () => { if (!typed) name.value = kind.value; });
  const result = make('div', { className: 'export-result', role: 'status' });
  const write = button('Export', async () => {
    dialog.querySelector('.complaint')?.remove();
    write.disabled = true;
    result.replaceChildren(make('p', { className: 'quiet', textContent: 'Writing…' }));
    try {
      result.replaceChildren(...written(await api.post('export', { kind: kind.value, to: name.value.trim() })));
    } catch (error) {
      result.replaceChildren();
      complain(dialog, error.message);
    }
    write.disabled = false;
  }, { key: 'Enter', kind: 'primary' });
  name.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    event.preventDefault();
    write.click();
  });
  const dialog = openDialog({
    title: 'Export',
    body: [
      make('div', { className: 'fields' },
        make('label', { htmlFor: 'export-kind', textContent: 'As' }), kind,
        make('label', { htmlFor: 'export-name', textContent: 'Folder' }), name),
      make('p', { className: 'quiet', textContent: 'It is written into the run, under review/exports. Images that belong nowhere are left out.' }),
      result,
    ],
    buttons: [closing('Close'), write],
    kind: 'narrow',
  });
  kind.focus();
}

function written({ folder, images, left_out: leftOut }) {
  const found = [make('p', {}, `${counted(images, 'image')} in `), make('pre', {}, make('code', {}, named(folder)))];
  if (leftOut) found.push(make('p', { className: 'quiet', textContent: `${counted(leftOut, 'image')} left out: see the list in the folder.` }));
  return found;
}
