'use strict';
// "Review these": the images whose answer helps most, one by one; at the end, how pure the clusters are by the answers.

const TYPICAL = 14; // images of a cluster that are shown beside the question

async function askQuestions() {
  const found = await waitingFor('Review these', 'Looking for the images whose answer helps most…', () => api.get('questions'));
  if (!found) return;
  if (!found.rows.length) {
    openDialog({ title: 'Review these', kind: 'narrow', buttons: [closing('Close')],
      body: [make('p', { textContent: 'There is no image left to ask about: you have checked them all.' })] });
    return;
  }
  const asked = { ...found, at: 0, answers: new Map(), holder: make('div', { className: 'question', tabIndex: -1 }) };
  const foot = [
    button('Stop here', () => endQuestions(asked)),
    button('Back', () => goBack(asked), { key: '⌫', shortcut: 'Backspace' }),
    button('Skip', () => answer(asked, null), { key: 'Space' }),
    button('Belongs nowhere', () => answer(asked, NOWHERE), { key: 'X' }),
    button('Another…', () => answerOther(asked), { key: 'V' }),
    button('Next likely', () => answerSecond(asked), { key: 'N' }),
    button('Right', () => answer(asked, asked.first), { key: 'Enter', kind: 'primary' }),
  ];
  asked.dialog = openDialog({ title: '', body: [asked.holder], buttons: foot, kind: 'full firm', key: (event) => keyInQuestion(event, asked) });
  asked.dialog.addEventListener('cancel', (event) => {
    if (!asked.answers.size || asked.done) return;
    event.preventDefault(); // answers are not lost by one key
    endQuestions(asked);
  });
  for (const cluster of new Set(asked.rows.flatMap((row) => [store.labels[row], store.nextLikely(row)]))) {
    store.typical(cluster, TYPICAL).forEach((row) => sheets.thumb(row)); // they are there when they are asked about
  }
  showQuestion(asked);
}

function showQuestion(asked) {
  const row = asked.rows[asked.at];
  asked.first = store.labels[row];
  asked.second = store.nextLikely(row);
  const picture = make('img', { className: 'whole', alt: `Image ${row}`, src: `picture?row=${row}` });
  picture.addEventListener('load', () => picture.classList.toggle('tiny', Math.max(picture.naturalWidth, picture.naturalHeight) <= 64));
  picture.addEventListener('error', () => picture.replaceWith(make('p', { className: 'whole quiet missing', textContent: 'No picture.' })));
  const path = make('p', { className: 'quiet path' });
  store.path(row).then((text) => path.replaceChildren(named(text)));
  const bar = make('progress', { max: asked.rows.length, value: asked.at, 'aria-label': 'Answered' });
  asked.dialog.querySelector('.dialog-title').replaceChildren(`Image ${asked.at + 1} of ${asked.rows.length}`, bar);
  const said = asked.answers.get(row);
  asked.holder.replaceChildren(
    make('div', { className: 'asked-picture' }, picture, path),
    make('div', { className: 'candidates' },
      candidate('Is it', asked.first, said), ...(asked.second === asked.first ? [] : [candidate('or rather', asked.second, said)]),
      ...(said === undefined || said === asked.first || said === asked.second ? [] : [saidLine(said)])),
  );
  asked.holder.focus({ preventScroll: true });
  const next = asked.rows[asked.at + 1];
  if (next !== undefined) new Image().src = `picture?row=${next}`; // it is there when it is asked about
}

function saidLine(said) {
  return make('p', { className: 'quiet' }, 'You said: ', said === null ? 'skip' : label(said));
}

/** A cluster that the image may belong to, and what is typical of it. */
function candidate(words, cluster, said) {
  const typical = cluster === NOWHERE ? [] : store.typical(cluster, TYPICAL);
  const title = make('h4', {}, `${words} `, label(cluster), '?');
  return make('section', { className: `candidate ${said === cluster ? 'said' : ''}` }, title,
    make('div', { className: 'strip-row wide-strip' }, ...typical.map((row) => sheets.thumb(row))));
}

function keyInQuestion(event, asked) {
  if (asked.done || event.ctrlKey || event.metaKey || event.altKey) return false;
  const onButton = event.target.matches('button') && (event.key === 'Enter' || event.key === ' ');
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const act = {
    Enter: () => answer(asked, asked.first), y: () => answer(asked, asked.first), n: () => answerSecond(asked),
    x: () => answer(asked, NOWHERE), ' ': () => answer(asked, null), v: () => answerOther(asked),
    Backspace: () => goBack(asked), ArrowLeft: () => goBack(asked),
  }[key];
  if (onButton) return false;
  if (act) act();
  else if (isCluster(event.key)) answer(asked, Number(event.key));
  else return false;
  return true;
}

