// Asks the server, keeps what it said, and shows the screen that the address names.

import { events, get, post, Problem, remove, token } from './api.js';
import { dead } from './dead.js';
import { h, show } from './dom.js';
import { outages } from './outages.js';
import { overview } from './overview.js';
import { ask, pill } from './parts.js';
import { queue } from './queue.js';
import { settings } from './settings.js';
import { answers, connection, count, later, moment, underWay } from './words.js';

const SCREENS = { '': overview, queue, dead, outages, settings };
const TITLES = { '': 'Overview', queue: 'Queue', dead: 'Dead letters', outages: 'Outages', settings: 'Settings' };
const ROLES = ['reader', 'writer', 'operator'];
/** How often the state of things is asked for, events or not. */
const EVERY = 2000;
const SAMPLES_MAX = 720;
const EVENTS_MAX = 200;

const state = {
  me: null,
  status: null,
  outages: [],
  history: { at: [], writes: [], bytes: [], accepted_per_second: [], applied_per_second: [], latency_ms: [] },
  events: [],
  run: null,
  live: true,
  /** Since when the server does not answer, and why. */
  broken: null,
  said: null,
  needsToken: false,
  screen: { name: '', id: null, query: new URLSearchParams(), data: null, error: null },
  may: (role) => state.me !== null && ROLES.indexOf(state.me.role) >= ROLES.indexOf(role),
};

// ---- what operators do

state.act = {
  say(text, level = 'ok') {
    state.said = { text, level };
    document.getElementById('announce').textContent = text;
    paint();
  },
  post: (path, body, done, leave) => act(() => post(path, body), done, leave),
  remove: (path, done, leave) => act(() => remove(path), done, leave),
  resume: () => state.act.post('v1/queue/resume', {}, 'Delivery goes on'),
  async decide(decision) {
    const replay = decision === 'replay';
    const sure = await ask({
      title: replay ? 'Replay what the log still has?' : 'Skip what was applied before?',
      text: replay
        ? 'Everything that the log still has after the database’s position is applied again. What lies before stays missing.'
        : 'Only what was never applied is applied. What the database lacks stays missing.',
      action: replay ? 'Replay' : 'Skip',
      danger: true,
    });
    if (sure) await state.act.post('v1/queue/resume', { decision }, 'Delivery goes on');
  },
};

/** `leave`: the screen to go to when it is done, since there is nothing more to ask about what this one shows. */
async function act(send, done, leave) {
  try {
    const answer = await send();
    if (answer.failures) state.run = later(answer, state.run);
    state.act.say(done);
    if (leave) location.hash = leave;
    else await refresh();
    return true;
  } catch (error) {
    state.act.say(error.message, 'bad');
    return false;
  }
}

// ---- what the server says

async function refresh() {
  await Promise.all([general(), particular()]);
  paint();
}

async function general() {
  try {
    if (!state.me) state.me = await get('v1/me');
    const last = state.history.at.at(-1);
    const [status, reports, history] = await Promise.all([get('v1/queue'), get('v1/outages'), get(`v1/history${last ? `?after=${last}` : ''}`)]);
    announceChange(status);
    Object.assign(state, { status, outages: reports.outages, broken: null, needsToken: false });
    for (const column of Object.keys(state.history)) state.history[column] = [...state.history[column], ...history[column]].slice(-SAMPLES_MAX);
  } catch (error) {
    notAnswered(error);
  }
}

function notAnswered(error) {
  if (error instanceof Problem && error.status === 401) {
    if (token.has() && !state.me) state.said = { text: error.body.detail ?? error.message, level: 'bad' };
    token.forget();
    Object.assign(state, { me: null, needsToken: true });
  } else {
    state.broken ??= { since: new Date().toISOString() };
    state.broken.reason = error instanceof Problem ? error.message : 'The server does not answer.';
  }
}

