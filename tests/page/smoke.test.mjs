// A walk through the page of a relay that runs: RELAY_URL and RELAY_TOKEN say which one.
//
// It needs one dead letter that can be published by now. RELAY_DEAD_LETTER names its event id;
// without it, the first of the list is taken. It is replayed, so do not point this at a relay whose
// dead letters must stay. Without RELAY_URL it walks through the stand-in.

import { test } from 'node:test';
import assert from 'node:assert/strict';
import { standIn, TOKEN } from './stand-in.mjs';
import { launch, complaints } from './browser.mjs';

test('status shows, charts move, a dead letter is found, shown, replayed, and gone', { timeout: 300_000 }, async () => {
  const relay = process.env.RELAY_URL ? null : await standIn('dead-letters');
  const url = new URL(process.env.RELAY_URL ?? relay.url), token = process.env.RELAY_TOKEN ?? TOKEN;
  const browser = await launch();
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(90_000);
    const said = complaints(page);
    const reads = (selector, wanted) => page.waitForFunction((s, source) => new RegExp(source).test(document.querySelector(s)?.innerText.replace(/\s+/g, ' ').trim() ?? ''), {}, selector, wanted.source)
      .catch(async (error) => { throw new Error(`${selector} never read ${wanted}, but: ${await page.$eval(selector, (e) => e.innerText).catch(() => 'nothing')}`, { cause: error }); });
    const press = async (scope, label) => (await page.waitForFunction((s, source) => [...document.querySelectorAll(`${s} button`)].find((b) => new RegExp(source).test(b.innerText) && !b.disabled && b.offsetParent !== null), {}, scope, label.source)).asElement().click();

    const answer = await page.goto(`${url}#token=${encodeURIComponent(token)}`);
    assert.match(answer.headers()['content-security-policy'] ?? '', /default-src 'none'; script-src 'nonce-[^']+'/, 'the page comes with its policy');
    assert.ok(!(await answer.text()).includes('__NONCE__'), 'every nonce is filled in');
    assert.equal(new URL(page.url()).hash, '#view=overview', 'the token has left the address');

    const status = await page.evaluate(() => fetch('api/status').then((one) => one.json()));
    await reads('#ready', /^(Ready|Not ready)$/);
    assert.equal(await page.$eval('#relay', (e) => e.innerText), status.relay);
    assert.equal(await page.$$eval('#tables tr[data-table]', (all) => all.length), status.tables.length);
    assert.equal(await page.$$eval('#parts .part', (all) => all.length), status.parts.length);
    const drawn = () => page.$eval('#plot-reads path[data-series="reads"]', (path) => path.getAttribute('d')).catch(() => '');
    await page.waitForFunction(() => (document.querySelector('#plot-reads path[data-series="reads"]')?.getAttribute('d') ?? '').includes('L'));
    const before = await drawn();
    await page.waitForFunction((d) => document.querySelector('#plot-reads path[data-series="reads"]').getAttribute('d') !== d, {}, before);
    const table = await page.$('#tables .twist');
    if (table) {
      await table.click();
      await page.waitForSelector('.inner tbody tr');
    }

    await page.click('a[data-view="dead-letters"]');
    await page.waitForSelector('#letters tr[data-id]').catch(() => { throw new Error('there is no dead letter to walk with'); });
    const id = process.env.RELAY_DEAD_LETTER ?? await page.$$eval('#letters tr[data-id]', (all) => all.map((row) => row.dataset.id).find(Boolean));
    await page.type('#by-id', id);
    await press('#search', /^Search$/);
    await page.waitForFunction((id) => { const all = [...document.querySelectorAll('#letters tr[data-id]')]; return document.querySelector('#letters').getAttribute('aria-busy') === 'false' && all.length > 0 && all.every((row) => row.dataset.id === id); }, {}, id);
    await page.click('#letters .link');
    await page.waitForFunction(() => /What to do/.test(document.querySelector('#letter-body').innerText) && !/Reading the payload/.test(document.querySelector('#letter-body').innerText));
    await press('#letter-actions', /Replay this event/);
    await reads('#act-status', /[1-9]\d* events? of 1 key would be published/);
    await press('#act-dialog', /^Replay [\d,]+ events?$/);
    await reads('#act-status', /^(Done|It came to no end)/);
    assert.match(await page.$eval('#act-status', (e) => e.innerText), /^Done\s+[\d,]+ (published|turned out to be no events)[^,]*$/, 'it was published, and nothing failed');
    await press('#act-dialog', /^Close$/);
    await reads('#letters', /No dead letter matches/);
    assert.deepEqual(said, [], 'the console is silent');
  } finally {
    await browser.close();
    await relay?.close();
  }
});
