// Walks through the dashboard in a real browser. ../e2e_dashboard.rs runs it, changes the state of things, and says on
// standard input which step comes: one JSON object a line, `{ "step": NAME, "url": ... }`. Each is answered with a line:
// `{ "ok": true }` or `{ "ok": false, "error": TEXT }`.
//
//   node walk.mjs CHROMIUM PROFILE_DIRECTORY [IMAGES_DIRECTORY]

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const [executablePath, profile, images] = process.argv.slice(2);
const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const DESKTOP = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };

const context = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args: ARGUMENTS, viewport: DESKTOP, acceptDownloads: true });
context.setDefaultTimeout(30000);
const page = context.pages()[0] ?? (await context.newPage());

/** What the console complained about; nothing of it is expected, but for what is refused on purpose. */
const complaints = [];
let refusals = null;
page.on('console', (message) => {
  const refused = refusals && message.text().includes(refusals);
  // What a page shows may be decided while it asks for it; the page says so.
  const decided = message.text().includes('404') && /\/v1\/(queue\/writes|dead-letters)\/\d+-\d+$/.test(message.location().url);
  if (message.type() === 'error' && !refused && !decided) complaints.push(message.text());
});
page.on('pageerror', (error) => complaints.push(error.stack));

const see = (text, inside = page) => inside.getByText(text).first().waitFor();
const heading = (name) => page.getByRole('heading', { level: 1, name }).waitFor();
const screen = (name) => page.getByRole('navigation', { name: 'Screens' }).getByRole('link', { name }).click();
const answers = () => page.getByRole('region', { name: 'The three answers' });

/** The keyboard goes to the heading of a screen at once, however long the server takes, and stays when it has answered. */
async function arrives(name, go) {
  const focused = () => page.evaluate(() => `${document.activeElement.tagName} ${document.activeElement.textContent}`);
  let answer;
  const held = new Promise((resolve) => { answer = resolve; });
  await page.route('**/v1/**', async (route) => {
    await held;
    await route.continue();
  });
  await go();
  await heading(name);
  await see('Asking the server…');
  assert.equal(await focused(), `H1 ${name}`, 'while the server is asked');
  answer();
  await page.getByText('Asking the server…').waitFor({ state: 'detached' });
  // The screen is painted, and the heading focused, in one go.
  assert.equal(await focused(), `H1 ${name}`, 'when the server has answered');
  await page.unrouteAll({ behavior: 'wait' });
}

/** No serious finding, in either scheme and width. */
async function accessible(what) {
  for (const [viewport, colorScheme] of [[DESKTOP, 'light'], [DESKTOP, 'dark'], [PHONE, 'light']]) {
    await page.setViewportSize(viewport);
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
    // Not a script of the page: the policy does not let any in.
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
    const serious = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
    assert.deepEqual(serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' | ')}`), [], `${what} at ${viewport.width} px, ${colorScheme}`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(wide <= 0, `${what} at ${viewport.width} px is ${wide} px too wide`);
  }
  await page.setViewportSize(DESKTOP);
  await page.emulateMedia({ colorScheme: 'light', reducedMotion: 'reduce' });
}

async function picture(name) {
  if (!images) return;
  for (const [viewport, width] of [[DESKTOP, 'desktop'], [PHONE, 'phone']]) {
    await page.setViewportSize(viewport);
    await page.evaluate(() => window.scrollTo(0, 0));
    await page.screenshot({ path: `${images}/dashboard-${name}-${width}.png`, fullPage: width === 'desktop' });
  }
  await page.setViewportSize(DESKTOP);
}

async function downloaded(button) {
  const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: button }).click()]);
  return { name: download.suggestedFilename(), text: await readFile(await download.path(), 'utf8') };
}

/** The server under a prefix, as a proxy would show it. */
function underPrefix(prefix, target) {
  const to = new URL(target);
  const server = http.createServer((request, response) => {
    if (!request.url.startsWith(prefix)) {
      response.writeHead(404).end();
      return;
    }
    const onward = http.request({ host: to.hostname, port: to.port, method: request.method, path: request.url.slice(prefix.length - 1), headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve({ server, url: `http://127.0.0.1:${server.address().port}${prefix}` })));
}

