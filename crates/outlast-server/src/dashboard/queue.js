// The writes that wait, one of them with all that is known, and an operator's hand on delivery.

import { get, getExact } from './api.js';
import { h } from './dom.js';
import { ask, card, facts, operations, pill, table } from './parts.js';
import { count, counted, moment, what } from './words.js';

const PAGE = 200;
const FILTERS = ['collection', 'record', 'write', 'status', 'op', 'older_than'];
const OPERATIONS = ['create', 'put', 'patch', 'delete', 'statement'];
/** The server looks at a part of the queue for each answer: so many of them are asked for before somebody is asked to go on. */
const ANSWERS = 5;

const filterOf = (query) => Object.fromEntries(FILTERS.filter((name) => query.get(name)).map((name) => [name, query.get(name)]));

export const queue = {
  title: (id) => (id ? `Write ${id}` : 'Queue'),
  async load({ id, query }) {
    if (id) return { write: await getExact(`v1/queue/writes/${encodeURIComponent(id)}`) };
    return search(filterOf(query), query.get('after'));
  },
  view(state, data, { id, query, set }) {
    return id ? one(state, data.write) : list(state, data, query, set);
  },
};

/** A page of the writes that wait and match. */
export async function search(filter, after) {
  const writes = [];
  let next = after;
  for (let answers = 0; answers < ANSWERS && writes.length < PAGE; answers += 1) {
    const page = new URLSearchParams({ ...filter, limit: PAGE - writes.length });
    if (next) page.set('after', next);
    const answer = await get(`v1/queue/writes?${page}`);
    writes.push(...answer.writes);
    next = answer.next;
    if (!next) break;
  }
  return { writes, next };
}

function list(state, { writes, next }, query, set) {
  const filter = filterOf(query);
  const filtered = Object.keys(filter).length > 0;
  const field = (label, name, placeholder) => h('label', {}, label, h('input', { name, value: filter[name] ?? '', placeholder, autocomplete: 'off', onchange: (event) => set(name, event.target.value.trim()) }));
  const choice = (label, name, values) => h('label', {}, label, h('select', { name, onchange: (event) => set(name, event.target.value) },
    ['', ...values].map((value) => h('option', { value, selected: value === (filter[name] ?? '') }, value || 'any'))));
  return [
    h('h1', { tabindex: '-1' }, 'Queue'),
    h('p', { class: 'lead' }, state.status?.queue.writes ? `${counted(state.status.queue.writes, 'write waits', 'writes wait')}, and will be applied in this order.` : 'Nothing waits: every accepted write is decided.'),
    delivery(state),
    (filtered || writes.length > 0) && h('form', { class: 'filters', role: 'search', 'aria-label': 'Filter the writes that wait', onsubmit: (event) => event.preventDefault() },
      field('Collection', 'collection'),
      field('Record id', 'record'),
      field('Write id', 'write', '1-1'),
      choice('Operation', 'op', OPERATIONS),
      choice('Status', 'status', ['pending', 'parked']),
      field('Older than', 'older_than', '10m'),
      filtered && h('a', { class: 'button', href: '#/queue' }, 'Show all'),
      h('span', { class: 'muted' }, `${counted(writes.length, filtered ? 'match' : 'write', filtered ? 'matches' : 'writes')} on this page${next && writes.length < PAGE ? ' so far' : ''}`)),
    writes.length > 0 && table('Writes that wait', ['Write', 'What', 'Status', 'Accepted', 'Attempts', 'Last refusal'], writes.map((write) =>
      h('tr', { 'data-key': write.id },
        h('th', { scope: 'row' }, h('a', { href: `#/queue/${write.id}` }, write.id)),
        h('td', {}, what(write.operations)),
        h('td', {}, pill(write.status === 'parked' ? 'warn' : 'ok', write.status)),
        h('td', { class: 'nowrap' }, moment(write.accepted_at)),
        h('td', { class: 'number' }, count(write.attempts)),
        h('td', { class: 'long' }, write.reason?.message ?? '–')))),
    h('nav', { class: 'pages', 'aria-label': 'Pages' },
      query.get('after') && h('button', { class: 'button', onclick: () => set('after', '') }, 'First page'),
      next && h('button', { class: 'button', onclick: () => set('after', next) }, writes.length < PAGE ? 'Search further' : 'Next page')),
  ];
}

