'use strict';
// Talking to the server. Addresses are relative to the page's own, which holds the token.

/** What the server said was wrong with a request. */
class Refused extends Error {}

let goneAt = Infinity; // when the server was found gone, in ms of the page

const api = {
  get: (path, options) => answered(path, options),
  post: (path, body = {}) =>
    answered(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }),
};

/** The response to a request. Raises `Refused` with one line; shows the banner where the server is gone. */
async function reached(path, options = {}) {
  const begun = performance.now();
  let response = null;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    showGone();
    throw new Refused('The review has stopped: nothing was changed.');
  }
  if (begun > goneAt) {
    byId('banner').hidden = true;
    goneAt = Infinity;
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Refused(told.error ?? `The server answered ${response.status}.`);
}

async function answered(path, options) {
  return (await reached(path, options)).json();
}

function showGone() {
  const banner = byId('banner');
  const retry = make('button', { type: 'button', className: 'small', textContent: 'Try again' });
  retry.addEventListener('click', () => api.get('state').then((state) => store.take(state), () => {}));
  banner.replaceChildren(
    make('p', {}, make('strong', { textContent: 'The review has stopped.' }),
      ' All that you did up to now is kept. To go on, start it again and open the address that it prints: ',
      make('code', { textContent: store.run?.command ?? 'spiceclust review RUN' })),
    retry,
  );
  banner.hidden = false;
  goneAt = performance.now();
}
