"""websocket-client, which has no server."""

import asyncio
import socket
import ssl

import websocket
from scenarios import Ended, main
from websocket import ABNF


class Connection:
    def __init__(self, ws):
        self.ws = ws
        self.subprotocol = ws.getsubprotocol()

    async def call(self, function, *arguments):
        try:
            return await asyncio.to_thread(function, *arguments)
        except websocket.WebSocketConnectionClosedException as end:
            raise Ended(1006, str(end)) from None

    async def frame(self):
        """The next frame or message. The library answers pings and Close frames itself."""
        opcode, data = await self.call(self.ws.recv_data, True)
        if opcode == ABNF.OPCODE_CLOSE:
            raise Ended(int.from_bytes(data[:2], "big") or 1005, data[2:].decode())
        return opcode, data

    async def send(self, message):
        opcode = ABNF.OPCODE_TEXT if isinstance(message, str) else ABNF.OPCODE_BINARY
        await self.call(self.ws.send, message, opcode)

    async def send_parts(self, parts, text):
        opcode = ABNF.OPCODE_TEXT if text else ABNF.OPCODE_BINARY
        for part in parts[:-1]:
            await self.call(self.ws.send_frame, ABNF.create_frame(part, opcode, fin=0))
            opcode = ABNF.OPCODE_CONT
        await self.call(self.ws.send_frame, ABNF.create_frame(parts[-1], opcode, fin=1))

    async def recv(self):
        while True:
            opcode, data = await self.frame()
            if opcode == ABNF.OPCODE_TEXT:
                return data.decode()
            if opcode == ABNF.OPCODE_BINARY:
                return data

    async def ping(self, payload):
        await self.call(self.ws.ping, payload)
        opcode, data = await self.frame()
        if (opcode, data) != (ABNF.OPCODE_PONG, payload):
            raise AssertionError(f"instead of a pong: {opcode}, {data!r:.80}")

    async def close(self, code, reason):
        # The library's own `close` drops the answer. Its `recv_data` answers that answer, for which
        # the server may be gone.
        await self.call(self.ws.send_close, code, reason.encode())
        frame = await self.call(self.ws.recv_frame)
        if frame.opcode != ABNF.OPCODE_CLOSE:
            raise AssertionError(f"unexpected: {frame}")
        answer = int.from_bytes(frame.data[:2], "big")
        if answer != code:
            raise Ended(answer)
        await self.call(self.ws.shutdown)


class Library:
    async def connect(self, url, ca, deflate, headers={}, subprotocols=[]):
        settings = {
            "header": headers,
            "subprotocols": subprotocols,
            # Sends and receives in several threads.
            "enable_multithread": True,
        }
        if ca:
            settings["sslopt"] = {"ca_certs": ca, "cert_reqs": ssl.CERT_REQUIRED}
        if url.startswith("ws+unix:"):
            _, path, resource = url.split(":")
            settings["socket"] = socket.socket(socket.AF_UNIX)
            settings["socket"].connect(path)
            url = f"ws://localhost{resource}"
        return Connection(await asyncio.to_thread(websocket.create_connection, url, **settings))


main(Library())
