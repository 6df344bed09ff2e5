// The npm package roslib, a client of rosbridge: node ros.mjs client ros URL
//
// NODE_PATH names the folder with the package.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { finish, parse } from './arguments.mjs';

const NUMBER = 10;

// The package is for `import` only, and `import` does not look at NODE_PATH.
const folder = join(process.env.NODE_PATH, 'roslib');
const { module } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
const { Ros, Service, Topic } = await import(pathToFileURL(join(folder, module)));

function check(condition, what) {
  if (!condition) throw new Error(`unexpected: ${JSON.stringify(what)}`);
}

// Returns a function that waits for the next message of the topic.
function subscribe(topic) {
  const arrived = [];
  let wake = () => {};
  topic.subscribe((message) => {
    arrived.push(message);
    wake();
  });
  return async () => {
    while (arrived.length === 0) await new Promise((resolve) => (wake = resolve));
    return arrived.shift();
  };
}

async function run(url) {
  const ros = new Ros();
  const closed = new Promise((resolve) => ros.on('close', resolve));
  await new Promise((resolve, reject) => {
    ros.on('connection', resolve);
    ros.on('error', (event) => reject(new Error(event.message ?? 'cannot connect')));
    ros.connect(`${url}/ros`);
  });
  const topic = (name) => new Topic({ ros, name, messageType: 'std_msgs/String' });

  // The robot publishes its state as soon as someone subscribes.
  const state = topic('/robot/state');
  const nextState = subscribe(state);
  for (let n = 0; n < NUMBER; n++) {
    const message = await nextState();
    check(message.data === `state ${n}`, message);
  }

  // It publishes each order again, on another topic.
  const seen = topic('/robot/orders/seen');
  const nextSeen = subscribe(seen);
  const orders = topic('/robot/orders');
  orders.advertise();
  for (let n = 0; n < NUMBER; n++) orders.publish({ data: `order ${n}: é 🚀` });
  for (let n = 0; n < NUMBER; n++) {
    const message = await nextSeen();
    check(message.data === `order ${n}: é 🚀`, message);
  }

  const add = new Service({
    ros,
    name: '/robot/add',
    serviceType: 'rospy_tutorials/AddTwoInts',
  });
  const answer = await new Promise((resolve, reject) => {
    add.callService({ a: 20, b: 22 }, resolve, (error) => reject(new Error(error)));
  });
  check(answer.sum === 42, answer);

  state.unsubscribe();
  seen.unsubscribe();
  orders.unadvertise();
  ros.close();
  const end = await closed;
  check(end.wasClean && end.code === 1005, { code: end.code, wasClean: end.wasClean });
}

const { scenario, url } = parse(process.argv.slice(2));
finish(scenario === 'ros' ? run(url) : Promise.reject(new Error(`no scenario ${scenario}`)));
