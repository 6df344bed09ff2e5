"""Talks to the example echo_server with Python's websockets: python3 echo.py URL [CA]

The URL is ws://ADDRESS, or wss://ADDRESS with the PEM file of the CA that vouches for the server.
Needs the package websockets, 13 or later. Prints what it checked; the exit status is 1 upon any failure.
"""

import asyncio
import os
import platform
import ssl
import sys
import urllib.error
import urllib.request

import websockets
import websockets.asyncio.client

TIMEOUT = 30
MIB = 1 << 20

MESSAGES = {
    "text": "hello",
    "text that is JSON, to the letter": '{ "b" : 1.0,\t"a":[ ] }',
    "unicode": "¡hola! — 你好 — 👩🏽\u200d🚀 — e\u0301 — \u0000 — \U0010ffff",
    "empty text": "",
    "binary": bytes(range(256)),
    "binary that is not UTF-8": b"\xff\xfe\xfd",
    "empty binary": b"",
    "text of 125, 126, 65535 and 65536 bytes": ["x" * n for n in (125, 126, 65535, 65536)],
    "1 MiB of text": "ä" * (MIB // 2),
    "1 MiB of binary": os.urandom(MIB),
}


class Server:
    """Where it listens, and whom its certificate has to be from; its name is checked, too."""

    def __init__(self, url, ca=None):
        self.url = url
        self.tls = ssl.create_default_context(cafile=ca) if url.startswith("wss:") else None

    def connect(self, **settings):
        return websockets.asyncio.client.connect(self.url, ssl=self.tls, **settings)

    def get(self):
        """Asks for a page, as who has no idea of WebSockets would."""
        url = self.url.replace("ws", "http", 1)
        try:
            return urllib.request.urlopen(url, timeout=TIMEOUT, context=self.tls)
        except urllib.error.HTTPError as answer:
            return answer


def check(condition, what):
    if not condition:
        raise AssertionError(what)


async def comes_back(ws, message):
    await ws.send(message)
    answer = await ws.recv()
    # Text is str and binary is bytes, so this compares the kind too.
    check(answer == message, f"sent {message!r:.80}, received {answer!r:.80}")


async def messages(server):
    async with server.connect(max_size=None) as ws:
        for what, message in MESSAGES.items():
            for each in message if isinstance(message, list) else [message]:
                await comes_back(ws, each)
            yield what


async def fragments(server):
    async with server.connect() as ws:
        await ws.send(["in ", "three ", "frames"])
        answer = await ws.recv()
        check(answer == "in three frames", answer)
        yield "a message in three frames"


async def order(server):
    expected = [str(n) if n % 2 else n.to_bytes(4, "big") for n in range(1000)]
    async with server.connect() as ws:

        async def send_all():
            for message in expected:
                await ws.send(message)

        sender = asyncio.create_task(send_all())
        received = [await ws.recv() for _ in expected]
        await sender
        check(received == expected, "not the same messages in the same order")
        yield "1000 messages, text and binary, in order"


async def ping(server):
    async with server.connect() as ws:
        for payload in (b"", b"are you there", b"x" * 125):
            # websockets looks for the pong with the same payload.
            await (await ws.ping(payload))
        await comes_back(ws, "after the pongs")
        yield "pings are answered with their payload"


async def several(server):
    async def one(number):
        async with server.connect() as ws:
            for count in range(50):
                await comes_back(ws, f"{number}: {count}")

    await asyncio.gather(*(one(number) for number in range(30)))
    yield "30 connections at once"


async def close(server):
    ws = await server.connect()
    await comes_back(ws, "before closing")
    await ws.close(4001, "bye")
    check(ws.close_code == 4001, f"the close code is {ws.close_code}")
    check(ws.protocol.close_rcvd_then_sent is False, "the server closed first")
    yield "a close with 4001 and a reason is answered with 4001"


async def lost(server):
    ws = await server.connect()
    await ws.send("x" * MIB)
    ws.transport.abort()
    await ws.wait_closed()
    async with server.connect() as other:
        await comes_back(other, "still there")
    yield "a connection that is cut off takes nothing else with it"


async def plain_http(server):
    with await asyncio.get_running_loop().run_in_executor(None, server.get) as answer:
        check(answer.status == 426, f"the status is {answer.status}")
        check(b"WebSocket" in answer.read(), "the body does not say what this is")
    yield "a plain HTTP request gets a short answer"


async def main(server):
    print(f"Python {platform.python_version()}, websockets {websockets.__version__}")
    failures = 0
    for test in (messages, fragments, order, ping, several, close, lost, plain_http):

        async def run():
            async for what in test(server):
                print(f"  ok: {what}", flush=True)

        try:
            await asyncio.wait_for(run(), TIMEOUT)
        except Exception as error:
            failures += 1
            print(f"  FAILED: {test.__name__}: {type(error).__name__}: {error}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} ws://ADDRESS | wss://ADDRESS CA")
    sys.exit(asyncio.run(main(Server(*sys.argv[1:]))))
