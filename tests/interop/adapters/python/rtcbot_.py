"""RTCBot's own Websocket. Its package needs cameras, sound and WebRTC, so only the modules that the
class is made of are loaded, with an empty module in place of numpy, which they do not call."""

import asyncio
import importlib.util
import os
import ssl
import sys
import types

if "--ca" in sys.argv:
    # RTCBot has no setting for a CA. OpenSSL has this one.
    os.environ["SSL_CERT_FILE"] = sys.argv[sys.argv.index("--ca") + 1]

import scenarios
from aiohttp import web

package = types.ModuleType("rtcbot")
package.__path__ = importlib.util.find_spec("rtcbot").submodule_search_locations
sys.modules["rtcbot"] = package
sys.modules["numpy"] = types.ModuleType("numpy")

from rtcbot.websocket import Websocket

ORDERS = 100
VALUES = [
    "Hello",
    {"foo": "bar"},
    {"motor": 1, "speed": 0.5, "lights": [True, False, None]},
    [-1, 0.1, 1.5e300, 2**64 - 1, 'é\0"\\🚀', [[], {}]],
    None,
]
OFFER = {"type": "offer", "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=é 🤖\r\n"}


class Connection:
    """A Websocket with `recv`, which ends with the connection. Its `get` would wait for ever."""

    path = ""
    headers = {}

    def __init__(self, ws):
        self.ws = ws
        self.closed = asyncio.get_running_loop().create_future()
        ws.onClose(self.end)
        ws.onError(self.fail)
        self.messages = ws.subscribe()

    def end(self):
        if not self.closed.done():
            self.closed.set_result(None)

    def fail(self, error):
        if not self.closed.done():
            self.closed.set_exception(error)

    async def ready(self):
        await asyncio.wait(
            [asyncio.ensure_future(self.ws.onReady().get()), self.closed],
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self.closed.done():
            self.closed.result()

    async def send(self, message):
        self.ws.put_nowait(message)

    async def recv(self):
        getting = asyncio.ensure_future(self.messages.get())
        await asyncio.wait([getting, self.closed], return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        getting.cancel()
        self.closed.result()
        # It does not say with which code, and an end without a Close frame looks the same.
        raise scenarios.Ended(1000)

    async def close(self, code, reason):
        await self.ws.close()
        await self.closed


async def values(url):
    ws = Connection(Websocket(url + "/values"))
    for value in VALUES + [float("inf")]:
        await ws.send(value)
        await scenarios.receives(ws, value)
    await ws.close(1000, "")


async def robot(url):
    """The robot of the tutorial "Connecting over 4G"."""
    ws = Connection(Websocket(url + "/robot"))
    await ws.ready()
    print("connected", flush=True)
    answered = 0
    try:
        while True:
            order = await scenarios.within(ws.recv(), scenarios.TIMEOUT, "waiting for an order")
            await ws.send({"type": "answer", "to": order})
            answered += 1
    except scenarios.Ended:
        scenarios.check(answered == ORDERS + 1, f"{answered} orders came")


async def operator(url):
    """What the page of the tutorial does, and many orders after it."""

    async def answered(order):
        answer = await scenarios.within(ws.recv(), scenarios.TIMEOUT, f"the answer to {order}")
        scenarios.check(answer == {"type": "answer", "to": order}, answer)

    ws = Connection(Websocket(url + "/operator"))
    await ws.send(OFFER)
    await answered(OFFER)
    orders = [{"order": n, "speed": n / 8, "stop": None} for n in range(ORDERS)]
    for order in orders:
        await ws.send(order)
    for order in orders:
        await answered(order)
    await ws.close(1000, "")


class Library:
    own = {"values": values, "robot": robot, "operator": operator}

    async def connect(self, url, ca, deflate):
        ws = Connection(Websocket(url, json=False))
        await ws.ready()
        return ws

    async def serve(self, listen, tls, deflate, handle):
        robots = asyncio.Queue()

        async def handler(request):
            is_json = request.path in ("/values", "/robot", "/operator")
            ws = Connection(Websocket(request, json=is_json))
            ws.path = request.raw_path
            ws.headers = request.headers
            await ws.ready()
            if request.path == "/robot":
                robots.put_nowait(ws)
                await ws.closed
            elif request.path == "/operator":
                await relay(ws, await robots.get())
            elif request.path == "/values":
                try:
                    while True:
                        await ws.send(await ws.recv())
                except scenarios.Ended:
                    pass
            else:
                await handle(ws)
            return ws.ws.ws

        async def connect(request):
            """The tutorial's POST, which passes the offer of a page on to the robot."""
            robot = await robots.get()
            robots.put_nowait(robot)
            robot.ws.put_nowait(await request.json())
            return web.json_response(await robot.recv())

        app = web.Application()
        app.router.add_post("/connect", connect)
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        context = None
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls)
        host, port = listen.rsplit(":", 1)
        await web.TCPSite(runner, host, int(port), ssl_context=context).start()
        host, port = runner.addresses[0]
        scenarios.listening(f"{'wss' if tls else 'ws'}://{host}:{port}")
        await asyncio.get_running_loop().create_future()


async def relay(operator, robot):
    """Passes everything on, until the operator closes."""
    robot.ws.putSubscription(operator.messages)
    operator.ws.putSubscription(robot.messages)
    await operator.closed
    await robot.close(1000, "")


scenarios.main(Library())
