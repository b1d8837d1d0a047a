// A relay's HTTP interface with nothing behind it: what the page sees is scripted.
//
// Owns: the answers of every address that the page uses, the page itself with the relay's security
// headers, and a record of the requests. Time is scripted too: each look at /api/status is one
// second, so that charts fill as fast as a browser asks.
//
// For a look by hand:  node stand-in.mjs --port 9464 --world busy    (token: sesame)

import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';
import { randomBytes, randomUUID } from 'node:crypto';
import { fileURLToPath, pathToFileURL } from 'node:url';

const PAGE = fileURLToPath(new URL('../../src/http/page.html', import.meta.url));
export const TOKEN = 'sesame';
const START = Date.parse('2026-01-31T09:30:00.000Z');
const iso = (t) => new Date(t).toISOString();

/** The same numbers in every run. */
function numbers(seed) {
  let s = seed >>> 0;
  return () => { s = (Math.imul(s, 1664525) + 1013904223) >>> 0; return s / 2 ** 32; };
}

export const HOSTILE = '<img src=x onerror="window.hacked=1">';

function letter(over = {}) {
  const first = over.first ?? START - 360_000;
  const { first: _, ...rest } = over;
  return {
    id: '0197a3c2-5b1e-7000-8000-000000000001', type: 'OrderPlaced', table: 'shop.outbox_messages', topic: 'outbox.event.order', key: 'order-17',
    reason: 'permanent', error_kind: 'too_large', error: 'too_large: Broker: Message size too large: 1310764 bytes, the topic takes 1048588', attempts: 1,
    first_failed: iso(first), last_failed: iso(first), written: iso(first - 240), stream: '6d6f2b0c4e1d9a00c3d0a1f4b4000031', cdc_time: '5d0c9a30-fe8b-11f0-8000-3c8f2a4d1b02', cdc_batch_seq_no: 0,
    remedy: "raise `message.max.bytes` under `kafka.properties` and on the broker, and the topic's `max.message.bytes`, or make the payload smaller; then replay it, or discard it",
    headers: { id: rest.id ?? '0197a3c2-5b1e-7000-8000-000000000001', type: rest.type ?? 'OrderPlaced', 'content-type': 'application/json', traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' },
    payload: '{"order_id":9007199254740993123,"customer":"c-2041","currency":"EUR","total":149.90,"lines":[{"sku":"LAMP-7","quantity":2,"price":59.95},{"sku":"BULB-E27","quantity":3,"price":10.00}],"gift":false,"note":null}',
    timestamp_millis: first - 240, ...rest,
  };
}
const PARKED = { reason: 'parked', error_kind: null, error: null, attempts: 0, remedy: 'nothing is wrong with it: it is published when the earlier dead letters of its key are replayed or discarded' };
const id = (n) => `0197a3c2-5b1e-7000-8000-${String(n).padStart(12, '0')}`;

export function deadLetters() {
  return [
    letter({ id: id(1) }),
    letter({ id: id(2), type: 'OrderPaid', first: START - 355_000, ...PARKED, payload: '{"order_id":17,"paid":true}' }),
    letter({ id: id(3), type: 'OrderShipped', first: START - 120_000, ...PARKED, payload: '{"order_id":17,"carrier":"post"}' }),
    letter({ id: id(4), type: 'InvoiceIssued', table: 'billing.outboxevent', topic: 'outbox.event.invoice', key: 'invoice-2026-000418', first: START - 5_400_000, last_failed: iso(START - 1_800_000), attempts: 1, error_kind: 'unknown_topic',
      error: 'unknown_topic: Broker: Unknown topic or partition', remedy: 'create the topic, or switch on `auto.create.topics.enable`; then replay it, or discard it', payload: '{"invoice":"2026-000418","amount":"1290.00"}' }),
    letter({ id: id(5), type: 'InvoiceIssued', table: 'billing.outboxevent', topic: 'outbox.event.invoice', key: 'invoice-2026-000419', first: START - 5_300_000, attempts: 1, error_kind: 'unknown_topic',
      error: 'unknown_topic: Broker: Unknown topic or partition', remedy: 'create the topic, or switch on `auto.create.topics.enable`; then replay it, or discard it', payload: '{"invoice":"2026-000419","amount":"88.40"}' }),
    letter({ id: id(6), type: 'StockReserved', topic: 'outbox.event.stock', key: 'sku-LAMP-7', reason: 'exhausted', first: START - 900_000, last_failed: iso(START - 898_800), attempts: 5, error_kind: 'not_enough_replicas',
      error: 'not_enough_replicas: Broker: Not enough in-sync replicas', remedy: "bring the missing replicas back, or lower the topic's `min.insync.replicas`; it is replayed by itself once Kafka takes records again", payload: '{"sku":"LAMP-7","reserved":2}' }),
    letter({ id: id(7), type: null, topic: null, key: 'customer-88', reason: 'undecodable', first: START - 40_000, attempts: 0, error_kind: 'undecodable',
      error: 'column `payload` of shop.outbox_messages is null, and `tombstones` is off', remedy: "correct what the error names: the table's rows, or `outboxes` in the configuration (and restart the relay); then replay it, or discard it",
      headers: undefined, payload: undefined, timestamp_millis: undefined, row: { aggregate_id: 'customer-88', id: id(7), aggregate_type: 'customer', event_type: null, payload: null } }),
    letter({ id: id(8), type: 'AvatarChanged', topic: 'outbox.event.customer', key: { hex: 'ff00a1' }, first: START - 3_000_000, payload: { hex: '89504e470d0a1a0a0000000d49484452000000400000004008060000' } }),
  ];
}
/** Strings that would act if a page parsed them, and strings that would break a layout. */
export function hostileLetters() {
  return [
    letter({ id: id(21), type: HOSTILE, key: HOSTILE, topic: `${HOSTILE}.topic`, error: `${HOSTILE} was refused`, error_kind: HOSTILE, remedy: HOSTILE, headers: { [HOSTILE]: HOSTILE, 'x"><script>window.hacked=1</script>': null }, payload: `{"html":"${HOSTILE.replaceAll('"', '\\"')}","</script><script>window.hacked=1</script>":1}` }),
    letter({ id: id(22), type: 'LongKey', key: 'k'.repeat(4000), payload: 'p'.repeat(5000), headers: { long: 'v'.repeat(3000) } }),
    letter({ id: '../../livez?x=1#y', type: 'OddId', key: ' spaced key ', payload: 'not json {' }),
  ];
}

function table(over = {}) {
  return { table: 'shop.outbox_messages', state: 'running', groups: 768, generations: 1, lag: 181, backlog: 0.01, ttl: 86400, late_window_seconds: 180, events: 1_204_331, late: 3, ...over };
}
function healthy() {
  return ['ScyllaDB', 'Kafka', 'checkpoints', 'dead letters', 'log of shop.outbox_messages', 'log of billing.outboxevent', 'task source of shop.outbox_messages', 'task source of billing.outboxevent']
    .map((part) => ({ part, state: 'ok', reason: null, for_seconds: 93_600 }));
}
const both = () => [table(), table({ table: 'billing.outboxevent', groups: 256, lag: 180.6, events: 88_112, late: 0, ttl: 604800 })];

export const WORLDS = {
  busy: () => ({ tables: both(), parts: healthy(), pace: 1200, letters: [] }),
  'dead-letters': () => ({ tables: both(), parts: healthy(), pace: 1200, letters: deadLetters() }),
  hostile: () => ({ tables: both(), parts: [...healthy(), { part: `log of ${HOSTILE}`, state: 'degraded', reason: `${HOSTILE} is slow`, for_seconds: 4 }], pace: 10, letters: hostileLetters(), relay: HOSTILE }),
  'breaker-open': () => ({
    tables: [table({ lag: 310, backlog: 129 }), both()[1]], pace: 0, letters: deadLetters(), ready: false, breaker: { state: 'open', opened: 3 }, in_flight: { events: 10_000, bytes: 41_200_000 },
    parts: healthy().map((part) => (part.part === 'Kafka' ? { part: 'Kafka', state: 'failed', reason: 'the breaker is open: no broker can be reached', for_seconds: 130 } : part)),
  }),
  paused: () => ({ tables: [table({ state: 'paused', lag: 50_400, backlog: 50_220, ttl: 86400 }), both()[1]], pace: 40, letters: [],
    parts: healthy().map((part) => (part.part === 'log of shop.outbox_messages' ? { ...part, state: 'degraded', reason: 'a person has paused the table: nothing is read until it is resumed', for_seconds: 50_000 } : part)) }),
  empty: () => ({ tables: [], parts: [], pace: 0, letters: [], ready: false }),
  off: () => ({ tables: both(), parts: healthy(), pace: 100, letters: [], admin: false }),
};

export async function standIn(name = 'busy', { port = 0, page = PAGE } = {}) {
  const random = numbers(17);
  const world = {
    relay: 'orders', ready: true, admin: true, token: TOKEN, now: START, uptime: 93_784, reachable: true, broken: null, level: 'info',
    breaker: { state: 'closed', opened: 1 }, in_flight: null, asked: [], policy: [], jobs: new Map(), slow: 2, hold: false, frozen: null, fails: new Set(),
    totals: { read: 1_292_450, published: 1_292_443, repeated: 12, failed_attempts: 31, late: 3, dead_lettered: 0, replayed: 0, restarts: 1, reads: 18_220_100, rows_read: 3_020_118 },
    reload: { status: 200, body: { applied: ['log.level'], restarted: ['kafka.brokers'], needs_restart: ['http.listen'] } },
    ...WORLDS[name](),
  };
  world.totals.dead_lettered = world.letters.length;
  const groups = (t) => Array.from({ length: t.groups }, (_, i) => ({
    generation: '2026-01-02T00:00:00.000Z', range_end: -9_223_372_036_854_775_001n + BigInt(i) * 24_000_000_000_000_000n, streams: 3, watermark: iso(world.now - (t.lag + 3 - i * .01) * 1000), lag_seconds: Math.max(t.lag - 1, t.lag + 3 - i * .01),
  }));

  function tick() {
    world.now += 1000; world.uptime += 1;
    const wave = world.pace * (1 + .22 * Math.sin(world.now / 67_000) + .16 * Math.sin(world.now / 11_000) + .12 * (random() - .5));
    const published = world.steady ?? Math.max(0, Math.round(wave));
    world.totals.read += published + (world.steady === undefined ? Math.round((random() - .5) * world.pace * .04) : 0);
    world.totals.published += published;
    world.totals.reads += 240 + Math.round(random() * 30); world.totals.rows_read += published * 2 + Math.round(random() * 20);
    for (const t of world.tables) if (t.state === 'paused' || (world.breaker.state === 'open' && t === world.tables[0])) { t.lag += 1; t.backlog += 1; }
  }
  function latencies() {
    const wobble = (base) => +(base * (1 + .15 * Math.sin(world.now / 43_000) + .18 * (random() - .5))).toFixed(5);
    const idle = world.pace === 0;
    const stage = (p50, p99) => (idle ? { count: 0, p50: null, p99: null } : { count: Math.round(world.pace * 60), p50: wobble(p50), p99: wobble(p99) });
    return { total: stage(.0171, .046), visible: stage(.0108, .031), queue: stage(.0004, .0021), kafka: stage(.0052, .0148) };
  }
  const waiting = () => Object.fromEntries(['exhausted', 'permanent', 'undecodable', 'parked'].map((reason) => [reason, world.letters.filter((l) => l.reason === reason).length]));
  const parked = () => world.skips ? 0 : new Set(world.letters.map((l) => `${l.table} ${JSON.stringify(l.key)}`)).size;
  const status = () => ({
    relay: world.relay, version: '0.1.0', now: iso(world.now), uptime_seconds: world.uptime, ready: world.ready, admin: world.admin, parts: world.parts, breaker: world.breaker,
    limits: { in_flight_events: 10_000, in_flight_bytes: 67_108_864 },
    in_flight: world.in_flight ?? { events: Math.round(world.pace * (.02 + .01 * random())), bytes: Math.round(world.pace * 24 * (.8 + random() * .4)) },
    totals: world.totals, latency: latencies(), parked_keys: parked(), dead_letters: waiting(),
    tables: world.tables.map(({ lag, backlog, ttl, ...t }) => ({ ...t, watermark: iso(world.now - lag * 1000), lag_seconds: +(lag + random() * .4).toFixed(2), backlog_seconds: backlog, log_ttl_seconds: ttl, expires_in_seconds: ttl === null ? null : ttl - lag })),
  });

  const FILTER = ['table', 'topic', 'key', 'event_type', 'id', 'reason', 'since_millis', 'until_millis'];
  const matches = (filter) => (l) => ['table', 'topic', 'key', 'id', 'reason'].every((name) => filter[name] === undefined || l[name] === filter[name])
    && (filter.event_type === undefined || l.type === filter.event_type)
    && (filter.since_millis === undefined || Date.parse(l.first_failed) >= filter.since_millis) && (filter.until_millis === undefined || Date.parse(l.first_failed) < filter.until_millis);
  const keyOf = (l) => `${l.table} ${JSON.stringify(l.key)}`;
  /** A replay takes the earlier ones of each key along, and the parked ones behind; a discard takes what is meant. */
  function meant(verb, filter) {
    const found = world.letters.filter(matches(filter));
    if (verb === 'discard') return { found, planned: found };
    const last = new Map();
    world.letters.forEach((l, i) => { if (found.includes(l)) last.set(keyOf(l), i); });
    for (const [key, from] of last) for (let i = from + 1; i < world.letters.length; i++) {
      if (keyOf(world.letters[i]) !== key) continue;
      if (world.letters[i].reason !== 'parked') break;
      last.set(key, i);
    }
    return { found, planned: world.letters.filter((l, i) => i <= (last.get(keyOf(l)) ?? -1)) };
  }
  const zero = { matched: 0, keys: 0, planned: 0, published: 0, discarded: 0, skipped: 0, failed: 0, postponed: 0 };

  async function answer(request, url, body) {
    const path = url.pathname, method = request.method, query = url.searchParams;
    const authorized = () => {
      if (!world.admin) return { status: 403, body: { error: 'admin calls are off: no token is configured' } };
      if (request.headers.authorization !== `Bearer ${world.token}`) return { status: 401, body: { error: 'a valid token is needed' } };
      return null;
    };
    if (method === 'GET' && path === '/api/status') { tick(); return { status: 200, body: status() }; }
    let match = path.match(/^\/api\/tables\/([^/]+)\/(groups|pause|resume)$/);
    if (match) {
      const t = world.tables.find((one) => one.table === decodeURIComponent(match[1]));
      if (match[2] === 'groups') {
        if (!t) return { status: 404, body: { error: 'no such table' } };
        const all = groups(t), limit = Number(query.get('limit') ?? 1000);
        return { status: 200, body: { groups: all.slice(0, limit), more: all.length > limit } };
      }
      const refusal = authorized();
      if (refusal) return refusal;
      if (!t) return { status: 404, body: { error: 'no such table' } };
      t.state = match[2] === 'pause' ? 'paused' : 'running';
      if (match[2] === 'resume') Object.assign(t, { lag: 181, backlog: 0 });
      return { status: 200, body: { table: t.table, paused: match[2] === 'pause' } };
    }
    if (!path.startsWith('/api/')) return { status: 404, body: { error: 'not found' } };
    const refusal = authorized();
    if (refusal) return refusal;
    if (path === '/api/log-level') { if (method === 'PUT') world.level = body.level; return { status: 200, body: { level: world.level } }; }
    if (path === '/api/reload' && method === 'POST') return world.reload;
    if (path === '/api/dead-letters' && method === 'GET') {
      const filter = {};
      for (const name of ['table', 'topic', 'key', 'id', 'reason']) if (query.has(name)) filter[name] = query.get(name);
      if (query.has('type')) filter.event_type = query.get('type');
      for (const name of ['since', 'until']) if (query.has(name)) filter[`${name}_millis`] = Date.parse(query.get(name));
      if (filter.table !== undefined && !world.tables.some((t) => t.table === filter.table)) return { status: 404, body: { error: `the relay has no table ${filter.table}` } };
      const limit = Number(query.get('limit') ?? 100), found = world.letters.filter(matches(filter));
      const outline = ({ remedy, headers, payload, timestamp_millis, row, ...rest }) => rest;
      const shown = query.get('whole') === 'true' ? (whole) => whole : outline;
      return { status: 200, body: { dead_letters: found.slice(0, limit).map(shown), more: found.length > limit } };
    }
    match = path.match(/^\/api\/dead-letters\/(replay|discard)$/);
    if (match && method === 'POST') {
      const [, verb] = match, filter = body.filter ?? {};
      if (Object.keys(filter).some((name) => !FILTER.includes(name)) || (verb === 'discard' && 'rate' in body)) return { status: 400, body: { error: 'unknown field' } };
      if (Object.keys(filter).length === 0 && !body.all) return { status: 400, body: { error: 'give a filter, or all' } };
      const { found, planned } = meant(verb, filter);
      const plan = { ...zero, matched: found.length, keys: new Set(planned.map(keyOf)).size, planned: planned.length };
      if (body.dry_run) return { status: 200, body: { progress: plan } };
      const job = { id: randomUUID(), verb, plan, left: [...planned], looks: 0, progress: { ...plan } };
      world.jobs.set(job.id, job);
      return { status: 202, body: { request: job.id } };
    }
    match = path.match(/^\/api\/requests\/([^/]+)$/);
    if (match) {
      const job = world.jobs.get(match[1]);
      if (!job) return { status: 404, body: { error: 'no such request' } };
      job.looks++;
      if (job.looks === 1) return { status: 200, body: { state: 'open', progress: { ...zero }, error: null } };
      const step = world.hold ? 0 : Math.ceil(job.plan.planned / world.slow);
      for (const l of job.left.splice(0, step)) {
        if (world.fails.has(l.id)) { job.progress.failed++; continue; }
        world.letters = world.letters.filter((one) => one !== l);
        if (job.verb === 'replay') { job.progress.published++; world.totals.replayed++; } else job.progress.discarded++;
      }
      return { status: 200, body: { state: job.left.length ? 'running' : 'done', progress: job.progress, error: null } };
    }
    match = path.match(/^\/api\/dead-letters\/(.+)$/);
    if (match && method === 'GET') {
      const found = world.letters.filter((l) => l.id === decodeURIComponent(match[1]));
      return found.length ? { status: 200, body: { dead_letters: found } } : { status: 404, body: { error: 'no such dead letter' } };
    }
    return { status: 404, body: { error: 'not found' } };
  }

  const server = createServer((request, response) => {
    let text = '';
    request.on('data', (piece) => { text += piece; });
    request.on('end', async () => {
      if (!world.reachable) { request.socket.destroy(); return; }
      const url = new URL(request.url, 'http://stand-in');
      const body = text ? JSON.parse(text) : undefined;
      world.asked.push({ method: request.method, path: url.pathname, query: Object.fromEntries(url.searchParams), body, token: request.headers.authorization ?? null });
      const nonce = randomBytes(16).toString('base64');
      const headers = {
        'Content-Security-Policy': `default-src 'none'; script-src 'nonce-${nonce}'; style-src 'nonce-${nonce}'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
        'X-Content-Type-Options': 'nosniff', 'Referrer-Policy': 'no-referrer', 'Cache-Control': 'no-store',
      };
      if (url.pathname === '/') { response.writeHead(200, { ...headers, 'Content-Type': 'text/html; charset=utf-8' }).end(readFileSync(page, 'utf8').replaceAll('__NONCE__', nonce)); return; }
      if (world.broken) { response.writeHead(world.broken, headers).end('oops'); return; }
      if (url.pathname === '/api/status') await world.frozen;
      const result = await answer(request, url, body);
      const json = JSON.stringify(result.body, (_, value) => (typeof value === 'bigint' ? `bigint ${value}` : value)).replace(/"bigint (-?\d+)"/g, '$1');
      response.writeHead(result.status, { ...headers, 'Content-Type': 'application/json' }).end(json);
    });
  });
  await new Promise((resolve) => { server.listen(port, '127.0.0.1', resolve); });
  return {
    world, url: `http://127.0.0.1:${server.address().port}/`,
    /** The requests of this kind so far. */
    asked: (method, path) => world.asked.filter((one) => one.method === method && one.path === path),
    close: () => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); }),
  };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const option = (name, other) => { const at = process.argv.indexOf(`--${name}`); return at > 0 ? process.argv[at + 1] : other; };
  const started = await standIn(option('world', 'dead-letters'), { port: Number(option('port', 0)) });
  console.log(`${started.url}#token=${TOKEN}`);
}