function delivery(state) {
  const { status } = state;
  if (!status) return null;
  const { lane, queue } = status;
  const words = { running: ['ok', 'Running'], paused: ['warn', lane.until ? `Paused until ${moment(lane.until)}` : 'Paused'], storm: ['bad', 'Held back'], halted: ['bad', 'Halted'] };
  const limit = queue.throttle ? `at most ${counted(queue.throttle, 'write')} a second` : 'no limit of rate';
  return card('Delivery', pill(...(words[lane.state] ?? ['warn', lane.state])),
    h('p', { class: 'muted' }, lane.message ?? `With ${limit}.`),
    state.may('operator') && h('p', { class: 'buttons' },
      lane.state === 'running' && h('button', { class: 'button', onclick: () => pause(state) }, 'Pause…'),
      (lane.state === 'paused' || lane.state === 'storm') && h('button', { class: 'button primary', onclick: () => state.act.resume() }, 'Resume'),
      lane.state === 'halted' && lane.halt !== 'fenced' && [
        h('button', { class: 'button', onclick: () => state.act.decide('replay') }, 'Replay…'),
        h('button', { class: 'button', onclick: () => state.act.decide('skip') }, 'Skip…'),
      ],
      h('button', { class: 'button', onclick: () => throttle(state) }, 'Limit the rate…')));
}

async function pause(state) {
  const answer = await ask({
    title: 'Pause delivery?',
    text: 'What is under way is finished; then every write is queued. Callers get 202 meanwhile.',
    action: 'Pause delivery',
    fields: [{ name: 'for', label: 'Go on by itself after (leave empty for never)', placeholder: '10m' }],
  });
  if (answer) await state.act.post('v1/queue/pause', answer.for ? { for: answer.for } : {}, 'Delivery is paused');
}

/** A limit as people write numbers, null for none. Nothing else may become null, since that lifts the limit. */
export function limitOf(text) {
  if (text === '') return null;
  // A comma stands before three digits: elsewhere it may be that of one and a half.
  const limit = /^\d+([_\s]\d+|,\d{3})*$/.test(text) ? Number(text.replace(/\D/g, '')) : 0;
  if (limit < 1 || !Number.isSafeInteger(limit)) throw new Error(`“${text}” is no limit. Write a whole number of at least 1, such as 500 or 1,000, or leave it empty for no limit.`);
  return limit;
}

async function throttle(state) {
  const answer = await ask({
    title: 'Limit the rate of delivery',
    text: 'So that others get their share of the database while a backlog is drained.',
    action: 'Set the limit',
    fields: [{ name: 'rate', label: 'Writes a second (leave empty for no limit)', placeholder: '500', read: limitOf }],
  });
  if (answer) await state.act.post('v1/queue/throttle', { writes_per_second: answer.rate }, answer.rate === null ? 'The limit is lifted' : 'The limit is set');
}

function one(state, write) {
  return [
    h('p', { class: 'crumbs' }, h('a', { href: '#/queue' }, 'Queue')),
    h('h1', { tabindex: '-1' }, `Write ${write.id}`),
    card('State', pill(write.status === 'parked' ? 'warn' : 'ok', write.status), facts([
      ['Does', what(write.operations)],
      ['Accepted', moment(write.accepted_at)],
      ['Place in the log', write.sequence],
      ['Refused attempts', count(write.attempts)],
      ['Last refusal', write.reason && `${write.reason.kind}: ${write.reason.message}`],
    ]),
    state.may('writer') && h('p', { class: 'buttons' }, h('button', { class: 'button danger', onclick: () => cancel(state, write.id) }, 'Cancel this write…'))),
    operations(state, write, `v1/queue/writes/${encodeURIComponent(write.id)}`),
  ];
}

async function cancel(state, id) {
  const sure = await ask({ title: `Cancel write ${id}?`, text: 'It is then given up for good, although its caller was told that it is queued.', action: 'Cancel the write', danger: true });
  if (sure) await state.act.remove(`v1/writes/${encodeURIComponent(id)}`, `Write ${id} is cancelled`, '#/queue');
}
