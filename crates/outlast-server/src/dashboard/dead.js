// Dead letters: first the groups, since a thousand letters rarely have more than a few reasons; then the list.

import { download, get, getExact, post, postJson, Problem } from './api.js';
import { h } from './dom.js';
import { ask, card, compose, facts, operations, pill, table } from './parts.js';
import { search } from './queue.js';
import { count, counted, later, moment, pretty, SUGGESTION, what } from './words.js';

const PAGE = 50;
/** Reasons of parked writes that are shown. */
const PARKED_MAX = 10;
const FILTERS = ['kind', 'message', 'collection'];

const filterOf = (query) => Object.fromEntries(FILTERS.filter((name) => query.get(name)).map((name) => [name, query.get(name)]));
const params = (filter) => new URLSearchParams(filter).toString();
const linkTo = (filter) => `#/dead?${params(filter)}`;

export const dead = {
  title: (id) => (id ? `Dead letter ${id}` : 'Dead letters'),
  async load({ id, query }, { status }) {
    if (id) return { letter: await getExact(`v1/dead-letters/${encodeURIComponent(id)}`) };
    const filter = filterOf(query);
    const page = new URLSearchParams({ ...filter, limit: PAGE });
    if (query.get('after')) page.set('after', query.get('after'));
    // The groups are those of everything, so that a filter can be changed.
    const [all, matching, runs, parked] = await Promise.all([
      Object.keys(filter).length ? get('v1/dead-letters?limit=1') : null,
      get(`v1/dead-letters?${page}`),
      get('v1/dead-letters/runs'),
      status?.accounting.parked ? search({ status: 'parked' }) : { writes: [] },
    ]);
    const run = runs.runs[0] && (await get(`v1/dead-letters/runs/${runs.runs[0].id}`));
    return { all: all ?? matching, matching, run, parked };
  },
  view(state, data, { id, query, set }) {
    return id ? one(state, data.letter) : list(state, data, query, set);
  },
};

const isOpen = (run) => run?.state === 'running' || run?.state === 'waiting';

function list(state, { all, matching, run, parked }, query, set) {
  const filter = filterOf(query);
  const filtered = Object.keys(filter).length > 0;
  // The answer lists what failed, events do not.
  const present = later(run, state.run);
  return [
    h('h1', { tabindex: '-1' }, 'Dead letters'),
    h('p', { class: 'lead' }, all.total
      ? `The database refused ${counted(all.total, 'write')} for good. They are kept until somebody retries or discards them.`
      : 'None: no write is refused and waiting for a decision.'),
    progress(state, present),
    parked.writes.length > 0 && waiting(state, parked),
    all.total > 0 && h('section', { 'aria-labelledby': 'reasons' },
      h('h2', { id: 'reasons' }, 'By reason'),
      h('ul', { class: 'groups' }, all.groups.map((group) => reason(state, group, filter, isOpen(present)))),
      all.groups_total > all.groups.length && h('p', { class: 'muted' }, `And ${counted(all.groups_total - all.groups.length, 'smaller group')}.`)),
    all.total > 0 && h('section', { 'aria-labelledby': 'letters' },
      h('h2', { id: 'letters' }, filtered ? `${counted(matching.total, 'letter matches', 'letters match')}` : 'All of them'),
      h('form', { class: 'filters', role: 'search', 'aria-label': 'Filter dead letters', onsubmit: (event) => event.preventDefault() },
        h('label', {}, 'Kind', h('select', { onchange: (event) => set('kind', event.target.value) },
          ['', ...Object.keys(SUGGESTION)].map((value) => h('option', { value, selected: value === (filter.kind ?? '') }, value || 'any')))),
        h('label', {}, 'Collection', h('input', { value: filter.collection ?? '', autocomplete: 'off', onchange: (event) => set('collection', event.target.value.trim()) })),
        filtered && h('a', { class: 'button', href: '#/dead' }, 'Show all'),
        h('span', { class: 'spring' }),
        // None of them submits: Enter in a field would press the first.
        state.may('operator') && matching.total > 0 && !isOpen(present) && [
          h('button', { class: 'button', type: 'button', onclick: () => many(state, 'retry', filter) }, `Retry ${filtered ? 'these' : 'all'}…`),
          h('button', { class: 'button danger', type: 'button', onclick: () => many(state, 'discard', filter) }, `Discard ${filtered ? 'these' : 'all'}…`),
        ],
        h('button', { class: 'button', type: 'button', onclick: () => download(`v1/dead-letters/export?${params(filter)}`, 'dead-letters.ndjson') }, 'Export')),
      filter.message && h('p', { class: 'muted' }, `With the reason: ${filter.message}`),
      matching.letters.length > 0 && table('Dead letters', ['Write', 'What', 'Kind', 'Reason', 'Died'], matching.letters.map((letter) =>
        h('tr', { 'data-key': letter.id },
          h('th', { scope: 'row' }, h('a', { href: `#/dead/${letter.id}` }, letter.id)),
          h('td', {}, what(letter.operations)),
          h('td', {}, letter.reason.kind),
          h('td', { class: 'long' }, letter.reason.message),
          h('td', { class: 'nowrap' }, moment(letter.died_at))))),
      h('nav', { class: 'pages', 'aria-label': 'Pages' },
        query.get('after') && h('a', { class: 'button', href: linkTo(filter) }, 'First page'),
        matching.next && h('button', { class: 'button', onclick: () => set('after', matching.next) }, 'Next page'))),
  ];
}

