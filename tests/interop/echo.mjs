// Talks to the example echo_server from Node: node echo.mjs ws://ADDRESS [builtin|ws]
//
// `builtin` is Node's own WebSocket (Node 22 and later), `ws` the npm package of that name, which is
// looked for from the current directory. For wss://, Node itself reads the CA from the PEM file that the
// variable NODE_EXTRA_CA_CERTS names. Prints what it checked; the exit status is 1 upon any failure.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import process from 'node:process';

const TIMEOUT = 30_000;
const MIB = 1 << 20;

const [url, which = 'builtin'] = process.argv.slice(2);
if (!url || !['builtin', 'ws'].includes(which)) {
  console.error('usage: node echo.mjs ws://ADDRESS [builtin|ws]');
  process.exit(1);
}
const require = createRequire(join(process.cwd(), 'from-here.js'));
const WebSocket = which === 'ws' ? require('ws') : globalThis.WebSocket;
assert.ok(WebSocket, 'this Node has no WebSocket of its own');

const MESSAGES = {
  'text': 'hello',
  'text that is JSON, to the letter': '{ "b" : 1.0,\t"a":[ ] }',
  'unicode': '¡hola! — 你好 — 👩🏽\u200d🚀 — e\u0301 — \u0000 — \u{10ffff}',
  'empty text': '',
  'binary': Buffer.from(Array.from({ length: 256 }, (_, n) => n)),
  'binary that is not UTF-8': Buffer.from([0xff, 0xfe, 0xfd]),
  'empty binary': Buffer.alloc(0),
  '1 MiB of text': 'ä'.repeat(MIB / 2),
  '1 MiB of binary': randomBytes(MIB),
};

// A connection whose messages can be awaited one by one.
class Connection {
  #messages = [];
  #waiting = [];

  static async open() {
    const connection = new Connection();
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    connection.socket = socket;
    connection.closed = new Promise((resolve) => {
      socket.addEventListener('close', ({ code, wasClean }) => resolve({ code, wasClean }));
    });
    socket.addEventListener('message', ({ data }) => {
      const message = typeof data === 'string' ? data : Buffer.from(data);
      const waiting = connection.#waiting.shift();
      if (waiting) waiting(message);
      else connection.#messages.push(message);
    });
    await new Promise((resolve, reject) => {
      socket.addEventListener('open', resolve);
      socket.addEventListener('error', (event) => reject(event.error ?? new Error(event.message)));
    });
    return connection;
  }

  receive() {
    if (this.#messages.length > 0) return Promise.resolve(this.#messages.shift());
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  async comesBack(message) {
    this.socket.send(message);
    same(await this.receive(), message);
  }

  async close(code = 1000, reason = '') {
    this.socket.close(code, reason);
    assert.deepEqual(await this.closed, { code, wasClean: true });
  }
}

// Not deepEqual: what that prints of two messages of 1 MiB helps nobody.
function same(received, sent) {
  assert.equal(typeof received, typeof sent);
  const equal = typeof sent === 'string' ? received === sent : received.equals(sent);
  assert.ok(equal, `sent ${sent.length} and received ${received.length}, which is not the same`);
}

const tests = {
  async messages(ok) {
    const connection = await Connection.open();
    for (const [what, message] of Object.entries(MESSAGES)) {
      await connection.comesBack(message);
      ok(what);
    }
    await connection.close();
  },

  async order(ok) {
    const connection = await Connection.open();
    const sent = Array.from({ length: 1000 }, (_, n) => (n % 2 ? `${n}` : Buffer.from([n >> 8, n & 255])));
    sent.forEach((message) => connection.socket.send(message));
    for (const message of sent) same(await connection.receive(), message);
    ok('1000 messages, text and binary, in order');
    await connection.close();
  },

  async ping(ok) {
    if (which !== 'ws') return; // Node's own cannot send one.
    const connection = await Connection.open();
    for (const payload of ['', 'are you there', 'x'.repeat(125)]) {
      const pong = new Promise((resolve) => connection.socket.once('pong', resolve));
      connection.socket.ping(payload);
      assert.equal((await pong).toString(), payload);
    }
    ok('pings are answered with their payload');
    await connection.close();
  },

  async several(ok) {
    const one = async (_, number) => {
      const connection = await Connection.open();
      for (let count = 0; count < 50; count++) await connection.comesBack(`${number}: ${count}`);
      await connection.close();
    };
    await Promise.all(Array.from({ length: 30 }, one));
    ok('30 connections at once');
  },

  async close(ok) {
    const connection = await Connection.open();
    // The answers to what is sent right before the Close frame come before the answer to that.
    const sent = Array.from({ length: 100 }, (_, n) => `${n}`);
    sent.forEach((message) => connection.socket.send(message));
    await connection.close(4001, 'bye');
    ok('a close with 4001 and a reason is answered with 4001');
    // Node's own drops messages once it is closing, as the browsers' standard has it.
    if (which !== 'ws') return;
    for (const message of sent) same(await connection.receive(), message);
    ok('what was sent before the close came back before it');
  },
};

console.log(`Node ${process.version}, ${which === 'ws' ? `ws ${require('ws/package.json').version}` : 'its own WebSocket'}`);
let failures = 0;
for (const [name, test] of Object.entries(tests)) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done within ${TIMEOUT / 1000} s`)), TIMEOUT);
  });
  try {
    await Promise.race([test((what) => console.log(`  ok: ${what}`)), late]);
  } catch (error) {
    failures += 1;
    console.log(`  FAILED: ${name}: ${error.message}`);
  }
  clearTimeout(timer);
}
process.exit(failures > 0 ? 1 : 0);