function answer(asked, cluster) {
  asked.answers.set(asked.rows[asked.at], cluster);
  asked.at++;
  if (asked.at < asked.rows.length) showQuestion(asked);
  else endQuestions(asked);
}

function answerOther(asked) {
  chooseCluster({ title: 'It belongs to', first: [asked.second], done: (cluster) => answer(asked, cluster) });
}

/** The runner-up, where it is another cluster: one that was merged or moved into may be its own. */
function answerSecond(asked) {
  if (asked.second !== asked.first) answer(asked, asked.second);
}

function goBack(asked) {
  asked.at = Math.max(0, asked.at - 1);
  showQuestion(asked);
}

/** Sends the answers that there are, and shows what they say of the clusters. */
async function endQuestions(asked) {
  const given = asked.rows.filter((row) => asked.answers.has(row)).map((row) => ({ row, cluster: asked.answers.get(row) }));
  const { dialog } = asked;
  if (!given.length) {
    dialog.close();
    say('Nothing was answered.');
    return;
  }
  asked.done = true;
  dialog.querySelector('.dialog-title').textContent = 'Your answers';
  asked.holder.replaceChildren(make('p', { className: 'quiet', role: 'status', textContent: 'Sending your answers…' }));
  const send = async () => {
    try {
      const { state, purity } = await api.post('answers', { batch: asked.batch, answers: given });
      store.take(state);
      const answered = given.filter(({ cluster }) => cluster !== null).length;
      say(`Took ${counted(answered, 'answer')}.`);
      dialog.querySelector('.complaint')?.remove();
      asked.holder.replaceChildren(...purityOf(purity, answered));
      setFoot(dialog, [closing('Close'), button('Learn from them', () => (dialog.close(), proposeLearning())), button('Review more', () => (dialog.close(), askQuestions()), { kind: 'primary' })]);
    } catch (error) {
      complain(dialog, error.message);
      setFoot(dialog, [closing('Throw them away'), button('Send again', send, { kind: 'primary' })]);
    }
  };
  setFoot(dialog, []);
  await send();
}

function setFoot(dialog, buttons) {
  dialog.querySelector('.dialog-foot').replaceChildren(...buttons);
  buttons.at(-1)?.focus();
}

const whole = (share) => `${Math.round(share * 100)}%`;

/** How many images are where they belong, by the answers, with what is 95% sure. */
function purityOf({ estimate, low, high, asked, clusters }, answered) {
  const found = [make('p', { className: 'quiet', textContent: `${counted(answered, 'answer')} taken.` })];
  if (estimate === null) return [...found, make('p', { textContent: 'There are too few answers to tell how pure the clusters are.' })];
  const certain = `between ${whole(low)} and ${whole(high)} with 95% certainty, by ${counted(asked, 'answer')} to images that were drawn at random.`;
  found.push(make('p', { className: 'purity' }, make('strong', { textContent: `About ${whole(estimate)}` }),
    make('span', { textContent: ` of the images are where they belong: ${certain}` })));
  const lines = make('tbody');
  for (const one of clusters) {
    const known = one.estimate !== null;
    lines.append(make('tr', {}, make('th', { scope: 'row' }, label(one.cluster)),
      make('td', { className: 'number', textContent: one.asked }),
      make('td', { className: 'number', textContent: known ? whole(one.estimate) : '–' }),
      make('td', {}, known ? interval(one) : ''),
      make('td', { className: 'number quiet', textContent: known ? `${whole(one.low)} to ${whole(one.high)}` : '' })));
  }
  const head = make('tr', {}, ...['cluster', 'asked', 'right', '', '95% interval'].map((text, i) =>
    make('th', { scope: 'col', textContent: text, className: i === 1 || i === 2 || i === 4 ? 'number' : '' })));
  if (clusters.length) found.push(make('div', { className: 'scroll' }, make('table', { className: 'purities' }, make('thead', {}, head), lines)));
  return found;
}

function interval({ estimate, low, high }) {
  const range = make('i', { className: 'range' });
  range.style.left = `${low * 100}%`;
  range.style.width = `${(high - low) * 100}%`;
  const point = make('i', { className: 'point' });
  point.style.left = `${estimate * 100}%`;
  return make('span', { className: 'interval', 'aria-hidden': 'true' }, range, point);
}
