// The page in a browser, against the stand-in: what is on the screen, and what was asked for.
//
// Every test ends with a look at the console: an error, or a violation of the policy, fails it.

import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { standIn, TOKEN, HOSTILE, WORLDS } from './stand-in.mjs';
import { launch, complaints, impatient } from './browser.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
// A wait is ended by what it waits for; the limit is only for what never comes.
const WAIT = { timeout: Number(process.env.PAGE_PATIENCE ?? 120_000) };
let browser;
before(async () => { browser = await launch(); });
after(async () => { await browser?.close(); });

/** A test with a relay and a page of its own. */
function scene(name, { world = 'busy', hash = '', token = TOKEN, width = 1280, height = 900, dark = false, hurry = true, change } = {}, body) {
  test(name, { timeout: 600_000 }, async () => {
    const relay = await standIn(world, { page: process.env.PAGE_FILE || undefined });
    change?.(relay.world);
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    page.setDefaultTimeout(WAIT.timeout);
    const said = complaints(page);
    try {
      await page.setViewport({ width, height });
      await page.emulateTimezone('UTC');
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }, { name: 'prefers-reduced-motion', value: 'reduce' }]);
      if (hurry) await impatient(page);
      await page.goto(`${relay.url}#${[token && `token=${encodeURIComponent(token)}`, hash].filter(Boolean).join('&')}`);
      await body({ page, relay, world: relay.world, ...tools(page, relay) });
      assert.deepEqual(said, [], 'the console is silent');
    } finally {
      await context.close();
      await relay.close();
    }
  });
}

function tools(page, relay) {
  const text = (selector) => page.$eval(selector, (element) => element.innerText.replace(/\s+/g, ' ').trim());
  /** Waits until the text of an element is (or holds) this. */
  const reads = (selector, wanted) => page.waitForFunction((s, source, flags) => {
    const element = document.querySelector(s);
    return element && new RegExp(source, flags).test(element.innerText.replace(/\s+/g, ' ').trim());
  }, WAIT, selector, wanted instanceof RegExp ? wanted.source : wanted.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), wanted instanceof RegExp ? wanted.flags : '')
    .catch(async (error) => { throw new Error(`${selector} never read ${wanted}, but: ${await text(selector).catch(() => 'nothing')}`, { cause: error }); });
  const focused = () => page.evaluate(() => { const e = document.activeElement; return e ? `${e.id || e.tagName}|${(e.getAttribute('aria-label') ?? e.innerText ?? '').replace(/\s+/g, ' ').trim()}` : ''; });
  /** Walks with Tab until the focused element is (id or label) what is meant. */
  const tabTo = async (wanted, most = 120) => {
    const way = [];
    for (let i = 0; i < most; i++) {
      const now = await focused();
      if (wanted.test(now)) return now;
      way.push(now);
      await page.keyboard.press('Tab');
    }
    throw new Error(`Tab never reached ${wanted}: ${way.join(' > ')}`);
  };
  const rows = () => page.$$eval('#letters tr[data-id]', (all) => all.map((row) => row.dataset.id));
  const button = (scope, label) => page.waitForFunction((s, source) => [...document.querySelectorAll(`${s} button`)].find((b) => new RegExp(source).test(b.innerText) && !b.disabled && b.offsetParent !== null), WAIT, scope, label.source);
  const press = async (scope, label) => (await button(scope, label)).asElement().click();
  const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  const polls = (n) => page.waitForFunction((n) => window.pollsSeen >= n, WAIT, n);
  const posts = (verb) => relay.asked('POST', `/api/dead-letters/${verb}`).map((one) => one.body);
  return { text, reads, focused, tabTo, rows, press, overflow, polls, posts };
}
const LIST = 'view=dead-letters';

// ---------------------------------------------------------------- overview

