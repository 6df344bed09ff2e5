"""aiohttp, which sends each message in one frame."""

import asyncio
import ssl

import aiohttp
from aiohttp import WSMsgType, web
from scenarios import Ended, Lacks, check, listening, main

MAX_SIZE = 32 << 20


class Connection:
    """Pings and pongs pass through `receive`, because the library itself drops pongs."""

    def __init__(self, ws, subprotocol, request=None, session=None):
        self.ws = ws
        self.subprotocol = subprotocol
        self.session = session
        if request is not None:
            self.request = request
            self.path = request.raw_path
            self.headers = request.headers

    async def frame(self):
        message = await self.ws.receive()
        if message.type == WSMsgType.PING:
            await self.ws.pong(message.data)
        elif message.type == WSMsgType.CLOSE:
            raise Ended(message.data, message.extra or "")
        elif message.type in (WSMsgType.CLOSED, WSMsgType.ERROR, WSMsgType.CLOSING):
            raise Ended(self.ws.close_code or 1006, repr(message.data))
        return message

    async def send(self, message):
        try:
            if isinstance(message, str):
                await self.ws.send_str(message)
            else:
                await self.ws.send_bytes(message)
        except ConnectionError as error:
            raise Ended(1006, str(error)) from None

    async def send_parts(self, parts, text):
        raise Lacks("each message is one frame")

    async def recv(self):
        while True:
            message = await self.frame()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                return message.data

    async def ping(self, payload):
        await self.ws.ping(payload)
        message = await self.frame()
        if (message.type, bytes(message.data)) != (WSMsgType.PONG, payload):
            raise AssertionError(f"instead of a pong: {message!r:.80}")

    async def close(self, code, reason):
        await self.ws.close(code=code, message=reason.encode())
        # The code of the peer's Close frame.
        closed_with = self.ws.close_code
        if self.session:
            await self.session.close()
        if closed_with != code:
            raise Ended(closed_with)

    async def abort(self):
        self.request.transport.abort()


class Library:
    async def connect(self, url, ca, deflate, headers={}, subprotocols=[]):
        connector = None
        if url.startswith("ws+unix:"):
            _, path, resource = url.split(":")
            connector = aiohttp.UnixConnector(path)
            url = f"ws://localhost{resource}"
        session = aiohttp.ClientSession(connector=connector)
        ws = await session.ws_connect(
            url,
            headers=headers,
            protocols=subprotocols,
            max_msg_size=MAX_SIZE,
            autoping=False,
            # The window's bits; 0 is no compression.
            compress=0 if deflate is None else 9 if "window-9" in deflate else 15,
            ssl=ssl.create_default_context(cafile=ca) if ca else True,
        )
        check(bool(ws.compress) == bool(deflate), f"compression is {ws.compress}")
        return Connection(ws, ws.protocol, session=session)

    async def serve(self, listen, tls, deflate, handle):
        async def handler(request):
            ws = web.WebSocketResponse(
                protocols=["second"],
                max_msg_size=MAX_SIZE,
                autoping=False,
                # As the client asks.
                compress=deflate is not None,
            )
            await ws.prepare(request)
            await handle(Connection(ws, ws.ws_protocol, request=request))
            return ws

        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        context = None
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls)
        if listen.startswith("/"):
            await web.UnixSite(runner, listen).start()
            listening(f"ws+unix:{listen}")
        else:
            host, port = listen.rsplit(":", 1)
            await web.TCPSite(runner, host, int(port), ssl_context=context).start()
            host, port = runner.addresses[0]
            listening(f"{'wss' if tls else 'ws'}://{host}:{port}")
        await asyncio.get_running_loop().create_future()


main(Library())
