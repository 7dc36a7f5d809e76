/**
 * Receive crm-sync's deliveries: check the signature, keep each one once.
 *
 *     WEBHOOK_SECRET=whsec_... node receive.mjs 127.0.0.1 8000 deliveries.db
 *
 * Needs Node 24 and no package. WEBHOOK_SECRET may hold several secrets with spaces between them, the new
 * one and the old one, while a secret is being changed.
 */

import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';
import { DatabaseSync } from 'node:sqlite';

const TOLERANCE = 300; // seconds by which the sender's clock and this one may differ
const LARGEST = 4 * 1024 * 1024; // bytes; more are not taken in

class Refused extends Error {
  constructor(status, why) {
    super(why);
    this.status = status;
  }
}

/** Return the delivery's id if one of the secrets signed exactly these bytes; else throw Refused. */
function verify(secrets, headers, body, now) {
  const id = headers['webhook-id'] ?? '';
  const timestamp = headers['webhook-timestamp'] ?? '';
  const signatures = headers['webhook-signature'] ?? '';
  if (!id || !timestamp || !signatures) {
    throw new Refused(401, 'webhook-id, webhook-timestamp or webhook-signature is missing');
  }
  if (!/^[0-9]{1,12}$/.test(timestamp)) {
    throw new Refused(400, 'webhook-timestamp is not a number of seconds');
  }
  if (Math.abs(now - Number(timestamp)) > TOLERANCE) {
    throw new Refused(401, 'webhook-timestamp is more than 5 minutes off; check both clocks');
  }
  let good = false;
  for (const secret of secrets) {
    const code = createHmac('sha256', secret).update(`${id}.${timestamp}.`).update(body);
    const expected = Buffer.from(`v1,${code.digest('base64')}`);
    for (const signature of signatures.split(' ')) {
      const given = Buffer.from(signature);
      good = (given.length === expected.length && timingSafeEqual(given, expected)) || good;
    }
  }
  if (!good) {
    throw new Refused(401, 'no signature fits');
  }
  return id;
}

/** Return the delivery's type; throw Refused if the body is not what was agreed. */
function readEvent(body) {
  let payload;
  try {
    payload = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch {
    throw new Refused(400, 'the body is not JSON');
  }
  if (typeof payload?.type !== 'string') {
    throw new Refused(400, 'the body is not an object with a type');
  }
  return payload.type;
}

/** Keep a delivery; false if it is a repeat. */
function store(id, body) {
  database.exec('BEGIN IMMEDIATE');
  try {
    const now = Math.floor(Date.now() / 1000);
    const added = insert.run(id, now, body.toString()).changes === 1;
    if (added) {
      // Here the CRM's own tables are changed: id and work in one transaction, so both happen or neither.
    }
    database.exec('COMMIT');
    return added;
  } catch (error) {
    database.exec('ROLLBACK');
    throw error;
  }
}

/** Read the bytes as they came: the signature is of these. */
async function read(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > LARGEST) {
      throw new Refused(413, `more than ${LARGEST} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function take(request) {
  if (request.method !== 'POST') {
    throw new Refused(405, 'only POST');
  }
  const body = await read(request);
  const id = verify(secrets, request.headers, body, Date.now() / 1000);
  if (readEvent(body) === 'ping') {
    return 'pong';
  }
  return store(id, body) ? 'stored' : 'had it';
}

const [host, port, file] = process.argv.slice(2);
const usage = 'usage: WEBHOOK_SECRET=whsec_... node receive.mjs HOST PORT FILE';
if (process.argv.includes('--help')) {
  console.log(usage);
  process.exit(0);
}
if (file === undefined) {
  console.error(usage);
  process.exit(1);
}
const secrets = (process.env.WEBHOOK_SECRET ?? '')
  .split(/\s+/)
  .filter(Boolean)
  .map((secret) => Buffer.from(secret.replace(/^whsec_/, ''), 'base64'));
if (secrets.length === 0 || secrets.some((secret) => secret.length === 0)) {
  console.error('WEBHOOK_SECRET is missing, or not whsec_ and base64');
  process.exit(1);
}
const database = new DatabaseSync(file, { timeout: 10_000 });
database.exec('CREATE TABLE IF NOT EXISTS deliveries (id TEXT PRIMARY KEY, received_at INTEGER, body TEXT)');
const insert = database.prepare('INSERT OR IGNORE INTO deliveries (id, received_at, body) VALUES (?, ?, ?)');

createServer(async (request, response) => {
  let status = 200;
  let text;
  try {
    text = await take(request);
  } catch (error) {
    status = error instanceof Refused ? error.status : 503; // after 503 it is sent again later
    text = error instanceof Refused ? error.message : 'not stored';
    response.shouldKeepAlive = false;
  }
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
}).listen(Number(port), host);
