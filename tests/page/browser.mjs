// The browser, and a page in it that remembers everything it should not have seen.

import { existsSync } from 'node:fs';
import puppeteer from 'puppeteer-core';

const PLACES = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

export function launch() {
  const executablePath = PLACES.find((path) => path && existsSync(path));
  if (!executablePath) throw new Error('no Chromium: apt-get install chromium, or set CHROMIUM to its path');
  // Without the sandbox, because containers run the tests as root; nothing but our own page is opened.
  return puppeteer.launch({ executablePath, headless: true, args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--font-render-hinting=none'] });
}

/** Console errors, uncaught errors and violations of the policy, except failed loads that a test provokes. */
export function complaints(page) {
  const list = [];
  page.on('console', (message) => {
    if (message.type() !== 'error' && message.type() !== 'warn') return;
    const text = message.text();
    // The browser itself reports every answer that is not 2xx; whether the page copes is what the tests look at.
    if (text.startsWith('Failed to load resource')) return;
    list.push(`${message.type()}: ${text}`);
  });
  page.on('pageerror', (error) => list.push(`uncaught: ${error.message}`));
  page.evaluateOnNewDocument(() => {
    addEventListener('securitypolicyviolation', (event) => { console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`); });
  });
  return list;
}

/** Makes the page's pauses fifty times shorter, so that minutes of the stand-in's time pass in seconds; not the 3 s that it waits for an answer. */
export async function impatient(page) {
  await page.evaluateOnNewDocument(() => {
    const real = window.setTimeout, ask = window.fetch;
    window.pollsSeen = 0;
    window.fetch = (path, ...rest) => { if (String(path).endsWith('api/status')) window.pollsSeen++; return ask(path, ...rest); };
    window.setTimeout = (callback, pause, ...rest) => real(callback, window.patient || pause === 3000 ? pause : Math.max(Math.min(pause ?? 0, 20), (pause ?? 0) / 50), ...rest);
  });
}