/** Tells who cannot see the page when an answer has changed. */
function announceChange(status) {
  if (!state.status) return;
  const words = (status) => answers(status).map(([question, short]) => `${question} ${short}`);
  const before = words(state.status);
  const changed = words(status).filter((line, at) => line.replace(/\d.*/, '') !== before[at].replace(/\d.*/, ''));
  const database = state.status.database.state === status.database.state ? [] : [`Database: ${connection(status.database).word}`];
  if (changed.length + database.length) document.getElementById('announce').textContent = [...database, ...changed].join('. ');
}

const refused = ({ error }) => error instanceof Problem && error.status === 400;

async function particular() {
  const { screen } = state;
  const load = SCREENS[screen.name].load;
  // What the server could not search for, it cannot search for a little later.
  if (!load || state.needsToken || refused(screen)) return;
  if (!state.me) state.me = await get('v1/me').catch(() => null);
  if (!state.me) return;
  try {
    const data = await load(screen, state);
    if (state.screen === screen) Object.assign(screen, { data, error: null });
  } catch (error) {
    if (state.screen === screen) screen.error = error;
    if (error instanceof Problem && error.status === 401) notAnswered(error);
  }
}

async function listen() {
  for (;;) {
    const stop = new AbortController();
    state.stopListening = () => stop.abort();
    try {
      if (state.live && state.me) {
        for await (const event of events(stop.signal)) heard(event);
      }
    } catch {
      // The next round asks anew; `general` says what is wrong.
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

let soon = null;
let painting = null;

function heard(event) {
  if (event.event === 'dead_letter_run') state.run = later(event.run, state.run);
  if (!(event.event === 'dead_letter_run' && event.run.state === 'running')) state.events = [event, ...state.events].slice(0, EVENTS_MAX);
  // Thousands may come in a second: the page is painted once for all that came meanwhile.
  painting ??= requestAnimationFrame(() => {
    painting = null;
    paint();
  });
  soon ??= setTimeout(() => {
    soon = null;
    if (state.live) refresh();
  }, 250);
}

async function keepAsking() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, EVERY));
    if (state.live && !document.hidden) await refresh();
  }
}

// ---- what is shown

function paint() {
  document.title = title();
  show(document.getElementById('top'), top());
  const main = document.getElementById('main');
  const atHeading = document.activeElement.nodeName === 'H1';
  show(main, ...(state.needsToken ? [login()] : [notices(), screenNow()]));
  // The heading of a screen that waited for the server may have made way for another.
  if (atHeading && document.activeElement === document.body) toHeading();
}

function title() {
  const { name, id } = state.screen;
  const away = state.status && state.status.database.state !== 'connected' ? '● ' : '';
  return `${away}${SCREENS[name].title(id)} · Outlast`;
}

function top() {
  const { status, me } = state;
  const badge = { queue: status && !underWay(status) ? status.queue.writes : 0, dead: status?.accounting.dead };
  return [
    h('a', { class: 'brand', href: '#/', 'aria-label': 'Outlast: overview' }, h('img', { src: 'dashboard/icon.svg', alt: '', width: '28', height: '28' }), h('span', {}, 'Outlast')),
    h('nav', { 'aria-label': 'Screens' }, Object.entries(TITLES).map(([name, words]) =>
      h('a', { href: `#/${name}`, 'aria-current': state.screen.name === name && 'page' }, words, badge[name] ? h('span', { class: 'badge' }, count(badge[name])) : ''))),
    h('div', { class: 'right' },
      me && h('button', { class: 'button live', 'aria-pressed': String(!state.live), onclick: toggle }, h('span', { class: `dot ${state.live && !state.broken ? 'on' : ''}`, 'aria-hidden': 'true' }), state.live ? 'Live' : 'Paused'),
      me && h('span', { class: 'who' }, me.name === 'local' ? me.role : `${me.name} (${me.role})`),
      me && token.has() && h('button', { class: 'button', onclick: signOut }, 'Sign out')),
  ];
}

function toggle() {
  state.live = !state.live;
  if (!state.live) state.stopListening();
  state.act.say(state.live ? 'Live again' : `Paused: this is how things stood at ${moment(new Date().toISOString())}`);
  if (state.live) refresh();
}