/** What was refused and is tried again by itself, by reason: the same cause may bury it soon. */
function waiting(state, { writes, next }) {
  const groups = new Map();
  for (const { reason } of writes) {
    // Whatever stands behind a refused write of its record was not refused itself.
    const { kind = '', message = 'They wait behind a parked write of their record, to keep its order.' } = reason ?? {};
    const group = groups.get(`${kind} ${message}`) ?? { kind, message, writes: 0 };
    groups.set(`${kind} ${message}`, { ...group, writes: group.writes + 1 });
  }
  const largest = [...groups.values()].sort((one, other) => other.writes - one.writes).slice(0, PARKED_MAX);
  const total = Math.max(state.status?.accounting.parked ?? 0, writes.length);
  return h('section', { 'aria-labelledby': 'parked', 'data-key': 'parked' },
    h('h2', { id: 'parked' }, counted(total, 'write is parked', 'writes are parked')),
    h('p', { class: 'muted' }, `Refused for now, and tried again by ${total === 1 ? 'itself' : 'themselves'}; after delivery.max_attempts a dead letter.${next ? ` By reason, of the first ${count(writes.length)}:` : ''}`),
    h('ul', { class: 'groups' }, largest.map((group) =>
      h('li', { class: 'card group', 'data-key': `${group.kind} ${group.message}` },
        h('p', { class: 'amount' }, h('strong', {}, count(group.writes)), h('span', { class: 'kind' }, group.kind.replace('_', ' '))),
        h('div', {}, h('p', { class: 'message' }, group.message), group.kind && h('p', { class: 'muted' }, SUGGESTION[group.kind])),
        h('p', { class: 'buttons' }, h('a', { class: 'button', href: '#/queue?status=parked', 'aria-label': `Show what is parked: ${group.message}` }, 'Show'))))));
}

function reason(state, { reason, count: letters }, filter, busy) {
  const own = { kind: reason.kind, message: reason.message };
  const chosen = filter.message === own.message && filter.kind === own.kind;
  return h('li', { class: `card group${chosen ? ' chosen' : ''}`, 'data-key': `${reason.kind} ${reason.message}` },
    h('p', { class: 'amount' }, h('strong', {}, count(letters)), h('span', { class: 'kind' }, reason.kind.replace('_', ' '))),
    h('div', {}, h('p', { class: 'message' }, reason.message), h('p', { class: 'muted' }, SUGGESTION[reason.kind])),
    h('p', { class: 'buttons' },
      h('a', { class: 'button', href: linkTo(own), 'aria-label': `Show the ${count(letters)}: ${reason.message}`, 'aria-current': chosen && 'true' }, 'Show'),
      state.may('operator') && !busy && [
        h('button', { class: 'button', 'aria-label': `Retry the ${count(letters)}: ${reason.message}`, onclick: () => many(state, 'retry', own) }, 'Retry…'),
        h('button', { class: 'button danger', 'aria-label': `Discard the ${count(letters)}: ${reason.message}`, onclick: () => many(state, 'discard', own) }, 'Discard…'),
      ]));
}

/** The run under way, or the result of the last one. */
function progress(state, run) {
  if (!run || run.total === 0) return null;
  const decided = run.done + run.failed;
  const verb = run.action === 'retry' ? 'Retrying' : 'Discarding';
  const past = run.action === 'retry' ? 'queued again' : 'discarded';
  const title = isOpen(run) ? `${verb}: ${count(decided)} of ${count(run.total)}` : `${count(run.done)} of ${count(run.total)} ${past}`;
  const state_ = run.state === 'waiting' ? pill('warn', 'Waits for the database') : isOpen(run) ? pill('ok', 'Under way') : run.state === 'stopped' ? pill('warn', 'Stopped') : run.failed ? pill('warn', `${count(run.failed)} failed`) : pill('ok', 'Done');
  return h('section', { class: 'card run', 'aria-label': `Run ${run.id}`, 'data-key': 'run' },
    h('div', { class: 'head' }, h('h2', {}, title), state_),
    h('progress', { max: Math.max(1, run.total), value: decided, 'aria-label': title }),
    h('p', { class: 'muted' }, `Run ${run.id}, begun ${moment(run.started_at)}${run.ended_at ? `, ended ${moment(run.ended_at)}` : ''}${run.message ? `: ${run.message}` : ''}.${isOpen(run) ? ' It runs on the server: this page may be closed.' : ''}`),
    isOpen(run) && state.may('operator') && h('p', { class: 'buttons' }, h('button', { class: 'button', onclick: () => state.act.remove(`v1/dead-letters/runs/${run.id}`, 'The run is stopped') }, 'Stop')),
    run.failures.length > 0 && h('details', {}, h('summary', {}, `What failed (${count(run.failed)})`),
      h('ul', {}, run.failures.slice(0, 100).map((failure) => h('li', {}, h('a', { href: `#/dead/${failure.id}` }, failure.id), ` ${failure.detail}`)))));
}

