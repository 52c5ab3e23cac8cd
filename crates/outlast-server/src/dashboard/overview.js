// The first screen: the three answers, what to do now, and what they rest on.

import { h } from './dom.js';
import { chart } from './chart.js';
import { pill, meter, facts, card } from './parts.js';
import { advice, ago, answers, connection, count, counted, eventLine, moment, rate, SIGN, size, span, underWay } from './words.js';

export const overview = {
  title: () => 'Overview',
  view(state) {
    const { status, outages, history } = state;
    if (!status) return h('p', { class: 'muted' }, 'Asking the server…');
    return [
      h('h1', { class: 'unseen', tabindex: '-1' }, 'Overview'),
      banner(status, outages),
      h('section', { class: 'answers', 'aria-label': 'The three answers' },
        answers(status).map(([question, short, rest, level]) =>
          h('div', { class: `answer ${level}` }, h('h2', {}, question), h('p', { class: 'short' }, h('span', { class: 'sign', 'aria-hidden': 'true' }, SIGN[level]), short), h('p', { class: 'rest' }, rest)))),
      todo(state),
      h('div', { class: 'grid' }, database(status), queue(status), accounts(status)),
      charts(history, outages),
      happened(state),
    ];
  },
};

function banner(status, outages) {
  const outage = outages.find((known) => known.id === status.outage);
  if (!outage) return null;
  const back = Boolean(outage.reconnected_at);
  return h('a', { class: `banner ${back ? 'warn' : 'bad'}`, href: `#/outages/${outage.id}` },
    h('strong', {}, back ? `Outage ${outage.id}: the database is back, the backlog drains` : `Outage ${outage.id}: the database has been away for ${ago(outage.started_at)}`),
    h('span', {}, `${counted(outage.writes_queued, 'write')} queued · ${outage.reason}`));
}

function todo(state) {
  return h('section', { class: 'card todo', 'aria-labelledby': 'todo' },
    h('h2', { id: 'todo' }, 'What to do now'),
    h('ul', {}, advice(state.status).map((item) =>
      h('li', { class: item.level },
        h('span', { class: 'sign', 'aria-hidden': 'true' }, SIGN[item.level]),
        h('p', {}, item.text),
        item.link && h('a', { class: 'button', href: item.link }, item.label),
        item.action === 'resume' && state.may('operator') && h('button', { class: 'button', onclick: () => state.act.resume() }, 'Resume delivery'),
        item.action === 'decide' && state.may('operator') && [
          h('button', { class: 'button', onclick: () => state.act.decide('replay') }, 'Replay…'),
          h('button', { class: 'button', onclick: () => state.act.decide('skip') }, 'Skip…'),
        ]))));
}

function database(status) {
  const { word, level, since, reason } = connection(status.database);
  return card('Database', pill(level, word), facts([
    ['Which', status.database_name],
    ['Since', since && `${moment(since)} (${ago(since)})`],
    ['Reason', reason],
    ['Delivery', delivery(status.lane)],
  ]));
}

function delivery(lane) {
  const words = { running: 'Running', paused: 'Paused', storm: 'Held back: a refusal storm', halted: 'Halted' };
  return words[lane.state] ?? lane.state;
}

function queue(status) {
  const { queue } = status;
  const eta = queue.drain_eta_seconds;
  const calm = queue.writes === 0 || underWay(status);
  const words = queue.writes === 0 ? 'Empty' : calm ? `${count(queue.writes)} under way` : counted(queue.writes, 'write waits', 'writes wait');
  return card('Queue', pill(calm ? 'ok' : 'warn', words),
    meter('Writes', queue.writes, queue.writes_max, count),
    meter('Bytes', queue.bytes, queue.bytes_max, size),
    facts([
      ['Oldest', queue.writes ? span(queue.oldest_age_seconds) : '–'],
      ['Drains at', `${rate(queue.drain_rate)} writes/s${queue.throttle ? ` (limit ${count(queue.throttle)})` : ''}`],
      ['Clear in', eta === 0 ? 'now' : eta ? span(eta) : 'not known yet'],
      ['Lanes', queue.lanes_configured ? `${count(queue.lanes)} in use, ${count(queue.lanes_configured)} when nothing waits` : queue.lanes > 1 && count(queue.lanes)],
      ['Full in', queue.writes && queue.time_to_full_seconds ? span(queue.time_to_full_seconds) : 'not filling'],
    ]));
}

function accounts(status) {
  const terms = status.accounting;
  const names = ['applied', 'pending', 'parked', 'dead', 'discarded'];
  return card('Accounts', pill(status.accounting_holds ? 'ok' : 'bad', status.accounting_holds ? 'The sum holds' : 'Does not add up'),
    h('table', { class: 'sum' },
      h('caption', { class: 'unseen' }, 'Every accepted write is in exactly one place'),
      h('tbody', {}, names.map((name) => h('tr', {}, h('th', { scope: 'row' }, name), h('td', {}, count(terms[name]))))),
      h('tfoot', {}, h('tr', {}, h('th', { scope: 'row' }, '= accepted'), h('td', {}, count(terms.accepted))))));
}

function charts(history, outages) {
  const shaded = outages.map((outage) => [new Date(outage.started_at).getTime(), outage.reconnected_at ? new Date(outage.reconnected_at).getTime() : null]);
  const { at } = history;
  const ms = (value) => (value < 10 ? value.toFixed(1) : Math.round(value).toString());
  return h('section', { class: 'charts', 'aria-label': 'The last hour' },
    chart({ title: 'Writes that wait', unit: 'writes', at, shaded, format: count, series: [{ name: 'waiting', values: history.writes, kind: 'area' }] }),
    chart({ title: 'Accepted and applied', unit: 'per second', at, shaded, format: rate, series: [
      { name: 'accepted', values: history.accepted_per_second, kind: 'first' },
      { name: 'applied', values: history.applied_per_second, kind: 'second' },
    ] }),
    chart({ title: 'Database latency', unit: 'ms per transaction', at, shaded, format: ms, series: [{ name: 'average', values: history.latency_ms, kind: 'first' }] }));
}

function happened(state) {
  const lines = state.events.map((event) => [event, eventLine(event)]).filter(([, line]) => line).slice(0, 12);
  return h('section', { class: 'card', 'aria-labelledby': 'happened' },
    h('h2', { id: 'happened' }, 'What happened', h('span', { class: 'muted' }, ' since this page was opened')),
    lines.length
      ? h('ol', { class: 'events' }, lines.map(([event, [level, text]]) =>
          h('li', { class: level }, h('time', { datetime: event.at }, moment(event.at)), h('span', { class: 'sign', 'aria-hidden': 'true' }, SIGN[level]), h('span', {}, text))))
      : h('p', { class: 'muted' }, 'Nothing yet.'));
}
