"""websockets, its asyncio side."""

import asyncio
import ssl

import websockets.asyncio.client
import websockets.asyncio.server
import websockets_deflate
from scenarios import Ended, come_back, listening, main, receives
from websockets.exceptions import ConnectionClosed

MAX_SIZE = 32 << 20


class Connection:
    def __init__(self, ws):
        self.ws = ws
        self.path = ws.request.path
        self.headers = ws.request.headers
        self.subprotocol = ws.subprotocol

    async def send(self, message):
        try:
            await self.ws.send(message)
        except ConnectionClosed as end:
            raise ended(end) from None

    async def send_parts(self, parts, text):
        await self.ws.send(parts, text=text)

    async def recv(self):
        try:
            return await self.ws.recv()
        except ConnectionClosed as end:
            raise ended(end) from None

    async def ping(self, payload):
        await (await self.ws.ping(payload))

    async def close(self, code, reason):
        await self.ws.close(code, reason)
        received = self.ws.protocol.close_rcvd
        if received is None:
            raise Ended(1006)

    async def abort(self):
        self.ws.transport.abort()


def ended(end):
    return Ended(end.rcvd.code, end.rcvd.reason) if end.rcvd else Ended(1006, str(end))


async def mixed(url):
    """Text and binary messages in order, sent while others are received."""
    expected = [str(n) if n % 2 else n.to_bytes(4, "big") for n in range(1000)]
    ws = await Library().connect(url + "/echo")

    async def send_all():
        for message in expected:
            await ws.send(message)

    sending = asyncio.create_task(send_all())
    for message in expected:
        await receives(ws, message)
    await sending
    await ws.close(1000, "")


async def several(url):
    """30 connections at once."""

    async def one(number):
        ws = await Library().connect(url + "/echo")
        await come_back(ws, [f"{number}: {count}" for count in range(50)])
        await ws.close(1000, "")

    await asyncio.gather(*(one(number) for number in range(30)))


async def cut_off(url):
    """A connection that is cut off takes nothing else with it."""
    other = await Library().connect(url + "/echo")
    ws = await Library().connect(url + "/echo")
    await ws.send("x" * (1 << 20))
    await ws.abort()
    await ws.ws.wait_closed()
    await come_back(other, ["still there"])
    await come_back(await Library().connect(url + "/echo"), ["and so is the server"])
    await other.close(1000, "")


class Library:
    own = {"mixed": mixed, "several": several, "cut-off": cut_off}

    async def connect(self, url, ca=None, deflate=None, headers={}, subprotocols=[]):
        settings = {
            "additional_headers": headers,
            "subprotocols": subprotocols or None,
            "max_size": MAX_SIZE,
            **websockets_deflate.client(deflate),
        }
        if url.startswith("ws+unix:"):
            _, socket, path = url.split(":")
            uri = f"ws://localhost{path}"
            connecting = websockets.asyncio.client.unix_connect(socket, uri, **settings)
            return Connection(await connecting)
        if ca:
            settings["ssl"] = ssl.create_default_context(cafile=ca)
        ws = await websockets.asyncio.client.connect(url, **settings)
        websockets_deflate.check(ws, deflate)
        return Connection(ws)

    async def serve(self, listen, tls, deflate, handle):
        async def handler(ws):
            await handle(Connection(ws))

        settings = {
            "subprotocols": ["second"],
            "select_subprotocol": lambda _, offered: "second" if "second" in offered else None,
            "max_size": MAX_SIZE,
            **websockets_deflate.server(deflate),
        }
        if tls:
            settings["ssl"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            settings["ssl"].load_cert_chain(*tls)
        if listen.startswith("/"):
            serving = websockets.asyncio.server.unix_serve(handler, listen, **settings)
        else:
            host, port = listen.rsplit(":", 1)
            serving = websockets.asyncio.server.serve(handler, host, int(port), **settings)
        async with serving as server:
            if listen.startswith("/"):
                listening(f"ws+unix:{listen}")
            else:
                host, port = server.sockets[0].getsockname()
                listening(f"{'wss' if tls else 'ws'}://{host}:{port}")
            await asyncio.get_running_loop().create_future()


main(Library())