/** Plan, question, run. */
async function many(state, action, filter) {
  try {
    const plan = await post(`v1/dead-letters/${action}`, { filter, plan: true });
    const letters = counted(plan.count, 'dead letter');
    const retry = action === 'retry';
    const sure = await ask({
      title: `${retry ? 'Retry' : 'Discard'} ${letters}?`,
      text: retry
        ? 'They are queued again as the last writes, in the order of their ids. What later writes did to their records, they go over.'
        : 'They are then given up for good. Export them first if somebody may want them.',
      action: `${retry ? 'Retry' : 'Discard'} ${letters}`,
      danger: !retry,
    });
    if (sure) await state.act.post(`v1/dead-letters/${action}`, { filter, token: plan.token }, `${retry ? 'Retrying' : 'Discarding'} ${letters}`);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    state.act.say(error.message, 'bad');
  }
}

function one(state, letter) {
  const act = async (verb, title, text, done) => {
    const sure = await ask({ title, text, action: title.replace('?', ''), danger: verb === 'discard' });
    if (sure) await state.act.post(`v1/dead-letters/${encodeURIComponent(letter.id)}/${verb}`, undefined, done, '#/dead');
  };
  return [
    h('p', { class: 'crumbs' }, h('a', { href: '#/dead' }, 'Dead letters')),
    h('h1', { tabindex: '-1' }, `Dead letter ${letter.id}`),
    card('Why', pill('bad', letter.reason.kind.replace('_', ' ')),
      h('p', { class: 'message' }, letter.reason.message),
      h('p', { class: 'muted' }, SUGGESTION[letter.reason.kind]),
      facts([['Does', what(letter.operations)], ['Accepted', moment(letter.accepted_at)], ['Died', moment(letter.died_at)]]),
      state.may('operator') && h('p', { class: 'buttons' },
        h('button', { class: 'button primary', onclick: () => act('retry', 'Retry this letter?', 'It is queued again as the last write, under its old id.', `Letter ${letter.id} is queued again`) }, 'Retry…'),
        h('button', { class: 'button', onclick: () => edit(state, letter) }, 'Edit and retry…'),
        h('button', { class: 'button danger', onclick: () => act('discard', 'Discard this letter?', 'It is then given up for good.', `Letter ${letter.id} is discarded`) }, 'Discard…'))),
    card('Attempts', null, h('ol', { class: 'events' }, [...letter.history].reverse().map((attempt) =>
      h('li', { class: 'bad' }, h('time', { datetime: attempt.at }, moment(attempt.at)), h('span', {}, `${attempt.reason.kind}: ${attempt.reason.message}`))))),
    operations(state, letter, `v1/dead-letters/${encodeURIComponent(letter.id)}`),
  ];
}

/** The operations as text, and sent as they were written. */
async function edit(state, letter) {
  // What is hidden from view would otherwise be sent as it is shown.
  const whole = letter.redacted ? await getExact(`v1/dead-letters/${encodeURIComponent(letter.id)}?redact=false`) : letter;
  const before = pretty(whole.operations);
  const sent = await compose({
    title: 'Edit and retry',
    text: `Refused: ${letter.reason.message}. Change what the write does; it keeps its id and its records, and is queued again as the last write.`,
    label: 'Operations as JSON',
    value: before,
    action: 'Retry with these operations',
    async send(text) {
      let operations;
      try {
        operations = JSON.parse(text);
      } catch (error) {
        throw new Error(`This is not JSON: ${error.message}`);
      }
      if (!Array.isArray(operations)) throw new Error('This is not a list of operations: it must begin with [ and end with ].');
      if (text.trim() === before) throw new Error('Nothing is changed. To queue it again as it is, leave this and choose Retry.');
      await postJson(`v1/dead-letters/${encodeURIComponent(letter.id)}/edit`, `{"operations":${text}}`);
    },
  });
  if (!sent) return;
  state.act.say(`Letter ${letter.id} is edited and queued again`);
  location.hash = '#/dead';
}