const steps = {
  async healthy({ url }) {
    const listening = page.waitForResponse(/\/v1\/events$/);
    await page.goto(url);
    await listening;
    await see('And they are applied at once.', answers());
    await see('Nothing waits.', answers());
    await see('Every accepted write is accounted for.', answers());
    await see('Nothing. All is well.');
    for (const text of ['Connected', 'The sum holds', 'Empty']) await see(text);
    assert.equal(await page.getByRole('figure').count(), 3);
    // A drawing is a picture with words for whoever cannot see it.
    await page.getByRole('img', { name: /^Writes that wait over the last \d+ minutes, writes. waiting: now/ }).waitFor();
    await accessible('the first screen');
    await picture('healthy');
    // By keyboard: the first stop leads past the navigation.
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
  },

  // Nothing is loaded again: the page is told.
  async outage({ writes }) {
    await see('They wait on disk until the database is back.', answers());
    await see('It drains by itself when the database answers.', answers());
    await see('Every accepted write is accounted for.', answers());
    await see(/Outage 1: the database has been away for/);
    await see(/Repair the database\. Outlast needs nothing/);
    await see(`${writes} writes wait`);
    await see(/Outage 1 began/);
    assert.match(await page.locator('#announce').textContent(), /Database: Away|Yes, queued/);
    await accessible('the first screen in an outage');
    await picture('outage');

    await arrives('Queue', () => screen(/^Queue/));
    await see(`${writes} writes on this page`);
    // The server searches; the filter stands in the address, so that it can be sent to somebody.
    const record = page.getByRole('textbox', { name: 'Record id' });
    await record.fill('w7');
    await record.press('Enter');
    await see('1 match on this page');
    assert.match(page.url(), /record=w7/);
    assert.ok(await record.evaluate((input) => input === document.activeElement), 'the focus stays');
    await page.getByRole('combobox', { name: 'Operation' }).selectOption('delete');
    await see('0 matches on this page');
    // What the server cannot search for is said; the list stays, and says from when it is.
    const older = page.getByRole('textbox', { name: 'Older than' });
    refusals = 400;
    await older.fill('soon');
    await older.press('Enter');
    await see(/"soon".* What you see is from before\./, page.getByRole('alert'));
    await accessible('a filter that is refused');
    await older.fill('');
    await older.press('Enter');
    await page.getByRole('alert').waitFor({ state: 'detached' });
    refusals = null;
    // A link without a filter empties the fields too that were used.
    await page.getByRole('link', { name: 'Show all' }).click();
    await see(`${writes} writes on this page`);
    assert.equal(await record.inputValue(), '');
    assert.equal(await page.getByRole('combobox', { name: 'Operation' }).inputValue(), '');
    // What somebody is writing stays while the page is told of other things.
    await record.fill('w7');
    for (let asked = 0; asked < 2; asked += 1) await page.waitForResponse(/\/v1\/queue$/);
    assert.equal(await record.inputValue(), 'w7');
    await record.press('Enter');
    await see('1 match on this page');
    await page.getByRole('combobox', { name: 'Operation' }).selectOption('delete');
    await see('0 matches on this page');
    assert.match(page.url(), /record=w7&op=delete/);
    await page.reload();
    await see('0 matches on this page');
    await page.getByRole('combobox', { name: 'Operation' }).selectOption('');
    await see('1 match on this page');
    await accessible('the queue');
    await page.getByRole('row', { name: /people\/w7/ }).getByRole('link').click();
    await heading(/^Write \d+-\d+$/);
    await see('"exact": 1.50');
    await accessible('a write');
    await screen('Overview');
  },

  // The database is back, and takes one write a second.
  async draining() {
    await see(/Outage 1: the database is back, the backlog drains/);
    await see('They wait behind the backlog, which is being applied.', answers());
    await see('Nothing: the backlog is being applied.');
    await see(/In \d+ s/, answers());
    await see(/^\d+ writes at \d.* a second\.$/, answers());
    await accessible('the first screen while the backlog drains');
    await picture('draining');
    await screen('Outages');
    await see('Draining');
    await screen(/^Queue/);
    await see('At most 1 write a second.');
    // The last one is given up.
    await page.getByRole('row', { name: /people\/w39/ }).getByRole('link').click();
    await page.getByRole('button', { name: 'Cancel this write…' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Cancel the write' }).click();
    await see(/^Write \d+-\d+ is cancelled$/);
    await heading('Queue');
    await page.getByRole('row', { name: /people\/w39/ }).waitFor({ state: 'detached' });
    await screen('Overview');
  },

  async drained() {
    await see('Nothing waits.', answers());
    await see('And they are applied at once.', answers());
    await screen('Outages');
    await arrives('Outage 1', () => page.getByRole('link', { name: 'Outage 1' }).click());
    for (const text of ['Nothing lost', 'The database answered again', 'The backlog was drained']) await see(text);
    await accessible('a report');
    await picture('report');
    const markdown = await downloaded('Report as Markdown');
    assert.equal(markdown.name, 'outage-1.md');
    assert.match(markdown.text, /^# Outage 1\n/);
    assert.match(markdown.text, /\*\*Lost writes\*\* \| \*\*0\*\*/);
    assert.equal(JSON.parse((await downloaded('Report as JSON')).text).lost, 0);
  },

  async dead({ first, second }) {
    await screen(/^Dead letters/);
    await heading('Dead letters');
    await see(`The database refused ${first + second} writes for good.`);
    const groups = page.locator('.group');
    await groups.nth(1).waitFor();
    assert.deepEqual(await groups.locator('strong').allTextContents(), [String(first), String(second)]);
    await see('Correct what it conflicts with in the database', groups.nth(0));
    await see('The record was there already', groups.nth(1));
    await accessible('dead letters');
    await picture('dead-letters');
    // The fields say what is in effect: beside them stands what is done with all that match.
    const collection = page.getByRole('textbox', { name: 'Collection' });
    await collection.fill('orders');
    await collection.press('Enter');
    await see('0 letters match');
    assert.equal(await page.getByRole('dialog').count(), 0, 'Enter filters, and asks nothing');
    await groups.nth(1).getByRole('link', { name: /^Show/ }).click();
    await see(`${second} letters match`);
    assert.equal(await collection.inputValue(), '');
    assert.equal(await page.getByRole('combobox', { name: 'Kind' }).inputValue(), 'exists');
    assert.match(page.url(), /kind=exists&message=/);
    assert.equal((await downloaded('Export')).text.trim().split('\n').length, second);
    await page.getByRole('table').getByRole('link').first().click();
    await heading(/^Dead letter/);
    await see('exists: ');
    await accessible('a dead letter');
    await page.goBack();
    await see(`${second} letters match`);
  },

  // One of the first group is mended by hand: first wrongly, in three ways, then rightly.
  async edit({ first, second }) {
    await page.locator('.group').nth(0).getByRole('link', { name: /^Show/ }).click();
    await see(`${first} letters match`);
    await page.getByRole('table').getByRole('link').first().click();
    await heading(/^Dead letter/);
    await page.getByRole('button', { name: 'Edit and retry…' }).click();
    const dialog = page.getByRole('dialog', { name: 'Edit and retry' });
    const area = dialog.getByLabel('Operations as JSON');
    const retry = dialog.getByRole('button', { name: 'Retry with these operations' });
    const written = await area.inputValue();
    assert.match(written, /"id": "young0"/);
    assert.ok(await area.evaluate((element) => element === document.activeElement), 'it can be written at once');
    for (const [text, why] of [
      [written, 'Nothing is changed.'],
      [written.replace(']', ''), 'This is not JSON'],
      [written.replace('young0', 'young1'), 'an edited write keeps its records'],
      [written.replace('"put"', '"upsert"'), 'operation 0: unknown op "upsert"'],
    ]) {
      await area.fill(text);
      await retry.click();
      await see(why, dialog.getByRole('alert'));
      assert.equal(await area.inputValue(), text, 'what was written stays');
    }
    // The browser says itself that the server refused something.
    const asked = complaints.splice(0).filter((text) => !text.includes('400 (Bad Request)'));
    assert.deepEqual(asked, []);
    await accessible('the editor of a dead letter');
    await area.fill(written.replace(/"age": \d+/, '"age": 25,\n      "exact": 1.50'));
    await retry.click();
    await see(/^Letter \d+-\d+ is edited and queued again/);
    await see(`The database refused ${first + second - 1} writes for good.`);
  },

  // The cause is mended: somebody else retries one, then the first group can be retried. Then the second is given up.
  async bulk({ first: before, second }) {
    const rows = page.getByRole('table', { name: 'Dead letters' }).getByRole('link');
    const [gone, focused] = [await rows.first().textContent(), await rows.last().textContent()];
    await rows.last().focus();
    await page.evaluate((id) => fetch(`v1/dead-letters/${id}/retry`, { method: 'POST' }), gone);
    const first = before - 1;
    await see(`The database refused ${first + second} writes for good.`);
    assert.notEqual(await rows.first().textContent(), gone);
    assert.equal(await page.evaluate(() => document.activeElement.textContent), focused, 'the focus stays on its row');
    const button = (name) => page.locator('.group').first().getByRole('button', { name });
    await button(/^Retry/).click();
    const dialog = page.getByRole('dialog');
    await see(`Retry ${first} dead letters?`, dialog);
    await accessible('the question');
    await dialog.getByRole('button', { name: 'Leave it' }).click();
    await button(/^Retry/).click();
    await dialog.getByRole('button', { name: `Retry ${first} dead letters` }).click();
    await see(`${first} of ${first} queued again`);
    await see(`The database refused ${second} writes for good.`);
    await accessible('the result of a run');
    await picture('run');
    await page.goto(page.url().replace(/#.*/, '#/dead'));
    await page.getByRole('button', { name: 'Discard all…' }).click();
    await dialog.getByRole('button', { name: `Discard ${second} dead letters` }).click();
    await see(`${second} of ${second} discarded`);
    await see('None: no write is refused and waiting for a decision.');
  },

  async pause() {
    await screen(/^Queue/);
    // A limit that cannot be read must not lift the one that is set, as null would.
    const limits = [];
    page.on('request', (request) => request.url().endsWith('/v1/queue/throttle') && limits.push(request.postDataJSON().writes_per_second));
    await page.getByRole('button', { name: 'Limit the rate…' }).click();
    const limiting = page.getByRole('dialog', { name: 'Limit the rate of delivery' });
    const limit = limiting.getByRole('textbox');
    for (const wrong of ['500/s', '1,5', '-1', '0', 'as always']) {
      await limit.fill(wrong);
      await limit.press('Enter');
      await see(`“${wrong}” is no limit. Write a whole number`, limiting.getByRole('alert'));
      assert.equal(await limit.inputValue(), wrong, 'what was written stays');
    }
    await accessible('a limit that cannot be read');
    await limit.fill('1,000');
    await limiting.getByRole('button', { name: 'Set the limit' }).click();
    await see('With at most 1,000 writes a second.');
    await page.getByRole('button', { name: 'Limit the rate…' }).click();
    await limit.press('Enter');
    await see('With no limit of rate.');
    assert.deepEqual(limits, [1000, null]);
    await page.getByRole('button', { name: 'Pause…' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Pause delivery' }).click();
    await see('Delivery is paused');
    await screen('Overview');
    await see('Delivery is paused until somebody resumes it.');
    await page.getByRole('button', { name: 'Resume delivery' }).click();
    await see('Nothing. All is well.');
    // What is paused here is the page, not delivery.
    await page.getByRole('button', { name: 'Live', exact: true }).click();
    await page.getByRole('button', { name: 'Paused', pressed: true }).waitFor();
    let asked = 0;
    const count = () => { asked += 1; };
    page.on('request', count);
    await page.evaluate(() => fetch('v1/queue/pause', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' }));
    // Until the server has taken another sample of itself: that takes longer than a page that is live is silent.
    const samples = async () => (await (await fetch(new URL('v1/history', page.url()))).json()).at.length;
    for (const before = await samples(); (await samples()) === before; ) await new Promise((resolve) => setTimeout(resolve, 100));
    page.off('request', count);
    assert.equal(asked, 1, 'a page that is paused asks nothing');
    await see('And they are applied at once.', answers());
    await page.getByRole('button', { name: 'Paused', pressed: true }).click();
    await page.getByRole('button', { name: 'Live', exact: true, pressed: false }).waitFor();
    await see('Delivery is paused until somebody resumes it.');
    await page.getByRole('button', { name: 'Resume delivery' }).click();
    await see('Nothing. All is well.');
  },

  // A write has rotted while it waited; another is refused again and again, a third for good.
  async lost({ url }) {
    await page.goto(url);
    await see('1 lost', answers());
    await see(/^Acknowledged writes were lost\. Keep a copy of the queue directory/);
    assert.equal(await page.getByText('All is well').count(), 0);
    await accessible('the first screen with a loss');
    await screen(/^Dead letters/);
    const parked = page.getByRole('region', { name: '2 writes are parked' });
    await see(/FOREIGN KEY/, parked);
    await see(/^Correct what it conflicts with/, parked);
    await see('They wait behind a parked write of their record, to keep its order.', parked);
    await accessible('what is parked');
    await picture('parked');
    await parked.getByRole('link', { name: /^Show what is parked: FOREIGN KEY/ }).click();
    await see('2 matches on this page');
    await page.goto('about:blank');
  },

  async settings({ secret }) {
    await screen('Settings');
    await page.getByRole('row', { name: /queue\.directory/ }).waitFor();
    await see('POST /v1/dead-letters/retry');
    await see(/^POST \/v1\/dead-letters\/\d+-\d+\/edit$/);
    await see('POST /v1/queue/pause');
    assert.ok(!(await page.content()).includes(secret), 'a secret is shown');
    await accessible('settings');
    await picture('settings');
  },

  // A server with tokens, under a prefix: a reader sees everything and can do nothing.
  async reader({ url, token, secret }) {
    const proxy = await underPrefix('/ops/outlast/', url);
    refusals = 401;
    await page.goto(proxy.url);
    await heading('Who are you?');
    await accessible('the question for a token');
    // Typographers' quotes came along: no request could carry them.
    await page.getByLabel('Token').fill(`“${token}”`);
    await page.getByRole('button', { name: 'Go on' }).click();
    await see('This is no token: a character in it is not visible ASCII', page.getByRole('alert'));
    await page.getByLabel('Token').fill('wrong');
    await page.getByRole('button', { name: 'Go on' }).click();
    await see('the token is not one that this server takes');
    await page.getByLabel('Token').fill(token);
    await page.getByRole('button', { name: 'Go on' }).click();
    await see('1 lost', answers());
    refusals = null;
    await see('1 acknowledged write was lost before this start: see that it has been sent again.');
    const actions = page.getByRole('main').getByRole('button', { name: /…$|^Resume|^Stop/ });
    await screen(/^Queue/);
    await see('Running');
    assert.equal(await actions.count(), 0);
    await page.getByRole('row', { name: /children\/bob/ }).first().getByRole('link').click();
    await see('Last refusal');
    assert.equal(await actions.count(), 0);
    await screen(/^Dead letters/);
    await see('The database refused 1 write for good.');
    assert.equal(await actions.count(), 0);
    await page.getByRole('table').getByRole('link').first().click();
    await heading(/^Dead letter \d/);
    await see('exists: ');
    assert.equal(await actions.count(), 0);
    await screen('Settings');
    await see('Only operators see them. Your token has the role reader.');
    assert.ok(!(await page.content()).includes(secret), 'a secret is shown');
    await page.reload();
    await see('Your token has the role reader.');
    await page.getByRole('button', { name: 'Sign out' }).click();
    refusals = 401;
    await heading('Who are you?');
    await page.goto('about:blank');
    proxy.server.close();
    proxy.server.closeAllConnections();
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { step, ...given } = JSON.parse(line);
  let error = null;
  try {
    await steps[step](given);
    assert.deepEqual(complaints, [], 'the console complained');
  } catch (failure) {
    const text = await page.evaluate(() => document.body.innerText).catch(() => '');
    error = `${failure.stack}\n--- the page at ${page.url()} ---\n${text}`;
  }
  process.stdout.write(`${JSON.stringify(error === null ? { ok: true } : { ok: false, error })}\n`);
}
await context.close();
