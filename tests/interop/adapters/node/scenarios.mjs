// The client's part of each scenario, over any WebSocket that has the interface of the browsers.
// suite/main.py describes the scenarios. Browsers load this file, so it uses nothing of Node.
//
// A peer is an object with these functions:
//
//     open(url, { protocols, headers })   returns a WebSocket that is connecting
//     extensions(socket)                  optional: the server's choice with its parameters
//     ping(socket, payload)               optional: sends a ping; a promise of the pong's payload
//     fragments(socket, parts, binary)    optional: sends the parts, bytes, as one message's frames
//
// and with `deflate`, the parameters of `--deflate`, or undefined without compression.

const MIB = 1 << 20;
const FRAGMENTED = 'in several frames: é 你 🚀';
const SIZES = [0, 1, 125, 126, 65535, 65536];
const FLOOD = 10_000;

// Texts that a JSON parser would change: they must come back to the byte.
const JSON_TEXTS = [
  '{ "b" : 1.0,\t"a":[ ] }',
  '[1.0, -0, -0.0, 1e400, -1E+400, 1e-400, 0.1, 100000000000000000000000]',
  '[9007199254740993, 18446744073709551616, -9223372036854775809]',
  '{"a":1,"a":2,"a":{"a":3,"a":4}}',
  '"\\ud800"', // A lone surrogate, as an escape.
  '["\\udfff\\ud800", "\\ud83d\\ude80", "\\u0000", "\\/"]',
  '['.repeat(100) + ']'.repeat(100),
  '{"a":'.repeat(100) + 'null' + '}'.repeat(100),
  ' null ',
  'true',
  '""',
  '{"not": "JSON"',
];

const UNICODE = [
  '¡hola! — 你好 — 👩🏽\u200d🚀 — e\u0301',
  'a\u0000b',
  '\u007f\u0080\u07ff\u0800\ud7ff\ue000\ufffd\uffff',
  '\u{10000}\u{10ffff}',
  'ä'.repeat(70_000),
  '\ufeffa byte order mark', // The last, because some peers drop the mark.
];

class Connection {
  #arrived = [];
  #waiting = [];
  #end;

