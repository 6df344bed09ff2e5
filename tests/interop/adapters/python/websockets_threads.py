"""websockets, its side with threads."""

import asyncio
import socket
import ssl

import websockets.sync.client
import websockets.sync.server
import websockets_deflate
from scenarios import TIMEOUT, Ended, listening, main
from websockets.exceptions import ConnectionClosed

MAX_SIZE = 32 << 20


class Connection:
    def __init__(self, ws):
        self.ws = ws
        self.path = ws.request.path
        self.headers = ws.request.headers
        self.subprotocol = ws.subprotocol

    async def call(self, function, *arguments, **settings):
        try:
            return await asyncio.to_thread(function, *arguments, **settings)
        except ConnectionClosed as end:
            received = end.rcvd
            raise (
                Ended(received.code, received.reason) if received else Ended(1006, str(end))
            ) from None

    async def send(self, message):
        await self.call(self.ws.send, message)

    async def send_parts(self, parts, text):
        await self.call(self.ws.send, parts, text=text)

    async def recv(self):
        return await self.call(self.ws.recv)

    async def ping(self, payload):
        pong = self.ws.ping(payload)
        if not await asyncio.to_thread(pong.wait, TIMEOUT):
            raise AssertionError("no pong")

    async def close(self, code, reason):
        await self.call(self.ws.close, code, reason)
        if self.ws.protocol.close_rcvd is None:
            raise Ended(1006)

    async def abort(self):
        self.ws.socket.shutdown(socket.SHUT_RDWR)


class Library:
    async def connect(self, url, ca, deflate, headers={}, subprotocols=[]):
        settings = {
            "additional_headers": headers,
            "subprotocols": subprotocols or None,
            "max_size": MAX_SIZE,
            **websockets_deflate.client(deflate),
        }
        if url.startswith("ws+unix:"):
            _, path, resource = url.split(":")
            connect = websockets.sync.client.unix_connect
            arguments = (path, f"ws://localhost{resource}")
        else:
            connect = websockets.sync.client.connect
            arguments = (url,)
        if ca:
            settings["ssl"] = ssl.create_default_context(cafile=ca)
        ws = await asyncio.to_thread(connect, *arguments, **settings)
        websockets_deflate.check(ws, deflate)
        return Connection(ws)

    async def serve(self, listen, tls, deflate, handle):
        # The library calls this in a thread for each connection.
        def handler(ws):
            asyncio.run(handle(Connection(ws)))

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
            serving = websockets.sync.server.unix_serve(handler, listen, **settings)
            url = f"ws+unix:{listen}"
        else:
            host, port = listen.rsplit(":", 1)
            serving = websockets.sync.server.serve(handler, host, int(port), **settings)
            host, port = serving.socket.getsockname()
            url = f"{'wss' if tls else 'ws'}://{host}:{port}"
        with serving as server:
            listening(url)
            await asyncio.to_thread(server.serve_forever)


main(Library())
