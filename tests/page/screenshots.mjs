// Pictures of the page for the docs, from the stand-in. Fonts are those of this machine.

import { mkdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { standIn, TOKEN } from './stand-in.mjs';
import { launch, impatient } from './browser.mjs';

const folder = process.argv[2] ?? fileURLToPath(new URL('../../docs/images/', import.meta.url));
mkdirSync(folder, { recursive: true });
const browser = await launch();

async function picture(name, { world, width, height, dark = false, scale = 1, hash = '', minutes = 601 / 60, act, fullPage = false, mobile = false, then }) {
  const relay = await standIn(world);
  const page = await browser.newPage();
  await page.setViewport({ width, height, deviceScaleFactor: scale, isMobile: mobile, hasTouch: mobile });
  await page.emulateTimezone('UTC');
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }, { name: 'prefers-reduced-motion', value: 'reduce' }]);
  await impatient(page);
  await page.goto(`${relay.url}#token=${TOKEN}${hash}`);
  await page.waitForFunction((n) => window.pollsSeen >= n, { timeout: 120_000 }, minutes * 60);
  if (then) {
    then.change(relay.world);
    await page.waitForFunction((n) => window.pollsSeen >= n, { timeout: 120_000 }, (minutes + then.minutes) * 60);
  }
  await page.evaluate(() => { window.patient = true; });
  if (act) await act(page);
  const path = `${folder}/${name}.png`;
  await page.screenshot({ path, fullPage });
  const { size } = statSync(path);
  console.log(`${path} ${(size / 1000).toFixed(0)} kB`);
  if (size > 300_000) { console.error(`${name} is larger than 300 kB`); process.exitCode = 1; }
  await page.close();
  await relay.close();
}

const settled = (page) => page.evaluate(() => new Promise((resolve) => { requestAnimationFrame(() => requestAnimationFrame(resolve)); }));
await picture('page-light', { world: 'busy', width: 1280, height: 1000, act: async (page) => { await page.hover('#plot-throughput'); await settled(page); } });
await picture('page-dark', { world: 'dead-letters', width: 1280, height: 1040, dark: true, minutes: 7.5, act: settled, then: { minutes: 2.5, change: (world) => {
  Object.assign(world, { pace: 0, ready: false, breaker: { state: 'open', opened: 2 }, in_flight: { events: 10_000, bytes: 41_200_000 } });
  world.parts = world.parts.map((part) => (part.part === 'Kafka' ? { ...part, state: 'failed', reason: 'the breaker is open: no broker can be reached', for_seconds: 148 } : part));
} } });
await picture('page-phone', { world: 'dead-letters', width: 360, height: 780, scale: 2, mobile: true, minutes: 5 });
await picture('page-dead-letters', { world: 'dead-letters', width: 1280, height: 900, hash: '&view=dead-letters', minutes: .1, act: async (page) => {
  await page.waitForSelector('#letters [data-id]');
  await page.click('#letters [data-id] .link');
  await page.waitForSelector('#payload');
  await settled(page);
} });
await browser.close();
