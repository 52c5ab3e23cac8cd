// What happened, and what became of the writes.

import { download, get } from './api.js';
import { h } from './dom.js';
import { card, facts, pill, table } from './parts.js';
import { count, moment, span } from './words.js';

export const outages = {
  title: (id) => (id ? `Outage ${id}` : 'Outages'),
  load: ({ id }) => get(id ? `v1/outages/${encodeURIComponent(id)}` : 'v1/outages'),
  view: (_, data, { id }) => (id ? one(data) : list(data.outages)),
};

const state = (outage) =>
  outage.drained_at ? pill('ok', 'Over') : outage.reconnected_at ? pill('warn', 'Draining') : pill('bad', 'Lasts');

function list(all) {
  return [
    h('h1', { tabindex: '-1' }, 'Outages'),
    h('p', { class: 'lead' }, all.length ? 'From the first failure until the backlog is drained. The last 1,000 are kept.' : 'None yet: the database has always answered.'),
    all.length > 0 && table('Outages', ['Outage', 'Began', 'Away for', 'Queued', 'Dead', 'Lost', 'State', 'Reason'], all.map((outage) =>
      h('tr', { 'data-key': String(outage.id) },
        h('th', { scope: 'row' }, h('a', { href: `#/outages/${outage.id}` }, `Outage ${outage.id}`)),
        h('td', { class: 'nowrap' }, moment(outage.started_at)),
        h('td', { class: 'nowrap' }, span(outage.duration_seconds)),
        h('td', { class: 'number' }, count(outage.writes_queued)),
        h('td', { class: 'number' }, count(outage.dead)),
        h('td', { class: 'number' }, outage.lost ? pill('bad', count(outage.lost)) : '0'),
        h('td', {}, state(outage)),
        h('td', { class: 'long' }, outage.reason)))),
  ];
}

function one(outage) {
  const { id } = outage;
  const draining = outage.reconnected_at && outage.drained_at && (new Date(outage.drained_at) - new Date(outage.reconnected_at)) / 1000;
  const steps = [
    ['bad', outage.started_at, `It began: a ${outage.detected_by} failed`, outage.reason],
    outage.reconnected_at ? ['warn', outage.reconnected_at, 'The database answered again', `After ${span(outage.duration_seconds)}.`] : ['', null, 'The database does not answer yet', 'Outlast looks again every few seconds.'],
    outage.healed_from && ['warn', null, `${count(outage.healed_writes)} writes healed`, `The database came back older: ${outage.healed_from}.`],
    outage.drained_at ? ['ok', outage.drained_at, 'The backlog was drained', `In ${span(draining)}.`] : ['', null, 'The backlog is not drained yet', 'It drains by itself.'],
  ].filter(Boolean);
  return [
    h('p', { class: 'crumbs' }, h('a', { href: '#/outages' }, 'Outages')),
    h('div', { class: 'head' }, h('h1', { tabindex: '-1' }, `Outage ${id}`), state(outage)),
    h('div', { class: 'grid two' },
      card('Timeline', null, h('ol', { class: 'timeline' }, steps.map(([level, at, title, text]) =>
        h('li', { class: level }, h('strong', {}, title), at && h('time', { datetime: at }, moment(at)), h('p', { class: 'muted' }, text))))),
      card('What became of the writes', outage.lost ? pill('bad', `${count(outage.lost)} lost`) : pill('ok', 'Nothing lost'), facts([
        ['Queued meanwhile', count(outage.writes_queued)],
        ['Most at once', count(outage.peak_writes)],
        ['Oldest wait', span(outage.oldest_age_seconds)],
        ['Reads refused', count(outage.reads_refused)],
        ['Dead letters', count(outage.dead)],
        ['Healed', count(outage.healed_writes)],
        ['Lost', count(outage.lost)],
        ['Missing for good', outage.missing],
      ]))),
    h('p', { class: 'buttons' },
      h('button', { class: 'button', onclick: () => download(`v1/outages/${id}/report`, `outage-${id}.md`) }, 'Report as Markdown'),
      h('button', { class: 'button', onclick: () => download(`v1/outages/${id}`, `outage-${id}.json`) }, 'Report as JSON')),
  ];
}
