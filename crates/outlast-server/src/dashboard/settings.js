// The configuration as it is in effect, and what operators did.

import { get } from './api.js';
import { h } from './dom.js';
import { pill, table } from './parts.js';
import { moment } from './words.js';

export const settings = {
  title: () => 'Settings',
  async load(_, state) {
    if (!state.may('operator')) return {};
    const [configuration, audit] = await Promise.all([get('v1/configuration'), get('v1/audit?limit=20')]);
    return { settings: configuration.settings, entries: audit.entries };
  },
  view(state, data, { query, set }) {
    const heading = h('h1', { tabindex: '-1' }, 'Settings');
    if (!data.settings) return [heading, h('p', { class: 'lead' }, `Only operators see them. Your token has the role ${state.me.role}.`)];
    const wanted = query.get('q') ?? '';
    const shown = Object.entries(data.settings).filter(([key]) => key.includes(wanted.toLowerCase()));
    return [
      heading,
      h('p', { class: 'lead' }, 'What operators did, and how this server is set up.'),
      h('h2', {}, 'What operators did'),
      data.entries.length
        ? table('What operators did', ['When', 'Who', 'What', 'Sent', 'Result'], data.entries.map((entry) =>
            h('tr', {},
              h('td', { class: 'nowrap' }, moment(entry.at)),
              h('td', {}, entry.who),
              h('td', {}, h('code', {}, entry.action)),
              h('td', { class: 'long' }, entry.request === undefined ? '–' : h('code', {}, JSON.stringify(entry.request))),
              h('td', {}, entry.status !== undefined && pill(entry.status < 300 ? 'ok' : 'warn', String(entry.status)), entry.detail ? ` ${entry.detail}` : ''))))
        : h('p', { class: 'muted' }, 'Nothing yet.'),
      h('h2', {}, 'Values in effect, and where each came from'),
      h('form', { class: 'filters', role: 'search', 'aria-label': 'Filter settings', onsubmit: (event) => event.preventDefault() },
        h('label', {}, 'Name', h('input', { type: 'search', value: wanted, placeholder: 'queue.', oninput: (event) => set('q', event.target.value) }))),
      table('Settings', ['Setting', 'Value', 'From'], shown.map(([key, { value, source }]) =>
        h('tr', { 'data-key': key },
          h('th', { scope: 'row' }, h('code', {}, key)),
          h('td', {}, h('code', {}, typeof value === 'string' ? value : JSON.stringify(value))),
          h('td', { class: source === 'default' ? 'muted' : '' }, source)))),
    ];
  },
};
