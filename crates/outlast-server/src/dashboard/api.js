// Talks to the server that the page came from, whatever the prefix of its path.

const KEY = 'outlast-token';

/** A request that was answered with a problem (RFC 9457). */
export class Problem extends Error {
  constructor(status, body) {
    super([body?.title, body?.detail].filter(Boolean).join(' ') || `The server answered ${status}.`);
    this.status = status;
    this.body = body ?? {};
  }
}

export const token = {
  has: () => sessionStorage.getItem(KEY) !== null,
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
};

async function send(method, path, { body, json = body === undefined ? undefined : JSON.stringify(body), signal } = {}) {
  const headers = {};
  const bearer = sessionStorage.getItem(KEY);
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  if (json !== undefined) headers['Content-Type'] = 'application/json';
  const response = await fetch(new URL(path, document.baseURI), {
    method,
    headers,
    body: json,
    cache: 'no-store',
    credentials: 'same-origin',
    signal,
  });
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => null));
  return response;
}

export const get = async (path) => (await send('GET', path)).json();
export const text = async (path) => (await send('GET', path)).text();
export const post = async (path, body) => (await send('POST', path, { body })).json();
/** As `post`, with JSON as somebody wrote it: numbers stay as they are. */
export const postJson = async (path, json) => (await send('POST', path, { json })).json();
export const remove = async (path) => (await send('DELETE', path)).json();

/** A number that JavaScript would not keep as it is written. */
export class Exact {
  constructor(source) {
    this.source = source;
  }
}

/** As `get`, for what people read: numbers stay as they are written, where the browser tells. */
export async function getExact(path) {
  return JSON.parse(await text(path), (_, value, context) =>
    typeof value === 'number' && context?.source !== undefined && String(value) !== context.source
      ? new Exact(context.source)
      : value,
  );
}

/** Has the browser save what is at this path. */
export async function download(path, name) {
  save(await (await send('GET', path)).blob(), name);
}

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}

/** Events of the server until the stream ends. `EventSource` could not send the token. */
export async function* events(signal) {
  const response = await send('GET', 'v1/events', { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split('\n\n');
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trim());
      if (data.length) yield JSON.parse(data.join('\n'));
    }
  }
}