scene('the overview says what the relay says', {}, async ({ page, text, reads, world }) => {
  await reads('#relay', /^orders$/);
  await reads('#ready', /^Ready$/);
  assert.equal(await text('#version'), 'outbox-relay 0.1.0');
  assert.match(await text('#uptime'), /^26 h \d+ min$/);
  assert.match(await text('#verdict'), /^All is well/);
  assert.match(await text('#tile-breaker'), /Closed opened once/);
  assert.match(await text('#tile-in-flight'), /of 10k .* of 64 MiB/);
  assert.match(await text('#tile-latency'), /ms p50 p99 \d+ ms/);
  assert.deepEqual(await page.$$eval('#parts .name', (all) => all.map((e) => e.innerText)), world.parts.map((part) => part.part));
  assert.match(await text('tr[data-table="shop.outbox_messages"]'), /768 groups Running .*3 min 1 s late window 3 min none keeps up 23 h 56 min of the log's 24 h 1,204,331 3/);
  assert.match(await text('#stage-queue'), /^Queue from read to handed over p50 0\.\d+ ms p99 \d\.\d+ ms$/);
  assert.equal(await page.title(), 'orders · outbox-relay');
});

scene('rates are the differences of the counters, and a restarted relay makes no spike', { change: (w) => { w.steady = 50; w.pace = 50; } }, async ({ reads, polls, page, world }) => {
  await reads('#tile-published', '50/s');
  await reads('#tile-read', '50/s');
  await polls(30);
  Object.assign(world, { uptime: 1 });
  Object.assign(world.totals, { read: 7, published: 7, reads: 3, rows_read: 3 });
  await reads('#counters', /published \d{2,3}\b/);
  await polls(await page.evaluate(() => window.pollsSeen) + 10);
  await reads('#tile-published', '50/s');
  await reads('#summary-throughput', /published 50\/s; read 50\/s\.$/);
});

scene('charts move, and are read by pointer and by keyboard', {}, async ({ page, text, reads, polls }) => {
  await polls(40);
  const line = () => page.$eval('#plot-throughput path[data-series="published"]', (path) => path.getAttribute('d'));
  const before = await line();
  await page.waitForFunction((d) => document.querySelector('#plot-throughput path[data-series="published"]').getAttribute('d') !== d, WAIT, before);
  await page.evaluate(() => { window.patient = true; });
  const valueNow = () => page.$eval('#plot-throughput', (plot) => plot.getAttribute('aria-valuetext'));
  assert.equal(await valueNow(), 'now');
  await page.focus('#plot-throughput');
  await page.keyboard.press('ArrowLeft');
  const one = await valueNow();
  assert.match(one, /^\d\d:\d\d:\d\d: published [\d,]+\/s, read [\d,]+\/s$/);
  await page.keyboard.press('ArrowLeft');
  assert.notEqual(await valueNow(), one);
  await page.keyboard.press('Home');
  assert.match(await valueNow(), /^09:30:01: published –, read –$/, 'the first sample has no difference yet');
  assert.match(await text('#chart-throughput .when'), /^at 09:30:01$/);
  await page.keyboard.press('Escape');
  assert.equal(await valueNow(), 'now');
  await page.hover('#plot-latency');
  await reads('#chart-latency .when', /^at \d\d:\d\d:\d\d$/);
  await reads('#summary-latency', /^Last .*: p50 \d+ ms to \d+ ms; p99 \d+ ms to \d+ ms\.$/);
});

scene('a chart is a table too, and shows other series', {}, async ({ page, reads, polls, press }) => {
  await polls(70);
  await press('#chart-throughput', /^Table$/);
  await reads('#chart-throughput .minutes', /Minute published read 09:3\d [\d,]+\/s [\d,]+\/s/);
  await page.click('#chart-latency input[value="Stages p99"]');
  await reads('#chart-latency .legend', /visible \d+ ms queue [\d.]+ ms kafka \d+ ms/);
  await page.click('#chart-lag input[value="Watermark"]');
  await reads('#chart-lag .legend', /shop\.outbox_messages 3 min 1 s/);
  await page.waitForFunction(() => [...document.querySelectorAll('#plot-lag text')].some((t) => t.textContent === 'late window 3 min'), WAIT);
});

scene('dead letters that hold up no key are seen', { world: 'dead-letters', change: (w) => { w.skips = true; } }, async ({ reads, text, world }) => {
  await reads('#tile-dead', /\d+ wait/);
  assert.match(await text('#verdict'), /\d+ dead letters wait for somebody; no key is held up/);
  await reads('#parked-count', /^\d+$/);
  world.letters = [];
  await reads('#tile-dead', /0 keys wait/);
});

scene('what is wrong is said first', { world: 'breaker-open' }, async ({ reads, text, page }) => {
  await reads('#ready', /^Not ready$/);
  assert.match(await text('#verdict'), /^Not ready Kafka failed: the breaker is open: no broker can be reached, for 2 min 10 s/);
  assert.match(await text('#verdict'), /a limit is reached.*6 keys wait behind dead letters Look at them/);
  assert.match(await text('#tile-breaker'), /Open nothing is attempted; opened 3 times/);
  assert.match(await page.title(), /^✕ orders/);
  assert.match(await text('#parts .part'), /^Failed Kafka/, 'the failed part comes first');
  await page.click('#verdict a');
  await page.waitForSelector('#letters tr[data-id]');
});

scene('a breaker that is half-open is shown and said', { change: (w) => { w.breaker = { state: 'half-open', opened: 2 }; } }, async ({ reads, page }) => {
  await reads('#tile-breaker', /^Breaker Half-open probing; opened 2 times$/);
  assert.match(await page.$eval('#tile-breaker', (e) => e.className), /\bwarn\b/);
  await reads('#verdict', /^Working, with one thing to look at Breaker half-open: a few events probe whether Kafka takes records again$/);
});

scene('a table that is behind is not well, one that has just been read is', { change: (w) => { w.pace = 0; } }, async ({ reads, polls, page, world }) => {
  const [table] = world.tables, row = 'tr[data-table="shop.outbox_messages"]';
  table.backlog = 24;
  await reads('#verdict', /^Working, with one thing to look at shop\.outbox_messages is 24 s behind$/);
  await reads(row, /Running .* 24 s behind/);
  table.backlog = 3;
  await reads('#verdict', /^All is well/);
  await reads(row, /Running .* 3 s keeps up/);
  // Read every ten seconds (follow.idle_poll): it rises and falls, and nobody is called.
  await page.evaluate(() => { window.titles = new Set(); new MutationObserver(() => window.titles.add(document.querySelector('#verdict h2').textContent)).observe(document.querySelector('#verdict h2'), { childList: true, characterData: true, subtree: true }); });
  Object.defineProperty(table, 'backlog', { get: () => (world.now / 1000) % 11, enumerable: true });
  await polls(await page.evaluate(() => window.pollsSeen) + 40);
  assert.deepEqual(await page.evaluate(() => [...window.titles]), []);
  Object.defineProperty(table, 'backlog', { value: 4, writable: true, enumerable: true });
  for (const state of ['failed', 'starting']) {
    table.state = state;
    await reads(row, /(Failed|Starting) .* 4 s 23 h/);
  }
});

scene('a relay that is not ready says what it waits for', { change: (w) => { w.ready = false; w.parts.push({ part: 'start', state: 'degraded', reason: 'ScyllaDB cannot be reached: connection refused', for_seconds: 7 }); } }, async ({ reads, text, world }) => {
  await reads('#verdict', /^Not ready start degraded: ScyllaDB cannot be reached: connection refused, for 7 s$/);
  world.parts[0] = { ...world.parts[0], state: 'failed', reason: 'no node answers' };
  await reads('#verdict', /^Not ready ScyllaDB failed: no node answers, .* start degraded: ScyllaDB cannot be reached/);
  assert.doesNotMatch(await text('#verdict'), /no part has failed/);
});

scene('rates are rounded before their digits are chosen', { change: (w) => { w.steady = 9.96; w.pace = 10; } }, async ({ reads, world }) => {
  await reads('#tile-published', /Published 10\/s/);
  world.steady = 9.9;
  await reads('#tile-published', /Published 9\.9\/s/);
});

scene('a relay that gives no answer is not called ready', { hurry: false }, async ({ page, reads, world, text }) => {
  await reads('#verdict', /^All is well/);
  const frozen = Promise.withResolvers?.() ?? (() => { const made = {}; made.promise = new Promise((resolve) => { made.resolve = resolve; }); return made; })();
  world.frozen = frozen.promise;
  await reads('#ready', /^Waiting for an answer$/);
  await reads('#verdict', /^Waiting for an answer For [3-9] s; what is shown is from 09:3\d:\d\d\.$/);
  assert.match(await page.title(), /^! /);
  assert.equal(await text('#trouble'), '');
  world.frozen = null; frozen.resolve();
  await reads('#ready', /^Ready$/);
  await reads('#verdict', /^All is well/);
});

scene('of many tables those that need a person come first, and the focus stays', { change: (w) => { w.pace = 10; w.tables = Array.from({ length: 24 }, (_, i) => ({ ...w.tables[0], table: `shop.outbox_${i}` })); Object.assign(w.tables[20], { state: 'failed' }); Object.assign(w.tables[7], { state: 'paused' }); } }, async ({ page, reads, focused, press, world }) => {
  const first = () => page.$$eval('#tables tr[data-table]', (all) => all.slice(0, 4).map((row) => row.dataset.table));
  await reads('#tables-note', /24 outbox tables/);
  assert.deepEqual(await first(), ['shop.outbox_20', 'shop.outbox_7', 'shop.outbox_0', 'shop.outbox_1']);
  await reads('#verdict', /^A part has failed/);
  await page.focus('tr[data-table="shop.outbox_3"] button[aria-label^="Pause"]');
  world.tables[3].state = 'paused';
  await page.waitForFunction(() => document.querySelectorAll('#tables tr[data-table]')[1].dataset.table === 'shop.outbox_3', WAIT);
  assert.match(await focused(), /Resume shop\.outbox_3$/);
});

scene('numbers stay whole beside long names', { change: (w) => { w.tables[0].table = `${'keyspace_'.repeat(5)}.${'messages_'.repeat(5)}`; w.tables[0].events = 1_204_331_554; } }, async ({ page, reads, overflow }) => {
  await reads('#ready', /^Ready$/);
  const broken = await page.$$eval('#tables .figure', (all) => all.filter((e) => e.getClientRects().length > 1).map((e) => e.innerText));
  assert.deepEqual(broken, []);
  for (const width of [980, 840]) {
    await page.setViewport({ width, height: 900 });
    assert.equal(await overflow(), 0, `${width}`);
    assert.ok(await page.$eval('.twist', (e) => e.getBoundingClientRect().height) < 220, 'nor is the name a column of letters');
  }
});

scene('a paused table says when its rows expire', { world: 'paused' }, async ({ reads, text, page }) => {
  await reads('#verdict', /^Working, with \d things/);
  assert.equal(Number((await text('#verdict h2')).match(/\d+/)[0]), await page.$$eval('#verdict li', (all) => all.length), 'the title counts every line');
  await reads('#verdict', /rows that are not published begin to vanish from the CDC log in 9 h 5\d min/);
  assert.doesNotMatch(await text('#verdict'), /a person has paused/, 'a pause is told once');
  await reads('tr[data-table="shop.outbox_messages"]', /Paused .* behind .*Resume$/);
});

scene('an empty relay', { world: 'empty' }, async ({ reads }) => {
  await reads('#verdict', /^Not ready Not ready no part has failed: the relay is starting or stopping/);
  await reads('#tables', /No outbox table yet/);
  await reads('#parts-note', /no part is checked yet/);
});

scene('a relay that cannot be reached, and comes back', {}, async ({ page, world, reads, polls, text }) => {
  await polls(3);
  world.reachable = false;
  await reads('#trouble', /^The relay cannot be reached There is no connection; what is shown is from 09:3\d:\d\d\./);
  assert.equal(await text('#ready'), 'Unreachable');
  assert.equal(await page.$eval('#token-pill', (e) => e.textContent), 'Not known now');
  assert.match(await page.title(), /^✕/);
  assert.equal(await page.$eval('#verdict', (e) => e.hidden), true, 'an old verdict is not shown');
  await page.waitForFunction(() => document.querySelector('#alert').textContent === 'The relay cannot be reached.', WAIT);
  world.reachable = true;
  await page.evaluate(() => [...document.querySelectorAll('#trouble button')].forEach((b) => b.click()));
  await page.waitForFunction(() => document.querySelector('#trouble').hidden, WAIT);
  await reads('#ready', /^Ready$/);
  await page.waitForFunction(() => document.querySelector('#token-pill').textContent === 'Accepted', WAIT);
});

scene('it asks more rarely while it fails', { hurry: false }, async ({ page, world, reads }) => {
  await reads('#ready', /^Ready$/);
  const pauses = await page.evaluate(() => { const seen = window.seenPauses = []; const real = window.setTimeout; window.setTimeout = (f, ms, ...rest) => { if (f.name === 'poll') { seen.push(ms); ms = 1; } return real(f, ms, ...rest); }; return seen; });
  assert.deepEqual(pauses, []);
  world.reachable = false;
  await page.waitForFunction(() => window.seenPauses.filter((ms) => ms === 30000).length > 1, WAIT);
  const seen = await page.evaluate(() => window.seenPauses);
  assert.deepEqual(seen.filter((ms) => ms > 1000).slice(0, 6), [2000, 4000, 8000, 16000, 30000, 30000]);
});

scene('an answer that is none', { change: (w) => { w.broken = 502; } }, async ({ reads }) => {
  await reads('#trouble', /^The relay does not answer as expected HTTP 502/);
});

scene('a hidden tab asks for nothing', {}, async ({ page, polls }) => {
  await polls(5);
  const hide = (hidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
  const frames = () => page.evaluate(async () => { for (let i = 0; i < 30; i++) await new Promise((resolve) => { requestAnimationFrame(resolve); }); return window.pollsSeen; });
  await hide(true);
  const start = await frames();
  assert.equal(await frames(), start, 'no poll while hidden');
  await hide(false);
  await polls(start + 3);
});

scene('groups of a table, furthest behind first', { hurry: false }, async ({ page, reads, relay, focused }) => {
  await reads('#ready', /^Ready$/);
  await page.focus('tr[data-table="shop.outbox_messages"] .twist');
  await page.keyboard.press('Enter');
  await page.waitForSelector('.inner tbody tr');
  assert.equal(await page.$eval('.twist', (e) => e.getAttribute('aria-expanded')), 'true');
  await reads('.inner', /25 groups, furthest behind first; there are more/);
  assert.match(await page.$eval('.inner tbody tr', (row) => row.innerText), /-9223372036854775001/, 'every digit of the token');
  assert.equal(relay.asked('GET', '/api/tables/shop.outbox_messages/groups')[0].token, null, 'groups are open: no token is sent');
  await page.evaluate(() => [...document.querySelectorAll('.inner button')].find((b) => b.innerText === 'Show more').click());
  await page.waitForFunction(() => document.querySelectorAll('.inner tbody tr').length === 100, WAIT);
  const before = relay.asked('GET', '/api/status').length;
  while (relay.asked('GET', '/api/status').length < before + 2) await page.evaluate(() => new Promise((resolve) => { requestAnimationFrame(resolve); }));
  assert.match(await focused(), /shop\.outbox_messages$/, 'updates leave the focus where it is');
});

// ---------------------------------------------------------------- token

scene('the token of the address is taken and removed', { token: 'a b/ü+=&', hash: LIST, change: (w) => { w.token = 'a b/ü+=&'; } }, async ({ page, reads, relay }) => {
  await reads('#letters-title', /^0 found$/);
  assert.equal(new URL(page.url()).hash, '#view=dead-letters');
  assert.equal(await page.evaluate(() => sessionStorage.getItem('outbox-relay-token')), 'a b/ü+=&');
  assert.equal(await page.evaluate(() => localStorage.length), 0);
  assert.ok(relay.asked('GET', '/api/status').every((one) => one.token === null), 'it is sent only where it is needed');
});

scene('a wrong token is called wrong', { world: 'dead-letters', token: 'guess', hash: LIST }, async ({ page, reads, rows, press, text }) => {
  await reads('#letters', /The token is wrong/);
  await press('#letters', /Enter another/);
  await page.type('#token-input', 'another');
  await page.keyboard.press('Enter');
  await reads('#token-error', /^This token is wrong\.$/);
  assert.equal(await text('#letters-title'), 'Not shown');
  await page.keyboard.type(TOKEN);
  await page.keyboard.press('Enter');
  await page.waitForSelector('#letters tr[data-id]');
  assert.equal((await rows()).length, 8);
});

scene('a token dialog that closes gives the focus back', { world: 'dead-letters', token: null, hash: LIST }, async ({ page, reads, press, focused, text }) => {
  await press('#letters', /Enter the token/);
  assert.match(await text('#token-hint'), /http\.admin_token_file/);
  await page.keyboard.type('guess');
  await page.keyboard.press('Enter');
  await reads('#token-error', /^This token is wrong\.$/);
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => /Enter the token/.test(document.activeElement.innerText), WAIT);
  await page.keyboard.press('Enter');
  await page.keyboard.type(TOKEN);
  await page.keyboard.press('Enter');
  await page.waitForSelector('#letters tr[data-id]');
  await page.waitForFunction(() => document.activeElement.id === 'letters-title', WAIT);
  await page.click('a[data-view="control"]');
  await page.focus('#token-enter');
  await page.keyboard.press('Enter');
  await page.keyboard.type('guess');
  await page.keyboard.press('Enter');
  await reads('#token-error', /^This token is wrong\.$/);
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => document.activeElement.id === 'token-enter', WAIT);
  assert.equal(await text('#token-pill'), 'Accepted', 'the right one is kept');
  assert.match(await focused(), /Enter another/);
});

