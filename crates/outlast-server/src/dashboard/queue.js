// The writes that wait, one of them with all that is known, and an operator's hand on delivery.

import { get, getExact } from './api.js';
import { h } from './dom.js';
import { ask, card, code, facts, pill, table } from './parts.js';
import { count, counted, moment, what } from './words.js';

const PAGE = 200;

export const queue = {
  title: (id) => (id ? `Write ${id}` : 'Queue'),
  async load({ id, query }) {
    if (id) return { write: await getExact(`v1/queue/writes/${encodeURIComponent(id)}`) };
    const after = query.get('after');
    return get(`v1/queue/writes?limit=${PAGE}${after ? `&after=${encodeURIComponent(after)}` : ''}`);
  },
  view(state, data, { id, query, set }) {
    return id ? one(state, data.write) : list(state, data, query, set);
  },
};

function list(state, { writes, next }, query, set) {
  const [wanted, status] = [query.get('q') ?? '', query.get('status') ?? ''];
  const shown = writes.filter((write) =>
    (!status || write.status === status) &&
    (!wanted || `${write.id} ${what(write.operations)} ${write.reason?.message ?? ''}`.toLowerCase().includes(wanted.toLowerCase())));
  return [
    h('h1', { tabindex: '-1' }, 'Queue'),
    h('p', { class: 'lead' }, state.status?.queue.writes ? `${counted(state.status.queue.writes, 'write waits', 'writes wait')}, and will be applied in this order.` : 'Nothing waits: every accepted write is decided.'),
    delivery(state),
    writes.length > 0 && h('form', { class: 'filters', role: 'search', 'aria-label': 'Filter the writes on this page', onsubmit: (event) => event.preventDefault() },
      h('label', {}, 'Text', h('input', { type: 'search', value: wanted, placeholder: 'id, record, refusal', oninput: (event) => set('q', event.target.value) })),
      h('label', {}, 'Status', h('select', { onchange: (event) => set('status', event.target.value) },
        ['', 'pending', 'parked'].map((value) => h('option', { value, selected: value === status }, value || 'any')))),
      h('span', { class: 'muted' }, `${count(shown.length)} of ${counted(writes.length, 'write')} on this page`)),
    shown.length > 0 && table('Writes that wait', ['Write', 'What', 'Status', 'Accepted', 'Attempts', 'Last refusal'], shown.map((write) =>
      h('tr', { 'data-key': write.id },
        h('th', { scope: 'row' }, h('a', { href: `#/queue/${write.id}` }, write.id)),
        h('td', {}, what(write.operations)),
        h('td', {}, pill(write.status === 'parked' ? 'warn' : 'ok', write.status)),
        h('td', { class: 'nowrap' }, moment(write.accepted_at)),
        h('td', { class: 'number' }, count(write.attempts)),
        h('td', { class: 'long' }, write.reason?.message ?? '–')))),
    h('nav', { class: 'pages', 'aria-label': 'Pages' },
      query.get('after') && h('a', { class: 'button', href: '#/queue' }, 'First page'),
      next && h('button', { class: 'button', onclick: () => set('after', next) }, 'Next page')),
  ];
}

function delivery(state) {
  const { status } = state;
  if (!status) return null;
  const { lane, queue } = status;
  const words = { running: ['ok', 'Running'], paused: ['warn', lane.until ? `Paused until ${moment(lane.until)}` : 'Paused'], storm: ['bad', 'Held back'], halted: ['bad', 'Halted'] };
  const limit = queue.throttle ? `at most ${count(queue.throttle)} writes a second` : 'no limit of rate';
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

async function throttle(state) {
  const answer = await ask({
    title: 'Limit the rate of delivery',
    text: 'So that others get their share of the database while a backlog is drained.',
    action: 'Set the limit',
    fields: [{ name: 'rate', label: 'Writes a second (leave empty for no limit)', placeholder: '500' }],
  });
  if (!answer) return;
  await state.act.post('v1/queue/throttle', { writes_per_second: answer.rate === '' ? null : Number(answer.rate) }, 'The limit is set');
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
    card('Operations', null, code(write.operations, 'Operations as JSON')),
  ];
}

async function cancel(state, id) {
  const sure = await ask({ title: `Cancel write ${id}?`, text: 'It is then given up for good, although its caller was told that it is queued.', action: 'Cancel the write', danger: true });
  if (sure && (await state.act.remove(`v1/writes/${encodeURIComponent(id)}`, `Write ${id} is cancelled`))) location.hash = '#/queue';
}
