// Node's own WebSocket, a client only:
//
//     node builtin.mjs client SCENARIO URL [--ca FILE] [--deflate PARAMS]
//
// Node reads a private CA from NODE_EXTRA_CA_CERTS when it starts, and before Node 22 its WebSocket
// needs an option. So this program runs itself again with both.

import { spawnSync } from 'node:child_process';

import { finish, parse } from './arguments.mjs';
import { run } from './scenarios.mjs';

const settings = parse(process.argv.slice(2));

if (process.env.INTEROP_AGAIN === undefined) {
  const options = typeof WebSocket === 'undefined' ? ['--experimental-websocket'] : [];
  const { status } = spawnSync(process.execPath, [...options, ...process.argv.slice(1)], {
    stdio: 'inherit',
    env: {
      ...process.env,
      INTEROP_AGAIN: '1',
      NODE_NO_WARNINGS: '1',
      ...(settings.ca && { NODE_EXTRA_CA_CERTS: settings.ca }),
    },
  });
  process.exit(status ?? 1);
}

finish(
  run(settings.scenario, settings.url, {
    deflate: settings.deflate,
    open: (url, { protocols = [], headers }) => new WebSocket(url, { protocols, headers }),
  }),
);