scene('a pause that is confirmed by keyboard leaves the focus at its button', { change: (w) => { w.pace = 10; } }, async ({ page, reads, focused }) => {
  await page.waitForFunction(() => document.querySelector('#token-pill').textContent === 'Accepted', WAIT);
  await page.focus('tr[data-table="billing.outboxevent"] button[aria-label^="Pause"]');
  await page.keyboard.press('Enter');
  await reads('#pause-dialog', /Pause billing\.outboxevent\?/);
  await page.keyboard.press('Enter');
  await reads('tr[data-table="billing.outboxevent"]', /Paused .*Resume$/);
  await page.waitForFunction(() => !document.querySelector('dialog[open]') && document.activeElement !== document.body, WAIT);
  assert.match(await focused(), /Resume billing\.outboxevent$/);
  await page.keyboard.press('Enter');
  await reads('tr[data-table="billing.outboxevent"]', /Running .*Pause$/);
  assert.match(await focused(), /Pause billing\.outboxevent$/);
});

scene('without a token, an action asks for it and goes on', { token: null, change: (w) => { w.pace = 10; } }, async ({ page, reads, press, relay }) => {
  await reads('#ready', /^Ready$/);
  await press('tr[data-table="billing.outboxevent"]', /Pause/);
  await reads('#token-dialog', /To pause billing\.outboxevent, the relay wants its admin token/);
  await page.keyboard.type(TOKEN);
  await page.keyboard.press('Enter');
  await reads('#pause-dialog', /Pause billing\.outboxevent\? Nothing of this table is read or published until/);
  assert.equal(relay.asked('POST', '/api/tables/billing.outboxevent/pause').length, 0, 'not before it is confirmed');
  await page.keyboard.press('Enter');
  await reads('tr[data-table="billing.outboxevent"]', /Paused .*Resume$/);
  await page.waitForFunction(() => document.activeElement.getAttribute('aria-label') === 'Resume billing.outboxevent', WAIT);
  assert.equal(relay.asked('POST', '/api/tables/billing.outboxevent/pause')[0].token, `Bearer ${TOKEN}`);
  await press('tr[data-table="billing.outboxevent"]', /Resume/);
  await reads('tr[data-table="billing.outboxevent"]', /Running .*Pause$/);
  assert.equal(relay.asked('POST', '/api/tables/billing.outboxevent/resume').length, 1);
});

