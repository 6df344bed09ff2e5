// The npm package ws, as server and client:
//
//     node ws.mjs server --listen HOST:PORT|/SOCKET [--tls CERT KEY] [--deflate PARAMS]
//     node ws.mjs client SCENARIO URL [--ca FILE] [--deflate PARAMS]
//
// NODE_PATH names the folder with the package.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createRequire } from 'node:module';

import { finish, parse } from './arguments.mjs';
import { binaryParts, run, textParts } from './scenarios.mjs';

const { WebSocket, WebSocketServer } = createRequire(import.meta.url)('ws');
const FLOOD = 10_000;

// The package's option for the parameters of `--deflate`.
function perMessageDeflate(deflate) {
  if (deflate === undefined) return false;
  const names = deflate.split(',');
  return {
    threshold: 0, // Short messages are compressed, too.
    ...(names.includes('no-context') && {
      clientNoContextTakeover: true,
      serverNoContextTakeover: true,
    }),
    ...(names.includes('window-9') && { clientMaxWindowBits: 9, serverMaxWindowBits: 9 }),
  };
}

// Sends one message, a frame for each part.
function sendParts(socket, parts, binary) {
  parts.forEach((part, index) => {
    socket.send(part, { binary, fin: index === parts.length - 1 });
  });
}

// What the server does with a connection, by the first part of its path.
const paths = {
  echo(socket) {
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  },

  close(socket, [code, reason = '']) {
    socket.close(Number(code), decodeURIComponent(reason));
  },

  wait(socket) {
    socket.on('close', (code, reason) => console.log(`closed ${code} ${reason}`));
  },

  abrupt(socket) {
    socket.send('last words', () => socket.terminate());
  },

  ping(socket) {
    socket.on('pong', (payload) => {
      if (payload.toString() === 'are you there') socket.send('pong');
      else socket.close(4000, `the payload is ${payload}`);
    });
    socket.ping('are you there');
  },

  headers(socket, _, request) {
    socket.send(JSON.stringify(request.headers));
  },

  subprotocol(socket) {
    socket.send(socket.protocol);
  },

  fragmented(socket) {
    sendParts(socket, textParts(), false);
    sendParts(socket, binaryParts(), true);
  },

  flood(socket) {
    let count = 0;
    socket.on('message', (data, isBinary) => {
      if (isBinary || data.toString() !== `${count}`) {
        socket.close(4000, `message ${count} is ${data.toString().slice(0, 50)}`);
        return;
      }
      count += 1;
      if (count === FLOOD) socket.send(`${count}`);
    });
    for (let number = 0; number < FLOOD; number++) socket.send(`${number}`);
  },
};

function serve({ listen, tls, deflate }) {
  const http = tls
    ? createTlsServer({ cert: readFileSync(tls.cert), key: readFileSync(tls.key) })
    : createServer();
  const server = new WebSocketServer({
    server: http,
    maxPayload: 64 << 20,
    perMessageDeflate: perMessageDeflate(deflate),
    handleProtocols: (offered) => offered.has('second') && 'second',
  });
  server.on('connection', (socket, request) => {
    socket.on('error', (error) => console.error(`${request.url}: ${error.message}`));
    const [path, ...rest] = request.url.slice(1).split('/');
    if (Object.hasOwn(paths, path)) paths[path](socket, rest, request);
    else socket.close(4404, `there is no path ${path}`);
  });
  const scheme = tls ? 'wss' : 'ws';
  if (listen.startsWith('/')) {
    http.listen(listen, () => console.log(`listening on ${scheme}+unix:${listen}`));
  } else {
    const [host, port] = listen.split(':');
    http.listen(Number(port), host, () => {
      const { address, port } = http.address();
      console.log(`listening on ${scheme}://${address}:${port}`);
    });
  }
}

function connect({ scenario, url, ca, deflate }) {
  return run(scenario, url, {
    deflate,
    open: (url, { protocols, headers }) => {
      const socket = new WebSocket(url, protocols ?? [], {
        headers,
        ca: ca && readFileSync(ca),
        maxPayload: 64 << 20,
        perMessageDeflate: perMessageDeflate(deflate),
      });
      // The property `extensions` of ws has their names only.
      socket.on('upgrade', (response) => {
        socket.agreed = response.headers['sec-websocket-extensions'] ?? '';
      });
      return socket;
    },
    extensions: (socket) => socket.agreed,
    ping: (socket, payload) =>
      new Promise((resolve) => {
        socket.once('pong', (data) => resolve(data.toString()));
        socket.ping(payload);
      }),
    fragments: sendParts,
  });
}

const settings = parse(process.argv.slice(2));
if (settings.role === 'server') serve(settings);
else finish(connect(settings));
