// Small parts that the screens share.

import { getExact } from './api.js';
import { h } from './dom.js';
import { pretty, SIGN } from './words.js';

/** A state in a word, with its sign. */
export const pill = (level, word) =>
  h('span', { class: `pill ${level}` }, h('span', { class: 'sign', 'aria-hidden': 'true' }, SIGN[level]), word);

export const card = (title, state, ...children) =>
  h('section', { class: 'card', 'aria-label': title }, h('div', { class: 'head' }, h('h2', {}, title), state), children);

/** Names and values; those without a value are left out. */
export const facts = (pairs) =>
  h('dl', { class: 'facts' }, pairs.filter(([, value]) => value !== undefined && value !== null && value !== false && value !== '').map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));

export function meter(name, value, most, format) {
  const level = value / most >= 0.9 ? 'bad' : value / most >= 0.75 ? 'warn' : 'ok';
  return h('div', { class: 'meter' },
    h('span', {}, name), h('span', { class: 'muted' }, `${format(value)} of ${format(most)}`),
    h('progress', { class: level, max: most, value, 'aria-label': `${name}: ${format(value)} of ${format(most)}` }));
}

/**
 * A table that scrolls by itself where it is too wide, and can be reached by keyboard then. On a phone each row is a block,
 * whose cells have the heading before them; so the roles are said, which the blocks would lose.
 */
export function table(label, heading, rows) {
  for (const row of rows) {
    row.setAttribute('role', 'row');
    [...row.children].forEach((cell, at) => {
      cell.setAttribute('role', cell.tagName === 'TH' ? 'rowheader' : 'cell');
      cell.dataset.label = heading[at];
    });
  }
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label },
    h('table', { class: 'list', role: 'table', 'aria-label': label },
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, heading.map((cell) => h('th', { scope: 'col', role: 'columnheader' }, cell)))),
      h('tbody', { role: 'rowgroup' }, rows)));
}

export const code = (value, label) => h('pre', { tabindex: '0', 'aria-label': label }, h('code', {}, pretty(value)));

/**
 * Asks, and resolves to what was chosen: true, or the values of the fields; false when it was left. A field may have a
 * `read` that makes its value of what was written; what it throws is shown, and the question stays.
 */
export function ask({ title, text, action, danger, fields = [] }) {
  return new Promise((resolve) => {
    const inputs = fields.map((field) => [field, h('input', { id: `ask-${field.name}`, name: field.name, autocomplete: 'off', placeholder: field.placeholder, 'aria-describedby': 'ask-error' })]);
    const error = h('p', { class: 'notice bad', id: 'ask-error', role: 'alert', hidden: true });
    const values = {};
    const submit = (event) => {
      for (const [{ name, read = String }, input] of inputs) {
        try {
          values[name] = read(input.value.trim());
        } catch (problem) {
          event.preventDefault();
          error.textContent = problem.message;
          error.hidden = false;
          input.focus();
          return;
        }
      }
    };
    const dialog = h('dialog', { 'aria-labelledby': 'ask-title', 'aria-describedby': 'ask-text' },
      h('form', { method: 'dialog', onsubmit: submit },
        h('h2', { id: 'ask-title' }, title),
        h('p', { id: 'ask-text' }, text),
        inputs.map(([field, input]) => h('p', { class: 'field' }, h('label', { for: input.id }, field.label), input)),
        error,
        h('p', { class: 'buttons' },
          h('button', { class: 'button', type: 'button', onclick: () => dialog.close('no') }, 'Leave it'),
          h('button', { class: `button ${danger ? 'danger' : 'primary'}`, value: 'yes', type: 'submit' }, action))));
    dialog.onclose = () => {
      resolve(dialog.returnValue === 'yes' && (fields.length ? values : true));
      dialog.remove();
    };
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * Has somebody change a text. `send` gets what was written; what it throws is shown, and the text stays. Resolves to whether
 * it was sent.
 */
export function compose({ title, text, label, value, action, send }) {
  return new Promise((resolve) => {
    const area = h('textarea', { id: 'compose-area', rows: '16', spellcheck: 'false', autocomplete: 'off', autocapitalize: 'off', autofocus: true, 'aria-describedby': 'compose-text compose-error' });
    area.value = value;
    const error = h('p', { class: 'notice bad', id: 'compose-error', role: 'alert', hidden: true });
    const button = h('button', { class: 'button primary', type: 'submit' }, action);
    const say = (what) => {
      error.textContent = what;
      error.hidden = !what;
    };
    const submit = async (event) => {
      event.preventDefault();
      button.disabled = true;
      say('');
      try {
        await send(area.value);
        dialog.close('sent');
      } catch (problem) {
        say(problem.message);
        area.focus();
      } finally {
        button.disabled = false;
      }
    };
    const dialog = h('dialog', { class: 'wide', 'aria-labelledby': 'compose-title' },
      h('form', { onsubmit: submit },
        h('h2', { id: 'compose-title' }, title),
        h('p', { id: 'compose-text' }, text),
        h('p', { class: 'field' }, h('label', { for: 'compose-area' }, label), area),
        error,
        h('p', { class: 'buttons' }, h('button', { class: 'button', type: 'button', onclick: () => dialog.close() }, 'Leave it'), button)));
    dialog.onclose = () => {
      resolve(dialog.returnValue === 'sent');
      dialog.remove();
    };
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** What a write does. Hidden values are shown to an operator who asks for them, which the server notes. */
export function operations(state, entry, path) {
  if (state.revealed?.path !== path) state.revealed = null;
  const show = async () => {
    try {
      state.revealed = { path, operations: (await getExact(`${path}?redact=false`)).operations };
      state.act.say('All values are shown; that you looked is in the audit log');
    } catch (error) {
      state.act.say(error.message, 'bad');
    }
  };
  return card('Operations', null,
    entry.redacted && !state.revealed && h('p', { class: 'muted' }, 'Some values are hidden (privacy.redact). ',
      state.may('operator') && h('button', { class: 'button', onclick: show }, 'Show them')),
    code(state.revealed?.operations ?? entry.operations, 'Operations as JSON'));
}