scene('admin calls that are off are said to be off', { world: 'off', token: null, hash: LIST }, async ({ page, reads, relay }) => {
  await reads('#letters', /Admin calls are off This relay has no admin token.*http\.admin_token_file/);
  await page.click('a[data-view="control"]');
  await reads('#control-notice', /Admin calls are off/);
  await page.click('a[data-view="overview"]');
  await page.waitForFunction(() => document.querySelector('tr[data-table] button[aria-label^="Pause"]').disabled, WAIT);
  assert.ok(relay.world.asked.every((one) => one.path === '/' || one.path === '/api/status'), 'nothing is asked that is known to be refused');
});

scene('admin calls that turn out to be off (403)', { world: 'off', hash: LIST, change: (w) => { w.letters = WORLDS['dead-letters']().letters; } }, async ({ reads }) => {
  await reads('#letters', /Admin calls are off/);
});

// ---------------------------------------------------------------- dead letters

scene('the list shows what is known of each', { world: 'dead-letters', hash: LIST }, async ({ page, text, rows }) => {
  await page.waitForSelector('#letters tr[data-id]');
  assert.equal((await rows()).length, 8);
  assert.match(await text('#letters tr[data-id$="01"]'), /^OrderPlaced 0197a3c2-\S+ order-17 outbox\.event\.order shop\.outbox_messages permanent too_large too_large: Broker: .*ago Replay/);
  assert.match(await text('#letters tr[data-id$="02"]'), /parked waits for an earlier one of its key/);
  assert.match(await text('#letters tr[data-id$="08"]'), /0xff00a1/);
  assert.match(await text('#parked-count'), /^6$/);
});