  static async open(peer, url, settings = {}) {
    const connection = new Connection();
    const socket = peer.open(url, settings);
    connection.socket = socket;
    socket.binaryType = 'arraybuffer';
    // Resolves when the connection has ended, however it ends.
    connection.closed = new Promise((resolve) => {
      socket.addEventListener('close', ({ code, reason, wasClean }) => {
        connection.#end = `the connection has ended with ${code} "${reason}"`;
        for (const { reject } of connection.#waiting.splice(0)) {
          reject(new Error(connection.#end));
        }
        resolve({ code, reason, wasClean });
      });
    });
    socket.addEventListener('message', ({ data }) => {
      const message = typeof data === 'string' ? data : new Uint8Array(data);
      const waiting = connection.#waiting.shift();
      if (waiting) waiting.resolve(message);
      else connection.#arrived.push(message);
    });
    await new Promise((resolve, reject) => {
      socket.addEventListener('open', resolve);
      socket.addEventListener('error', (event) => {
        reject(new Error(`cannot connect: ${event.error?.message ?? event.message ?? 'error'}`));
      });
      connection.closed.then(() => reject(new Error('cannot connect')));
    });
    checkDeflate(peer.deflate, peer.extensions?.(socket) ?? socket.extensions);
    return connection;
  }

  receive() {
    if (this.#arrived.length > 0) return Promise.resolve(this.#arrived.shift());
    if (this.#end) return Promise.reject(new Error(this.#end));
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  async comesBack(message) {
    this.socket.send(message);
    same(await this.receive(), message);
  }

  async close(code = 1000, reason = '') {
    this.socket.close(code, reason);
    const end = await this.closed;
    check(end.wasClean && end.code === code, `closed with ${code}, and the end is ${show(end)}`);
    check(this.#arrived.length === 0, `there is one more message: ${show(this.#arrived[0])}`);
  }
}

function check(condition, what) {
  if (!condition) throw new Error(what);
}

function show(value) {
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  // A byte order mark would be invisible.
  const text = (JSON.stringify(value) ?? String(value)).replaceAll('\ufeff', '\\ufeff');
  return text.length > 80 ? `${text.slice(0, 80)}… (${text.length})` : text;
}

function same(received, sent) {
  const equal =
    typeof sent === 'string'
      ? received === sent
      : received instanceof Uint8Array &&
        received.length === sent.length &&
        received.every((byte, index) => byte === sent[index]);
  check(equal, `sent ${show(sent)} and received ${show(received)}`);
}

// The extensions that the server has agreed to must be those that this run is about.
function checkDeflate(deflate, extensions) {
  if (deflate === undefined) {
    check(!extensions, `there is an extension: ${extensions}`);
    return;
  }
  const expected = {
    'default': ['permessage-deflate'],
    'no-context': ['client_no_context_takeover', 'server_no_context_takeover'],
    'window-9': ['client_max_window_bits=9', 'server_max_window_bits=9'],
  };
  for (const name of deflate.split(',')) {
    for (const part of expected[name] ?? [name]) {
      check(extensions.includes(part), `the extensions are "${extensions}", without ${part}`);
    }
  }
}

// Bytes that differ from those 256 places before.
function bytes(length) {
  return Uint8Array.from({ length }, (_, index) => (index ^ (index >> 8)) & 255);
}

// The frames of FRAGMENTED. The characters é and 🚀 are each in two of them.
export function textParts() {
  const encoded = new TextEncoder().encode(FRAGMENTED);
  return [[0, 3], [3, 20], [20, 28], [28]].map(([from, to]) => encoded.slice(from, to));
}

// The frames of the bytes 0 to 255. One of them is empty.
export function binaryParts() {
  return [[0, 1], [1, 1], [1, 200], [200]].map(([from, to]) => bytes(256).slice(from, to));
}

async function echoes(peer, url, messages) {
  const connection = await Connection.open(peer, `${url}/echo`);
  for (const message of messages) await connection.comesBack(message);
  await connection.close();
}

const scenarios = {
  json: (peer, url) => echoes(peer, url, JSON_TEXTS),

  unicode: (peer, url) => echoes(peer, url, UNICODE),

  sizes: (peer, url) =>
    echoes(peer, url, SIZES.flatMap((length) => ['x'.repeat(length), bytes(length)])),

  empty: (peer, url) => echoes(peer, url, ['', new Uint8Array(0)]),

  'binary-1MiB': (peer, url) => echoes(peer, url, [bytes(MIB)]),

  'binary-16MiB': (peer, url) => echoes(peer, url, [bytes(16 * MIB)]),

  async fragments(peer, url) {
    const connection = await Connection.open(peer, `${url}/echo`);
    peer.fragments(connection.socket, textParts(), false);
    same(await connection.receive(), FRAGMENTED);
    peer.fragments(connection.socket, binaryParts(), true);
    same(await connection.receive(), bytes(256));
    await connection.close();
  },

  async fragmented(peer, url) {
    const connection = await Connection.open(peer, `${url}/fragmented`);
    same(await connection.receive(), FRAGMENTED);
    same(await connection.receive(), bytes(256));
    await connection.close();
  },

  async ping(peer, url) {
    const connection = await Connection.open(peer, `${url}/echo`);
    for (const payload of ['', 'are you there', 'x'.repeat(125)]) {
      same(await peer.ping(connection.socket, payload), payload);
    }
    await connection.comesBack('after the pongs');
    await connection.close();
  },

  async pinged(peer, url) {
    const connection = await Connection.open(peer, `${url}/ping`);
    same(await connection.receive(), 'pong');
    await connection.close();
  },

  async 'close-by-server'(peer, url) {
    const connection = await Connection.open(peer, `${url}/close/4001/bye%20%E2%9C%93`);
    const end = await connection.closed;
    check(
      end.code === 4001 && end.reason === 'bye ✓' && end.wasClean,
      `the end is ${show(end)}`,
    );
  },

  async 'close-by-client'(peer, url) {
    const connection = await Connection.open(peer, `${url}/wait`);
    await connection.close(4002, 'done ✓');
  },

  async abrupt(peer, url) {
    const connection = await Connection.open(peer, `${url}/abrupt`);
    same(await connection.receive(), 'last words');
    const end = await connection.closed;
    check(end.code === 1006 && !end.wasClean, `the end is ${show(end)}`);
  },

  async subprotocol(peer, url) {
    const protocols = ['first', 'second'];
    const connection = await Connection.open(peer, `${url}/subprotocol`, { protocols });
    same(connection.socket.protocol, 'second');
    same(await connection.receive(), 'second');
    await connection.close();
  },

  async headers(peer, url) {
    const headers = { 'X-Robot': '7' };
    const connection = await Connection.open(peer, `${url}/headers`, { headers });
    const received = JSON.parse(await connection.receive());
    check(received['x-robot'] === '7', `the server received ${show(received)}`);
    await connection.close();
  },

  async flood(peer, url) {
    const connection = await Connection.open(peer, `${url}/flood`);
    for (let number = 0; number < FLOOD; number++) connection.socket.send(`${number}`);
    for (let number = 0; number < FLOOD; number++) same(await connection.receive(), `${number}`);
    same(await connection.receive(), `${FLOOD}`);
    await connection.close();
  },

  // The following are for ws only.

  async mixed(peer, url) {
    const connection = await Connection.open(peer, `${url}/echo`);
    const sent = Array.from({ length: 1000 }, (_, n) => (n % 2 ? `${n}` : bytes(n)));
    for (const message of sent) connection.socket.send(message);
    for (const message of sent) same(await connection.receive(), message);
    await connection.close();
  },

  async several(peer, url) {
    const one = async (_, number) => {
      const connection = await Connection.open(peer, `${url}/echo`);
      for (let count = 0; count < 50; count++) await connection.comesBack(`${number}: ${count}`);
      await connection.close();
    };
    await Promise.all(Array.from({ length: 30 }, one));
  },

  async 'last-messages'(peer, url) {
    const connection = await Connection.open(peer, `${url}/echo`);
    const sent = Array.from({ length: 100 }, (_, n) => `${n}`);
    for (const message of sent) connection.socket.send(message);
    // Unlike the browsers' WebSocket, ws still passes on what arrives after this.
    connection.socket.close(4001, 'bye');
    for (const message of sent) same(await connection.receive(), message);
    const end = await connection.closed;
    check(end.wasClean && end.code === 4001, `the end is ${show(end)}`);
  },
};

// Runs one scenario against the server with this URL, which has no path. The promise is rejected
// with what was wrong.
export async function run(name, url, peer) {
  check(Object.hasOwn(scenarios, name), `there is no scenario ${name}`);
  // The path of a Unix socket ends with a colon: ws+unix:/SOCKET:/echo
  const base = url.replace(/[:/]+$/, '') + (url.startsWith('ws+unix:') ? ':' : '');
  await scenarios[name](peer, base);
}
