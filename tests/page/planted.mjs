// Bugs planted in the page, each of which a test must find. Shows that the tests can fail.
//
//   node planted.mjs [WORD]     every bug (whose name has the word), with the tests that should find it

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const page = readFileSync(join(here, '../../src/http/page.html'), 'utf8');
// [what is wrong, what is replaced, by what, the tests that look]
const BUGS = [
  ['text is parsed as HTML', "if (name === 'text') element.textContent = value;", "if (name === 'text') element.innerHTML = value;", 'hostile strings'],
  ['a style attribute', "h('div', { class: 'empty' }, h('h3', { text: title })", "h('div', { class: 'empty', style: 'color: red' }, h('h3', { text: title })", 'search by every field'],
  ['the dry run is skipped', 'await admin(\'POST\', `api/dead-letters/${mine.verb}`, bodyOf(mine, true))', 'await admin(\'POST\', `api/dead-letters/${mine.verb}`, bodyOf(mine, false))', 'by keyboard alone'],
  ['a discard needs no number', 'mine.ready = () => input.value.replace', 'mine.ready = () => true || input.value.replace', 'more than one key press'],
  ['the filter is forgotten', 'const filter = asBody(state.filter), all', 'const filter = {}, all', 'what the search matches'],
  ['the token stays in the address', "if (params.has('token')) writeAddress(false);", '', 'token of the address'],
  ['the token is sent everywhere', "call('GET', 'api/status')", "call('GET', 'api/status', { token: state.token })", 'token of the address'],
  ['payloads are read and written again', 'tokens = formatted(text)', 'tokens = formatted(JSON.stringify(JSON.parse(text)))', 'one dead letter: error'],
  ['a hidden tab goes on asking', 'if (document.hidden) { clearTimeout(timer); return; }', 'if (document.hidden) { setInterval(() => poll(true), 5); return; }', 'a hidden tab'],
  ['no backing off', 'Math.min(SLOWEST, EVERY * 2 ** Math.min(state.failures, 10))', 'EVERY', 'asks more rarely'],
  ['rows are made anew at every poll', 'const old = kept.get(parent) ?? new Map();', 'const old = new Map(); parent.replaceChildren();', 'groups of a table'],
  ['a restart makes a spike', 'if (last && !restarted) {', 'if (last) {', 'rates are the differences'],
  ['the arrow keys do nothing', 'keydown: (event) => this.key(event),', '', 'charts move'],
  ['rows stay a table on a phone', '.cards, .cards > tbody, .cards > tbody > tr, .cards > tbody > tr > td { display: block; width: 100%; }', '', 'wider than a phone: busy'],
  ['grey on grey', '--mute: #556273;', '--mute: #9aa4b0;', 'axe finds nothing: light'],
  ['no focus ring', ':focus-visible { outline: 2px solid var(--accent);', ':focus-visible { outline: 0 solid var(--accent);', 'the focus can be seen'],
  ['the id is not escaped', "`api/dead-letters/${encodeURIComponent(letter.id)}`", "`api/dead-letters/${letter.id}`", 'hostile strings'],
  ['the state of the breaker is not known', "'half-open': 'Half-open'", "half_open: 'Half-open'", 'half-open is shown'],
  ['every table keeps up', 'return least >= BEHIND;', 'return false;', 'a table that is behind'],
  ['one look makes a table behind', 'least = Math.min(least,', 'least = Math.max(least,', 'a table that is behind'],
  ['numbers break', '.data .num, .figure { white-space: nowrap; }', '', 'numbers stay whole'],
  ['the focus is lost with its button', "(under ? under.querySelector('[data-close]') : state.view === 'dead-letters' ? $('letters-title') : $('main')).focus();", '', 'gives the focus back'],
  ['old numbers are called ready', 'state.late = !state.fault; drawAll();', '', 'gives no answer'],
  ['keys are kept with the requests', 'const list = jobs.map(({ id, verb,', 'const list = jobs.map((job) => job) ?? jobs.map(({ id, verb,', 'outlive a reload'],
  ['requests are forgotten', 'if (!diary.place) diary.load(status.relay);', '', 'outlive a reload'],
];

const folder = mkdtempSync(join(tmpdir(), 'planted-'));
let missed = 0;
const chosen = BUGS.filter(([what]) => what.includes(process.argv[2] ?? ''));
for (const [what, find, put, tests] of chosen) {
  if (page.split(find).length !== 2) { console.log(`does not apply: ${what}`); missed++; continue; }
  const file = join(folder, 'page.html');
  writeFileSync(file, page.replace(find, () => put));
  const run = spawnSync(process.execPath, ['--test', `--test-name-pattern=${tests}`, 'page.test.mjs'], { cwd: here, env: { ...process.env, PAGE_FILE: file, PAGE_PATIENCE: '8000' }, encoding: 'utf8' });
  const ran = /^# pass [1-9]|^# fail [1-9]|ℹ (pass|fail) [1-9]/m.test(run.stdout);
  if (run.status !== 0 && ran) console.log(`found: ${what}`);
  else { console.log(`MISSED: ${what} (by ${tests})`); missed++; }
}
rmSync(folder, { recursive: true });
console.log(`${chosen.length - missed} of ${chosen.length} planted bugs found`);
process.exit(missed ? 1 : 0);