scene('a key that is a UUID is whole, and what is cut has a title', { world: 'dead-letters', hash: LIST, change: (w) => { w.letters[0].key = '7f0e6c52-94d1-4b8e-a3f7-2c5d8e9b1a60'; w.letters[3].key = 'k'.repeat(300); } }, async ({ page }) => {
  await page.waitForSelector('#letters tr[data-id]');
  const key = (end) => page.$eval(`#letters tr[data-id$="${end}"] .clamp.mono`, (e) => ({ cut: e.scrollHeight > e.clientHeight + 1, lines: Math.round(e.clientHeight / 18), title: e.title }));
  assert.deepEqual(await key('01'), { cut: false, lines: 1, title: '7f0e6c52-94d1-4b8e-a3f7-2c5d8e9b1a60' });
  assert.equal((await key('04')).cut, true);
  assert.deepEqual(await page.$$eval('#letters .clamp', (all) => all.filter((e) => e.title !== e.textContent).map((e) => e.textContent)), []);
  assert.equal(await page.$eval('#letters tr[data-id$="01"] td .small', (e) => e.title), '0197a3c2-5b1e-7000-8000-000000000001');
});

scene('dead letters are short on a phone', { width: 360, height: 740, hash: LIST, change: (w) => { const all = WORLDS['dead-letters']().letters; w.letters = Array.from({ length: 25 }, (_, i) => ({ ...all[i % 6], id: `0197a3c2-5b1e-7000-8000-0000000001${String(i).padStart(2, '0')}`, key: `key-${i}` })); } }, async ({ page, reads, overflow }) => {
  await reads('#letters-title', /^25 found$/);
  const height = await page.$eval('#letters', (e) => e.offsetHeight);
  assert.ok(height < 25 * 200, `${height} pixels`);
  assert.equal(await overflow(), 0);
});

scene('search by every field', { world: 'dead-letters', hash: LIST }, async ({ page, reads, relay, rows, press }) => {
  await page.waitForSelector('#letters tr[data-id]');
  const fields = { table: 'shop.outbox_messages', topic: 'outbox.event.order', key: 'order-17', type: 'OrderPlaced', id: '0197a3c2-5b1e-7000-8000-000000000001' };
  for (const [name, value] of Object.entries(fields)) await page.type(`#by-${name}`, value);
  await page.select('#by-reason', 'permanent');
  for (const [name, value] of [['since', '2026-01-31T09:00:00'], ['until', '2026-01-31T10:00:00']]) await page.$eval(`#by-${name}`, (input, value) => { input.value = value; }, value);
  await press('#search', /^Search$/);
  await reads('#letters-title', /^1 found$/);
  assert.deepEqual(relay.asked('GET', '/api/dead-letters').at(-1).query, { ...fields, reason: 'permanent', since: '2026-01-31T09:00:00.000Z', until: '2026-01-31T10:00:00.000Z', limit: '100' });
  await page.reload();
  await reads('#letters-title', /^1 found$/);
  assert.equal(await page.$eval('#by-key', (input) => input.value), 'order-17', 'the address keeps the search');
  await press('#search', /^Clear$/);
  await reads('#letters-title', /^8 found$/);
  await press('#chips', /^parked/);
  await reads('#letters-title', /^2 found$/);
  assert.equal((await rows()).length, 2);
  await page.$eval('#by-key', (input) => { input.value = 'nobody'; });
  await press('#search', /^Search$/);
  await reads('#letters', /No dead letter matches/);
  await page.$eval('#by-table', (input) => { input.value = 'shop.orders'; });
  await press('#search', /^Search$/);
  await reads('#letters', /could not be read The relay says: the relay has no table shop\.orders/);
  assert.deepEqual(await rows(), [], 'nothing is shown, replayed or discarded that another search has found');
  assert.equal(await page.$eval('#discard-found', (b) => b.hidden), true);
});

scene('more than a hundred', { world: 'busy', hash: LIST, change: (w) => { const [one] = WORLDS['dead-letters']().letters; w.letters = Array.from({ length: 130 }, (_, i) => ({ ...one, id: `event-${i}`, key: `key-${i}` })); } }, async ({ page, reads, rows, press, relay }) => {
  await reads('#letters-title', /^100\+ found$/);
  await press('#letters', /Show 100 more/);
  await reads('#letters-title', /^130 found$/);
  assert.equal((await rows()).length, 130);
  assert.equal(relay.asked('GET', '/api/dead-letters').at(-1).query.limit, '200');
});

scene('one dead letter: error, remedy, headers, payload', { world: 'dead-letters', hash: LIST }, async ({ page, reads, text, press }) => {
  await page.waitForSelector('#letters tr[data-id]');
  await page.click('#letters tr[data-id$="01"] .link');
  await page.waitForSelector('#payload');
  const body = await text('#letter-body');
  assert.match(body, /^Error: too_large too_large: Broker: Message size too large.* What to do Raise message\.max\.bytes under kafka\.properties/);
  assert.match(body, /Key order-17 Topic outbox\.event\.order Table shop\.outbox_messages Attempts 1/);
  assert.match(body, /traceparent 00-4bf92f3577b34da6a3ce929d0e0e4736/);
  const payload = await page.$eval('#payload', (e) => e.textContent);
  assert.match(payload, /^\{\n {2}"order_id": 9007199254740993123,\n {2}"customer": "c-2041",/, 'laid out, and every digit kept');
  assert.match(payload, /"total": 149\.90,/);
  await press('#letter-body', /^As written$/);
  assert.equal(await page.$eval('#payload', (e) => e.textContent), WORLDS['dead-letters']().letters[0].payload);
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => !document.querySelector('#letter-dialog').open, WAIT);
  await page.click('#letters tr[data-id$="07"] .link');
  await reads('#letter-body', /Row Column Value aggregate_id customer-88 .*payload null/i);
  await page.keyboard.press('Escape');
  await page.click('#letters tr[data-id$="08"] .link');
  await page.waitForSelector('#payload');
  assert.match(await page.$eval('#payload', (e) => e.textContent), /^000000 {2}89 50 4e 47 .* {2}\.PNG/);
  assert.equal(await page.$$eval('#letter-actions button', (all) => all.filter((b) => b.disabled).length), 2, 'a key that is no text cannot be named in a filter');
});