function signOut() {
  token.forget();
  location.reload();
}

function notices() {
  return h('div', { class: 'notices' },
    state.broken && h('p', { class: 'notice bad', role: 'alert' }, `${state.broken.reason} What you see is from before ${moment(state.broken.since)}.`),
    state.said && h('p', { class: `notice ${state.said.level}` }, h('span', {}, state.said.text), h('button', { class: 'close', 'aria-label': 'Close this notice', onclick: () => { state.said = null; paint(); } }, '×')));
}

function screenNow() {
  const { screen } = state;
  const { load, view } = SCREENS[screen.name];
  const heading = h('h1', { tabindex: '-1' }, SCREENS[screen.name].title(screen.id));
  if (screen.error && !screen.data) return [heading, h('p', { class: 'lead' }, screen.error.message)];
  if (load && !screen.data) return [heading, h('p', { class: 'muted' }, 'Asking the server…')];
  const gone = screen.error instanceof Problem && screen.error.status === 404;
  const stale = gone ? 'It is decided: what you see is how it was.' : refused(screen) && `${screen.error.message} What you see is from before.`;
  return [stale && h('p', { class: 'notice warn', role: 'alert', 'data-key': 'stale' }, stale), view(state, screen.data, { ...screen, set })];
}

function login() {
  const enter = (event) => {
    event.preventDefault();
    const text = event.target.elements.token.value.trim();
    if (!text) return;
    // The server takes no others, and with some no request can be sent at all: then nothing would ask for another token.
    if (!/^[ -~]+$/.test(text)) {
      state.said = { text: 'This is no token: a character in it is not visible ASCII, perhaps a quotation mark that came along. Copy it again.', level: 'bad' };
      paint();
      event.target.elements.token.focus();
      return;
    }
    token.set(text);
    state.said = null;
    state.needsToken = false;
    refresh();
  };
  return h('form', { class: 'card login', onsubmit: enter },
    h('h1', { tabindex: '-1' }, 'Who are you?'),
    h('p', { class: 'muted' }, 'This server takes tokens. Yours is kept in this tab only, and forgotten when you close it.'),
    state.said && h('p', { class: 'notice bad', role: 'alert' }, state.said.text),
    h('p', { class: 'field' }, h('label', { for: 'token' }, 'Token'), h('input', { id: 'token', name: 'token', type: 'password', autocomplete: 'off', required: true })),
    h('p', { class: 'buttons' }, h('button', { class: 'button primary' }, 'Go on')));
}

// ---- where we are

function read() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
  const [name = '', id = null] = path.split('/').map(decodeURIComponent);
  return { name: name in SCREENS ? name : '', id: id || null, query: new URLSearchParams(query), data: null, error: null };
}

/** Changes one part of the filter; the address says it, so that it can be sent to somebody. */
function set(name, value) {
  const query = new URLSearchParams(state.screen.query);
  if (value) query.set(name, value);
  else query.delete(name);
  if (name !== 'after') query.delete('after');
  const text = query.toString();
  history.replaceState(null, '', `#/${state.screen.name}${text ? `?${text}` : ''}`);
  go();
}

async function go() {
  const [before, now] = [state.screen, read()];
  const moved = before.name !== now.name || before.id !== now.id;
  // A change of the filter keeps what stands there until the answer comes.
  if (!moved) now.data = before.data;
  state.screen = now;
  if (moved) state.said = state.said?.level === 'bad' ? null : state.said;
  paint();
  // At once: when the server has answered, somebody may be elsewhere on the page already.
  if (moved) {
    window.scrollTo(0, 0);
    toHeading();
  }
  await particular();
  paint();
}

/** A screen begins at its heading. */
function toHeading() {
  document.querySelector('h1')?.focus({ preventScroll: true });
}

document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  document.getElementById('main').focus();
});
window.addEventListener('hashchange', go);
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && state.live) refresh();
});
state.screen = read();
paint();
await refresh();
keepAsking();
// Who we are is known by now: events are heard from here on, not a second later.
listen();
