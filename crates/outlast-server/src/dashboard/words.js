// What numbers and states mean, in words. The words are those of `outlast status`.

import { Exact } from './api.js';

const NUMBER = new Intl.NumberFormat('en-US');
const RATE = new Intl.NumberFormat('en-US', { maximumSignificantDigits: 3 });

export const count = (value) => NUMBER.format(value ?? 0);
export const counted = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;
export const rate = (value) => RATE.format(value ?? 0);

export function size(bytes) {
  let scaled = bytes ?? 0;
  for (const unit of ['B', 'KiB', 'MiB', 'GiB', 'TiB']) {
    if (scaled < 1024 || unit === 'TiB') return unit === 'B' ? `${scaled} B` : `${scaled.toFixed(1)} ${unit}`;
    scaled /= 1024;
  }
}

/** A length of time: two units at most. */
export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds ?? 0));
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 172800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** A moment: the time, with the day unless it is today. */
export function moment(text) {
  if (!text) return '';
  const at = new Date(text);
  const day = at.toDateString() === new Date().toDateString() ? '' : `${at.toLocaleDateString('en-CA')} `;
  return day + at.toLocaleTimeString('en-GB');
}

export const ago = (text) => span((Date.now() - new Date(text)) / 1000);

/** What a write does, in a few words. */
export function what(operations) {
  const [first] = operations ?? [];
  if (!first) return '';
  const record = first.collection ? ` ${first.collection}/${first.id}` : '';
  const more = operations.length > 1 ? ` and ${operations.length - 1} more` : '';
  return `${first.op}${record}${more}`;
}

/** JSON with line breaks, numbers as they were written. */
export function pretty(value, indent = '') {
  if (value instanceof Exact) return value.source;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  const deeper = `${indent}  `;
  const list = Array.isArray(value);
  const parts = list
    ? value.map((item) => deeper + pretty(item, deeper))
    : Object.entries(value).map(([key, item]) => `${deeper}${JSON.stringify(key)}: ${pretty(item, deeper)}`);
  const [open, close] = list ? '[]' : '{}';
  return parts.length ? `${open}\n${parts.join(',\n')}\n${indent}${close}` : open + close;
}

const FULL_WARNING = 0.75;

/** How full the queue is, from 0 to 1. */
export const fullness = ({ queue }) => Math.max(queue.writes / queue.writes_max, queue.bytes / queue.bytes_max);

/** What waits has only just come, and is being applied: no backlog. */
export const underWay = ({ database, lane, queue, outage }) =>
  queue.writes > 0 && outage === undefined && database.state === 'connected' && lane.state === 'running' && queue.oldest_age_seconds < 2;

const component = (status, name) => status.components.find((known) => known.name === name);

/** The three answers: [question, short answer, the rest of it, level]. */
export function answers(status) {
  return [accepting(status), nothingLost(status), clear(status)];
}

/** Whether a write that comes now has to wait for those before it. */
const hasBacklog = ({ accounting, outage, queue }) => accounting.pending > 0 && (outage !== undefined || queue.drain_eta_seconds >= 2);

function accepting(status) {
  const question = 'Are we accepting writes?';
  const connected = status.database.state === 'connected';
  if (!status.accepting) return [question, 'No', 'Callers get 503. See what to do below.', 'bad'];
  if (connected && status.lane.state === 'running' && hasBacklog(status)) return [question, 'Yes, queued', 'They wait behind the backlog, which is being applied.', 'warn'];
  if (connected && status.lane.state === 'running') return [question, 'Yes', 'And they are applied at once.', 'ok'];
  if (connected) return [question, 'Yes, queued', 'Delivery stands still: they wait on disk.', 'warn'];
  return [question, 'Yes, queued', 'They wait on disk until the database is back.', 'warn'];
}

function nothingLost(status) {
  const question = 'Is anything lost?';
  // Of all the queue's life: a loss need not be found during an outage, and the reports of old ones go.
  const { writes, last_at: last } = status.losses;
  if (writes > 0) return [question, `${count(writes)} lost`, `${last ? `Last found: ${moment(last)}. ` : ''}See damaged/ in the queue directory.`, 'bad'];
  if (!status.accounting_holds) return [question, 'Unknown', 'The accounting identity does not hold.', 'bad'];
  const losses = component(status, 'losses');
  if (losses && losses.level !== 'healthy') return [question, 'Something', losses.message, 'bad'];
  return [question, 'Nothing', 'Every accepted write is accounted for.', 'ok'];
}

function clear(status) {
  const question = 'When are we clear?';
  const { queue } = status;
  if (queue.writes === 0) return [question, 'Now', 'Nothing waits.', 'ok'];
  if (underWay(status)) return [question, 'Now', `${counted(queue.writes, 'write is', 'writes are')} under way.`, 'ok'];
  const eta = queue.drain_eta_seconds;
  if (eta !== null && eta !== undefined) {
    return [question, `In ${span(eta)}`, `${counted(queue.writes, 'write')} at ${rate(queue.drain_rate)} a second.`, 'warn'];
  }
  const away = status.database.state !== 'connected';
  return [question, 'Not known yet', away ? 'It drains by itself when the database answers.' : 'Nothing is being applied.', 'warn'];
}

/** Components that have an advice of their own. */
const KNOWN = ['database', 'queue', 'log', 'lane', 'losses'];