scene('one without an id, and another of its millisecond', { world: 'dead-letters', hash: LIST, change: (w) => {
  const broken = w.letters.find((l) => l.reason === 'undecodable');
  const of = (n) => ({ ...broken, id: '', key: `nameless-${n}`, cdc_batch_seq_no: n, row: { aggregate_id: `nameless-${n}` } });
  w.letters = [of(1), of(2)];
} }, async ({ page, reads, rows, relay, world }) => {
  await reads('#letters-title', /^2 found$/);
  assert.equal((await rows()).length, 2);
  await page.click('#letters tbody tr:nth-child(2) .link');
  await reads('#letter-body', /Row Column Value aggregate_id nameless-2/i);
  assert.equal(relay.asked('GET', '/api/dead-letters').at(-1).query.whole, 'true');
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => !document.querySelector('#letter-dialog').open, WAIT);
  world.letters = world.letters.slice(1);
  await page.click('#letters tbody tr:nth-child(1) .link');
  await reads('#letter-body', /It is no dead letter any more/);
});

scene('one that is gone meanwhile', { world: 'dead-letters', hash: LIST }, async ({ page, reads, world }) => {
  await page.waitForSelector('#letters tr[data-id]');
  world.letters = world.letters.slice(1);
  await page.click('#letters tr[data-id$="01"] .link');
  await reads('#letter-body', /It is no dead letter any more/);
});

scene('by keyboard alone: search, show, replay, done', { world: 'dead-letters' }, async ({ page, reads, tabTo, focused, posts, rows, relay }) => {
  await reads('#ready', /^Ready$/);
  await tabTo(/\|Dead letters/);
  await page.keyboard.press('Enter');
  await page.waitForSelector('#letters tr[data-id]');
  await tabTo(/^by-id\|/);
  await page.keyboard.type('0197a3c2-5b1e-7000-8000-000000000004');
  await page.keyboard.press('Enter');
  await reads('#letters-title', /^1 found$/);
  await tabTo(/\|InvoiceIssued$/);
  await page.keyboard.press('Enter');
  await page.waitForSelector('#payload');
  assert.match(await focused(), /^letter-title\|/, 'the focus is in the dialog');
  await tabTo(/\|Replay this event/);
  await page.keyboard.press('Enter');
  await reads('#act-status', /1 event of 1 key would be published/);
  const filter = { table: 'billing.outboxevent', id: '0197a3c2-5b1e-7000-8000-000000000004' };
  assert.deepEqual(posts('replay'), [{ filter, all: false, dry_run: true, rate: null }], 'so far nothing but a dry run');
  await tabTo(/^act-go\|Replay 1 event$/);
  await page.keyboard.press('Enter');
  await reads('#act-status', /Done 1 published/);
  assert.deepEqual(posts('replay').at(-1), { filter, all: false, dry_run: false, rate: null });
  assert.ok(relay.world.asked.some((one) => one.path.startsWith('/api/requests/') && one.token === `Bearer ${TOKEN}`));
  await tabTo(/^act-close\|Close$/);
  await page.keyboard.press('Enter');
  await reads('#letters', /No dead letter matches/);
  await page.waitForFunction(() => document.activeElement.id === 'letters-title', WAIT);
  assert.deepEqual(await rows(), []);
  assert.ok(!relay.world.letters.some((l) => l.id.endsWith('04')));
});

scene('replay of a key, with what its order needs', { world: 'dead-letters', hash: LIST }, async ({ page, reads, press, posts }) => {
  await page.waitForSelector('#letters tr[data-id]');
  await page.click('#letters tr[data-id$="03"] .link');
  await page.waitForSelector('#payload');
  await press('#letter-actions', /Replay this event/);
  await reads('#act-status', /3 events of 1 key would be published 1 matches; the other 2 are of the same keys and go too: earlier ones, which must go first, and parked ones behind/);
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => /^Replay this event/.test(document.activeElement.innerText), WAIT);
  await press('#letter-actions', /Replay its key/);
  await reads('#act-status', /3 events of 1 key would be published/);
  await page.type('#act-rate', '50');
  await press('#act-dialog', /^Replay 3 events$/);
  await reads('#act-status', /Done 3 published/);
  const filter = { table: 'shop.outbox_messages', key: 'order-17' };
  assert.deepEqual(posts('replay').slice(-2), [{ filter, all: false, dry_run: true, rate: null }, { filter, all: false, dry_run: false, rate: 50 }]);
  await press('#act-dialog', /^Close$/);
  await page.waitForFunction(() => !document.querySelector('dialog[open]'), WAIT);
  await reads('#letters-title', /^5 found$/);
  await reads('#jobs', /Replay key order-17 of shop\.outbox_messages Done 3 published/);
});

scene('requests outlive a reload of the page', { world: 'dead-letters', hash: `${LIST}&key=order-17`, change: (w) => { w.hold = true; } }, async ({ page, reads, press, relay, world }) => {
  await reads('#letters-title', /^3 found$/);
  await press('#letters-card', /Replay what matches/);
  await press('#act-dialog', /^Replay 3 events$/);
  await reads('#jobs', /Replay key order-17 Running/);
  const asks = () => relay.world.asked.filter((one) => one.path.startsWith('/api/requests/')).length;
  const [name, list] = await page.evaluate(() => Object.entries(sessionStorage).find(([name]) => name.startsWith('outbox-relay-requests')));
  assert.equal(name, 'outbox-relay-requests / orders');
  assert.deepEqual(JSON.parse(list).map((one) => Object.keys(one).join()), ['id,verb,planned,at,state,progress']);
  assert.doesNotMatch(list, new RegExp(`${TOKEN}|order`), 'no token, no key');
  await page.reload();
  await reads('#jobs', /^Replay asked for at 09:3\d:\d\d Running/);
  // Without the token it is shown, and not asked for.
  await page.evaluate(() => sessionStorage.removeItem('outbox-relay-token'));
  await page.reload();
  await reads('#jobs', /Waiting The page needs the token to follow it/);
  const before = asks();
  world.hold = false;
  await press('#letters', /Enter the token/);
  assert.equal(asks(), before);
  await page.keyboard.type(TOKEN);
  await page.keyboard.press('Enter');
  await reads('#jobs', /^Replay asked for at 09:3\d:\d\d Done 3 published$/);
  await reads('#letters-title', /^0 found$/);
  await page.reload();
  await reads('#jobs', /Done 3 published$/);
  const ended = asks();
  await reads('#letters-title', /^0 found$/);
  assert.equal(asks(), ended, 'what has ended is not asked for again');
  world.relay = 'invoices';
  await page.reload();
  await reads('#relay', /^invoices$/);
  await reads('#letters-title', /^0 found$/);
  assert.equal(await page.$eval('#jobs-card', (e) => e.hidden), true, 'another relay has other requests');
});

