// The arguments of the adapters that run in Node, and how their clients end.

// Returns { role: 'server', listen, tls, deflate }
// or { role: 'client', scenario, url, ca, deflate }.
export function parse([role, ...rest]) {
  const settings = { role };
  const positional = [];
  const next = (option) => {
    if (rest.length === 0) usage(`${option} needs a value`);
    return rest.shift();
  };
  while (rest.length > 0) {
    const argument = rest.shift();
    if (argument === '--listen') settings.listen = next(argument);
    else if (argument === '--tls') settings.tls = { cert: next(argument), key: next(argument) };
    else if (argument === '--ca') settings.ca = next(argument);
    else if (argument === '--deflate') settings.deflate = next(argument);
    else if (argument.startsWith('-')) usage(`there is no option ${argument}`);
    else positional.push(argument);
  }
  if (role === 'client' && positional.length === 2) {
    [settings.scenario, settings.url] = positional;
  } else if (role !== 'server' || positional.length > 0 || !settings.listen) {
    usage('the arguments are not complete');
  }
  return settings;
}

function usage(problem) {
  console.error(`${problem}
usage: server --listen HOST:PORT|/SOCKET [--tls CERT KEY] [--deflate PARAMS]
       client SCENARIO URL [--ca FILE] [--deflate PARAMS]`);
  process.exit(2);
}

// Prints `ok`, or in one line what was wrong, and ends the process.
export async function finish(done) {
  try {
    await done;
    console.log('ok');
    process.exit(0);
  } catch (error) {
    console.log(String(error.message ?? error).replaceAll('\n', ' '));
    process.exit(1);
  }
}