/** What to do now: level, text, and which action or screen helps. */
export function advice(status) {
  const list = [];
  const add = (level, text, more = {}) => list.push({ level, text, ...more });
  const { database, lane, queue, accounting, losses } = status;
  const found = component(status, 'losses');
  if (found && found.level !== 'healthy') {
    add('bad', 'Acknowledged writes were lost. Keep a copy of the queue directory before anything else. The log lines name them and damaged/ holds their bytes: have them sent again. Then replace the disk.');
  } else if (losses.writes > 0) {
    add('warn', `${counted(losses.writes, 'acknowledged write was', 'acknowledged writes were')} lost before this start: see that ${losses.writes === 1 ? 'it has' : 'they have'} been sent again.`);
  }
  if (!status.accounting_holds) add('bad', 'The accounts do not add up, which is a fault of Outlast. Keep a copy of the queue directory and of the log lines, and report it.');
  const log = component(status, 'log');
  if (log && log.level !== 'healthy') add('bad', `The log of writes: ${log.message}`);
  if (!status.accepting && fullness(status) >= 1) {
    add('bad', 'The queue is full. Bring the database back, or raise queue.max_writes or queue.max_bytes and restart: that loses nothing.');
  }
  if (lane.state === 'halted') add('bad', `Delivery is halted, and an operator must decide. ${lane.message}`, { action: lane.halt === 'fenced' ? null : 'decide' });
  if (lane.state === 'storm') {
    const [reason] = lane.reasons[0] ?? [''];
    add('bad', `The database refuses everything (${reason}). Nothing is buried. Mend the cause: delivery goes on by itself within 30 s, or at once when you resume.`, { action: 'resume' });
  }
  if (lane.state === 'paused') {
    add('warn', lane.until ? `Delivery is paused until ${moment(lane.until)}.` : 'Delivery is paused until somebody resumes it.', { action: 'resume' });
  }
  if (database.state === 'failed') {
    const full = queue.time_to_full_seconds ? ` At this rate the queue is full in ${span(queue.time_to_full_seconds)}.` : '';
    add('warn', `Repair the database. Outlast needs nothing: it looks again every few seconds, and drains by itself.${full}`);
  }
  if (database.state === 'connecting' || database.state === 'disconnected') add('warn', 'The database has not answered yet. Check database.url if this lasts.');
  if (fullness(status) >= FULL_WARNING && fullness(status) < 1) add('warn', `The queue is ${Math.floor(fullness(status) * 100)} % full.`);
  if (accounting.dead > 0) {
    add('warn', `${counted(accounting.dead, 'dead letter waits', 'dead letters wait')} for a decision: retry them when the cause is mended, or give them up.`, { link: '#/dead', label: 'Dead letters' });
  }
  // The service that Outlast is a part of may have more of them.
  for (const { name, level, message } of status.components) {
    if (!KNOWN.includes(name) && level !== 'healthy') add(LEVEL[level], `${name}: ${message}`);
  }
  if (list.length === 0 && queue.writes > 0 && !underWay(status)) add('ok', 'Nothing: the backlog is being applied.');
  if (list.length === 0) add('ok', 'Nothing. All is well.');
  return list;
}

export const LEVEL = { healthy: 'ok', warning: 'warn', critical: 'bad' };
export const SIGN = { ok: '✓', warn: '!', bad: '✕' };

/** The connection in words. */
export function connection({ state, since, reason }) {
  const known = {
    connected: ['Connected', 'ok'],
    connecting: ['Connecting', 'warn'],
    disconnected: ['Not connected yet', 'warn'],
    failed: ['Away', 'bad'],
  };
  const [word, level] = known[state] ?? [state, 'warn'];
  return { word, level, since, reason };
}

/** Of two tidings of runs, the later: they come by events and by answers, in any order. */
export function later(one, other) {
  if (!one || !other) return one ?? other ?? null;
  if (one.id !== other.id) return one.id > other.id ? one : other;
  if (Boolean(one.ended_at) !== Boolean(other.ended_at)) return one.ended_at ? one : other;
  return one.done + one.failed >= other.done + other.failed ? one : other;
}

/** What usually helps against a refusal of this kind. */
export const SUGGESTION = {
  exists: 'The record was there already: another writer was first. Usually discard; retry once the record is gone.',
  not_found: 'The record to be patched was missing. Create it, then retry; otherwise discard.',
  constraint: 'Correct what it conflicts with in the database, then retry; otherwise discard.',
  schema: 'The database’s schema does not take it. Adapt the schema, then retry; otherwise discard and mend the sender.',
  permission: 'Give Outlast’s database account the right, then retry all of them.',
  too_large: 'Raise the database’s limit, then retry; otherwise discard.',
  key_reused: 'The sender used one key for two writes. Discard, and tell the sender.',
  statement: 'The statement failed. Mend what it needs, then retry; otherwise discard.',
  expired: 'Older than queue.max_age. Retry it if it is still wanted.',
  other: 'See the database’s words. Retry when the cause is mended.',
};

/** An event of the stream as a line: [level, text], or null for what is not worth one. */
export function eventLine(event) {
  switch (event.event) {
    case 'database_state':
      return [event.to === 'connected' ? 'ok' : event.to === 'failed' ? 'bad' : 'warn', `Database ${event.to}${event.reason && event.to === 'failed' ? `: ${event.reason}` : ''}`];
    case 'outage_started':
      return ['bad', `Outage ${event.outage} began: ${event.reason}`];
    case 'outage_ended':
      return ['ok', `Outage ${event.outage} is over: the backlog is drained`];
    case 'lane_state':
      return ['warn', `Delivery: ${event.message}`];
    case 'healing':
      return ['warn', `Healing from ${event.from} to ${event.to}: the database came back older`];
    case 'dead_letter':
      return ['warn', `Dead letter ${event.id}: ${event.reason}`];
    case 'dead_letter_run': {
      const { run } = event;
      return run.state === 'done' || run.state === 'stopped'
        ? [run.failed ? 'warn' : 'ok', `Run ${run.id} (${run.action}) ${run.state}: ${count(run.done)} of ${count(run.total)}`]
        : null;
    }
    default:
      return null;
  }
}