scene('replay of what the search matches, and of all', { world: 'dead-letters', hash: `${LIST}&reason=permanent` }, async ({ page, reads, press, posts, text, world }) => {
  await reads('#letters-title', /^4 found$/);
  world.fails.add('0197a3c2-5b1e-7000-8000-000000000004');
  await press('#letters-card', /Replay what matches/);
  await reads('#act-status', /6 events of 4 keys would be published 4 match; the other 2/);
  await press('#act-dialog', /^Replay 6 events$/);
  await reads('#act-status', /Done 5 published, 1 failed again\. They stay dead letters/);
  assert.deepEqual(posts('replay').at(-1), { filter: { reason: 'permanent' }, all: false, dry_run: false, rate: null });
  assert.match(await text('#jobs'), /Done in part/);
  await press('#act-dialog', /^Close$/);
  await press('#search', /^Clear$/);
  await reads('#letters-title', /^3 found$/);
  await press('#letters-card', /Replay all/);
  await reads('#act-dialog', /no filter: all dead letters .*3 events/);
  assert.deepEqual(posts('replay').at(-1), { filter: {}, all: true, dry_run: true, rate: null });
  await press('#act-dialog', /^Cancel$/);
  assert.equal(posts('replay').length, 3, 'a cancelled replay asks for nothing more');
});

scene('a discard wants more than one key press', { world: 'dead-letters', hash: `${LIST}&key=order-17` }, async ({ page, reads, press, posts, world, focused }) => {
  await reads('#letters-title', /^3 found$/);
  await press('#letters-card', /Discard what matches/);
  await reads('#act-dialog', /^Discard for good key order-17 3 events of 1 key would be removed for good They are never published/);
  await page.waitForFunction(() => document.activeElement.id === 'act-sure', WAIT);
  await page.keyboard.press('Enter');
  await page.keyboard.type('2');
  await page.keyboard.press('Enter');
  assert.deepEqual(posts('discard'), [{ filter: { key: 'order-17' }, all: false, dry_run: true }], 'the number is wrong: nothing is discarded');
  await page.keyboard.press('Backspace');
  await page.keyboard.type('3');
  await page.keyboard.press('Enter');
  await reads('#act-status', /Done 3 discarded/);
  assert.deepEqual(posts('discard').at(-1), { filter: { key: 'order-17' }, all: false, dry_run: false });
  assert.equal(world.letters.length, 5);
  assert.match(await focused(), /^act-close\|/);
});

scene('a discard of one', { world: 'dead-letters', hash: LIST }, async ({ page, reads, press, posts, world }) => {
  await page.waitForSelector('#letters tr[data-id]');
  await page.click('#letters tr[data-id$="06"] .link');
  await press('#letter-actions', /Discard this event/);
  await reads('#act-status', /1 event of 1 key would be removed for good/);
  assert.equal(await page.$eval('#act-go', (b) => b.disabled), true);
  await page.click('#act-sure');
  await press('#act-dialog', /^Discard 1 event$/);
  await reads('#act-status', /Done 1 discarded/);
  assert.deepEqual(posts('discard').map((body) => body.dry_run), [true, false]);
  assert.ok(!world.letters.some((l) => l.id.endsWith('06')));
});

scene('a request that the relay refuses is told', { world: 'dead-letters', hash: LIST, change: (w) => { w.slow = 1; } }, async ({ page, reads, world, press }) => {
  await page.waitForSelector('#letters tr[data-id]');
  await page.click('#letters tr[data-id$="06"] button:not(.link)');
  await reads('#act-status', /1 event of 1 key/);
  world.token = 'changed';
  await press('#act-dialog', /^Replay 1 event$/);
  await reads('#act-status', /does not accept this token/);
});

// ---------------------------------------------------------------- hostile data, control

