"""websockets, its asyncio side."""

import asyncio
import ssl

import websockets.asyncio.client
import websockets.asyncio.server
from scenarios import Ended, listening, main
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


class Library:
    async def connect(self, url, ca, deflate, headers={}, subprotocols=[]):
        settings = {
            "additional_headers": headers,
            "subprotocols": subprotocols or None,
            "max_size": MAX_SIZE,
            "compression": None,
        }
        if url.startswith("ws+unix:"):
            _, socket, path = url.split(":")
            uri = f"ws://localhost{path}"
            connecting = websockets.asyncio.client.unix_connect(socket, uri, **settings)
            return Connection(await connecting)
        if ca:
            settings["ssl"] = ssl.create_default_context(cafile=ca)
        return Connection(await websockets.asyncio.client.connect(url, **settings))

    async def serve(self, listen, tls, deflate, handle):
        async def handler(ws):
            await handle(Connection(ws))

        settings = {
            "subprotocols": ["second"],
            "select_subprotocol": lambda _, offered: "second" if "second" in offered else None,
            "max_size": MAX_SIZE,
            "compression": None,
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