scene('hostile strings are text', { world: 'hostile', hash: LIST }, async ({ page, reads, relay, press }) => {
  await page.waitForSelector('#letters tr[data-id]');
  await page.click('#letters tr[data-id$="21"] .link');
  await page.waitForSelector('#payload');
  for (const selector of ['#relay', '#letter-title', '#letter-body', '#letters', '#chips']) assert.ok((await page.$eval(selector, (e) => e.textContent)).includes(selector === '#chips' ? 'OddId' : HOSTILE), selector);
  await page.keyboard.press('Escape');
  await page.click('a[data-view="overview"]');
  await reads('#parts', HOSTILE);
  await page.click('a[data-view="dead-letters"]');
  await page.waitForSelector('#letters tr[data-id]');
  await page.evaluate(() => [...document.querySelectorAll('#letters .link')].find((b) => b.innerText === 'OddId').click());
  await reads('#letter-body', /Payload.*not json \{/);
  assert.ok(relay.world.asked.some((one) => one.path === `/api/dead-letters/${encodeURIComponent('../../livez?x=1#y')}`), 'an id stays one part of the address');
  await press('#letter-actions', /Replay its key/);
  await reads('#act-status', /1 event of 1 key/);
  assert.equal(relay.asked('POST', '/api/dead-letters/replay').at(-1).body.filter.key, ' spaced key ');
  assert.equal(await page.evaluate(() => document.querySelectorAll('img, iframe, object').length), 0);
  assert.equal(await page.evaluate(() => document.querySelectorAll('script').length), 1);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
});

scene('log level and reload', { hash: 'view=control' }, async ({ page, reads, relay, world, press }) => {
  await reads('#token-pill', /^Accepted$/);
  await page.select('#level', 'debug');
  await press('#level-form', /^Set$/);
  await reads('#level-result', /^The level is debug now\.$/);
  assert.deepEqual(relay.asked('PUT', '/api/log-level')[0].body, { level: 'debug' });
  await page.click('#reload');
  await reads('#reload-result', /^Reloaded\. In force log\.level In force in a moment: the relay's parts start anew kafka\.brokers Waits until the relay is restarted http\.listen$/);
  world.reload = { status: 200, body: { applied: [], restarted: ['follow.poll'], needs_restart: [] } };
  await page.click('#reload');
  await reads('#reload-result', /^Reloaded\. In force in a moment: the relay's parts start anew follow\.poll$/);
  world.reload = { status: 200, body: { applied: [], restarted: [], needs_restart: ['http.listen'] } };
  await page.click('#reload');
  await reads('#reload-result', /^Reloaded; nothing has changed that takes effect now\. Waits until the relay is restarted http\.listen$/);
  world.reload = { status: 422, body: { error: 'the configuration has 1 problem', problems: [{ path: 'follow.poll', origin: 'relay.yaml:7', message: 'must be a duration' }] } };
  await page.click('#reload');
  await reads('#reload-result', /the configuration has 1 problem follow\.poll must be a duration \(relay\.yaml:7\)/);
  await press('#view-control', /Forget it/);
  await reads('#token-pill', /^None$/);
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
});

scene('views are links, and Back goes back', { world: 'dead-letters' }, async ({ page, reads }) => {
  await reads('#ready', /^Ready$/);
  await page.click('a[data-view="dead-letters"]');
  await page.waitForSelector('#letters tr[data-id]');
  await page.click('a[data-view="control"]');
  await reads('#view-control', /Log level/);
  await page.goBack();
  await page.waitForFunction(() => !document.querySelector('#view-dead-letters').hidden && document.querySelector('#view-control').hidden, WAIT);
});

// ---------------------------------------------------------------- screens and people

async function everyView({ page, reads }, look) {
  await reads('#relay', /./);
  await page.waitForFunction(() => window.pollsSeen > 20, WAIT);
  const twist = await page.$('.twist');
  if (twist) { await twist.click(); await page.waitForSelector('.inner tbody tr'); }
  await look('overview');
  await page.click('a[data-view="dead-letters"]');
  await page.waitForFunction(() => document.querySelector('#letters').childElementCount > 0 && document.querySelector('#letters').getAttribute('aria-busy') === 'false', WAIT);
  await look('dead letters');
  const links = await page.$$('#letters .link');
  for (const [i] of links.slice(0, 3).entries()) {
    await page.evaluate((i) => document.querySelectorAll('#letters .link')[i].click(), i);
    await page.waitForSelector('#payload');
    await look(`dead letter ${i}`);
    if (i === 0) {
      await page.evaluate(() => [...document.querySelectorAll('#letter-actions button')].at(-1).click());
      await page.waitForSelector('#act-sure');
      await look('discard');
      await page.keyboard.press('Escape');
    }
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('dialog[open]'), WAIT);
  }
  await page.click('a[data-view="control"]');
  await look('control');
}
/** No rule of axe is broken; says the first place of each that is. */
async function audit(page, where) {
  const found = await page.evaluate(async () => (await window.axe.run(document, { resultTypes: ['violations'] })).violations
    .map((rule) => `${rule.id} (${rule.nodes.length}): ${rule.nodes[0].target} ${rule.nodes[0].failureSummary}`));
  assert.deepEqual(found, [], where);
}
for (const world of Object.keys(WORLDS)) {
  scene(`nothing is wider than a phone: ${world}`, { world, width: 360, height: 740 }, async (s) => everyView(s, async (where) => {
    assert.equal(await s.overflow(), 0, `${where} scrolls sideways`);
    const wide = await s.page.evaluate(() => [...document.querySelectorAll('dialog[open] .content')].filter((e) => e.scrollWidth > e.clientWidth).length);
    assert.equal(wide, 0, `${where}: the dialog scrolls sideways`);
  }));
}
for (const [name, options] of Object.entries({ light: {}, dark: { dark: true }, phone: { width: 360, height: 740 } })) {
  scene(`axe finds nothing: ${name}`, { world: 'dead-letters', ...options }, async (s) => {
    await s.page.evaluate(axe);
    await everyView(s, async (where) => {
      await audit(s.page, where);
    });
  });
}
scene('axe finds nothing when things are wrong', { world: 'breaker-open', dark: true }, async (s) => {
  await s.page.evaluate(axe);
  const look = (where) => audit(s.page, where);
  await s.reads('#ready', /Not ready/);
  await look('not ready');
  s.world.reachable = false;
  await s.reads('#trouble', /cannot be reached/);
  await look('unreachable');
});

scene('motion stops for those who want none', {}, async ({ page, reads }) => {
  await reads('#ready', /^Ready$/);
  const moves = () => page.$eval('.meter i', (e) => getComputedStyle(e).transitionDuration);
  assert.equal(await moves(), '0s');
  await page.emulateMediaFeatures([{ name: 'prefers-reduced-motion', value: 'no-preference' }]);
  assert.equal(await moves(), '0.4s');
});

scene('the focus can be seen', {}, async ({ page, reads }) => {
  await reads('#ready', /^Ready$/);
  const seen = new Set();
  for (let i = 0; i < 40; i++) {
    await page.keyboard.press('Tab');
    const now = await page.evaluate(() => { const e = document.activeElement, style = getComputedStyle(e.type === 'radio' ? e.nextElementSibling : e); return e === document.body ? null : { what: e.id || e.className || e.textContent, width: parseFloat(style.outlineWidth), style: style.outlineStyle }; });
    if (now === null) break;
    seen.add(now.what);
    assert.ok(now.style !== 'none' && now.width >= 2, `no outline on ${now.what}`);
  }
  assert.ok(seen.size > 8, `only ${[...seen]}`);
});

scene('the ring of the focus covers no text', { world: 'dead-letters', hash: LIST }, async ({ page, reads }) => {
  await page.waitForSelector('#letters tr[data-id]');
  /** Whose text lies under the ring: 2 px, 2 px away. */
  const covered = (pairs) => page.evaluate((pairs) => pairs.flatMap(([ringed, beside]) => [...document.querySelectorAll(ringed)].flatMap((one, i) => {
    const a = one.getBoundingClientRect(), other = document.querySelectorAll(beside)[i], range = document.createRange();
    range.selectNodeContents(other);
    return [...range.getClientRects()].filter((b) => a.left - 4 < b.right && a.right + 4 > b.left && a.top - 4 < b.bottom && a.bottom + 4 > b.top).map(() => `${ringed} ${i}`);
  })), pairs);
  assert.deepEqual(await covered([['#by-key', 'label[for="by-key"]'], ['#by-reason', 'label[for="by-reason"]'], ['#letters td .link', '#letters td:first-child .small']]), []);
  await page.click('#letters .link');
  await page.waitForSelector('#payload');
  assert.deepEqual(await covered([['#letter-title', '#letter-id']]), []);
  await page.keyboard.press('Escape');
  await page.click('a[data-view="overview"]');
  assert.deepEqual(await covered([['.twist', '.twist + .small']]), []);
  const top = (view) => page.$eval(`#view-${view} .card, #view-${view} .notice`, (e) => e.getBoundingClientRect().top);
  const overview = await top('overview');
  await page.click('a[data-view="control"]');
  await reads('#view-control', /Log level/);
  assert.equal(await top('control'), overview, 'every view begins at the same height');
});
