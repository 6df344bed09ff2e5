"""The scenarios, for libraries in Python. suite/main.py describes them and the command line.

An adapter calls `main` with an object that has two coroutines:

    connect(url, ca=None, headers={}, subprotocols=[], deflate=None)   -> connection
    serve(listen, tls, deflate, handle)   listens, prints the URL, and awaits handle(connection)
                                          for each

A connection has these coroutines. Those of a library without coroutines run in threads.

    send(message)               str or bytes
    send_parts(parts, text)     one message, a frame for each of these bytes
    recv()                      str or bytes; raises Ended
    ping(payload)               returns when the pong has come
    close(code, reason)         the whole closing handshake
    abort()                     ends TCP

and `path` and `headers` of the request (of a server), and `subprotocol`. `library.own` may have
coroutines for scenarios of its own, which receive the URL.
"""

import argparse
import asyncio
import json
import os
import sys
import urllib.parse

TIMEOUT = 25
LONG_TIMEOUT = 50
FLOOD = 10_000
MIB = 1 << 20

JSON = [
    "{}",
    "1.0",
    "-0",
    "1e400",
    "0.1e-7",
    "18446744073709551616",
    "123456789012345678901234567890",
    '{"a":1,"a":2}',
    '{ "b" : 1.0,\t"a":[ ] }',
    " [1]\r\n",
    '"\\ud800"',
    '"\\u0000\\/\\u00e9"',
    '"a\u2028b"',
    "NaN",
    '{"not": JSON',
    "[" * 100 + "]" * 100,
]

UNICODE = [
    "¡hola! 你好 привет",
    "👩🏽\u200d🚀",
    "e\u0301",
    "\0",
    "\ufeffafter a byte order mark",
    "\u202eright to left",
    "\ud7ff\ue000\uffff\U00010000\U0010ffff",
    "\r\n\t\x7f\x85",
]

FRAGMENTED = "in several frames: é 你 🚀"
# The second part ends within the character é, the third within the last one.
TEXT_PARTS = [FRAGMENTED.encode()[a:b] for a, b in ((0, 3), (3, 20), (20, 28), (28, 99))]
ALL_BYTES = bytes(range(256))
BINARY_PARTS = [ALL_BYTES[:1], b"", ALL_BYTES[1:200], ALL_BYTES[200:]]


class Ended(Exception):
    """The connection has ended. `code` is that of the Close frame, or 1006 if there was none."""

    def __init__(self, code, reason=""):
        super().__init__(f"the connection ended with {code} {reason}")
        self.code = code
        self.reason = reason


class Lacks(Exception):
    """The library does not have it. The peer's module should say so."""


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def check_deflate(deflate, extensions):
    """Compares what the server's response says with the names of `--deflate`, or None."""
    found = [part.strip() for part in extensions.split(";") if part.strip()]
    if deflate is None:
        check(not found, f"not asked for: {extensions}")
        return
    wanted = ["permessage-deflate"]
    for side in ("server", "client"):
        if "no-context" in deflate:
            wanted.append(f"{side}_no_context_takeover")
        if "window-9" in deflate:
            wanted.append(f"{side}_max_window_bits=9")
    missing = [each for each in wanted if each not in found]
    check(not missing, f"{missing} not in the response: {extensions}")


def letters(size):
    return (b"abcdefghijklmnopqrstuvwxyz" * (size // 26 + 1))[:size].decode()


def pattern(size):
    return b"".join(bytes(n & 255 ^ block & 255 for n in range(256)) for block in range(256)) * (
        size // 65536 + 1
    )


def sizes():
    all_bytes = pattern(1)
    for size in (0, 1, 125, 126, 65535, 65536):
        yield letters(size)
        yield all_bytes[:size]


async def within(awaitable, seconds, what):
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except asyncio.TimeoutError:
        raise AssertionError(f"{what}: nothing for {seconds} s") from None


async def receives(ws, expected):
    received = await within(ws.recv(), LONG_TIMEOUT, f"waiting for {expected!r:.40}")
    # Text is str and binary is bytes, so this compares the kind too.
    if received != expected:
        sizes = [len(each) for each in (expected, received) if hasattr(each, "__len__")]
        raise AssertionError(f"expected {expected!r:.60}, received {received!r:.60}, {sizes}")


async def come_back(ws, messages):
    for message in messages:
        await ws.send(message)
        await receives(ws, message)


async def ends(ws):
    """Waits for the end, and returns it."""
    try:
        message = await within(ws.recv(), TIMEOUT, "waiting for the end")
    except Ended as end:
        return end
    raise AssertionError(f"unexpected: {message!r:.80}")


async def client(scenario, library, url, settings):
    """Runs one scenario."""

    async def connect(path, **more):
        at = f"{url}:{path}" if url.startswith("ws+unix:") else url + path
        return await within(library.connect(at, **settings, **more), TIMEOUT, "connecting")

    if scenario in getattr(library, "own", {}):
        await library.own[scenario](url)
        return
    echoes = {
        "json": JSON,
        "unicode": UNICODE,
        "sizes": sizes(),
        "binary-1MiB": [pattern(MIB)[:MIB]],
        "binary-16MiB": [pattern(16 * MIB)[: 16 * MIB]],
        "empty": ["", b""],
    }
    if scenario in echoes:
        ws = await connect("/echo")
        await come_back(ws, echoes[scenario])
    elif scenario == "fragments":
        ws = await connect("/echo")
        await ws.send_parts(TEXT_PARTS, True)
        await receives(ws, FRAGMENTED)
        await ws.send_parts(BINARY_PARTS, False)
        await receives(ws, ALL_BYTES)
    elif scenario == "fragmented":
        ws = await connect("/fragmented")
        await receives(ws, FRAGMENTED)
        await receives(ws, ALL_BYTES)
    elif scenario == "ping":
        ws = await connect("/echo")
        for payload in (b"", b"are you there", b"x" * 125):
            await within(ws.ping(payload), TIMEOUT, "waiting for a pong")
        await come_back(ws, ["after the pongs"])
    elif scenario == "pinged":
        ws = await connect("/ping")
        await receives(ws, "pong")
    elif scenario == "close-by-server":
        ws = await connect("/close/4001/bye%20%E2%9C%93")
        end = await ends(ws)
        check((end.code, end.reason) == (4001, "bye ✓"), end)
        return
    elif scenario == "close-by-client":
        ws = await connect("/wait")
        await within(ws.close(4002, "done ✓"), TIMEOUT, "closing")
        return
    elif scenario == "abrupt":
        ws = await connect("/abrupt")
        await receives(ws, "last words")
        end = await ends(ws)
        check(end.code == 1006, end)
        return
    elif scenario == "subprotocol":
        ws = await connect("/subprotocol", subprotocols=["first", "second"])
        await receives(ws, "second")
        check(ws.subprotocol == "second", f"the response chose {ws.subprotocol!r}")
    elif scenario == "headers":
        ws = await connect("/headers", headers={"X-Robot": "7"})
        headers = json.loads(await within(ws.recv(), TIMEOUT, "waiting for the headers"))
        check(headers.get("x-robot") == "7", headers)
    elif scenario == "flood":
        ws = await connect("/flood")
        await flood(ws)
        await receives(ws, str(FLOOD))
    else:
        raise AssertionError(f"there is no scenario {scenario}")
    await within(ws.close(1000, ""), TIMEOUT, "closing")


async def flood(ws):
    """Sends and receives the numbered messages at once."""

    async def send():
        for n in range(FLOOD):
            await ws.send(str(n))

    sending = asyncio.ensure_future(send())
    try:
        for n in range(FLOOD):
            message = await within(ws.recv(), LONG_TIMEOUT, f"waiting for message {n}")
            check(message == str(n), f"message {n} is {message!r:.60}")
        await sending
    finally:
        sending.cancel()


async def handle(ws):
    """Does what the path says, at the server."""
    path = ws.path.split("/")[1:]
    try:
        if path == ["echo"]:
            while True:
                await ws.send(await ws.recv())
        elif path[0] == "close":
            await ws.close(int(path[1]), urllib.parse.unquote(path[2]))
            return
        elif path == ["wait"]:
            end = await ends(ws)
            print(f"closed {end.code} {end.reason}", flush=True)
            return
        elif path == ["abrupt"]:
            await ws.send("last words")
            await ws.abort()
            return
        elif path == ["ping"]:
            await within(ws.ping(b"are you there"), TIMEOUT, "waiting for a pong")
            await ws.send("pong")
        elif path == ["headers"]:
            await ws.send(json.dumps({name.lower(): value for name, value in ws.headers.items()}))
        elif path == ["subprotocol"]:
            await ws.send(ws.subprotocol or "")
        elif path == ["fragmented"]:
            await ws.send_parts(TEXT_PARTS, True)
            await ws.send_parts(BINARY_PARTS, False)
        elif path == ["flood"]:
            try:
                await flood(ws)
            except AssertionError as error:
                await ws.close(4000, str(error)[:100])
                raise
            await ws.send(str(FLOOD))
        else:
            raise AssertionError(f"there is no path {ws.path}")
        await ends(ws)
    except Ended as end:
        if end.code != 1000:
            print(f"{ws.path}: {end}", file=sys.stderr, flush=True)


def listening(url):
    print(f"listening on {url}", flush=True)


def main(library):
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server")
    server.add_argument("--listen", required=True)
    server.add_argument("--tls", nargs=2)
    client_ = roles.add_parser("client")
    client_.add_argument("scenario")
    client_.add_argument("url")
    client_.add_argument("--ca")
    for each in (server, client_):
        each.add_argument("--deflate")
    given = parser.parse_args()
    deflate = given.deflate.split(",") if given.deflate else None
    if given.role == "server":
        asyncio.run(library.serve(given.listen, given.tls, deflate, handle))
        return
    settings = {"ca": given.ca, "deflate": deflate}

    async def run():
        try:
            await client(given.scenario, library, given.url, settings)
        except Exception as error:
            print(" ".join(f"{type(error).__name__}: {error}".split()), flush=True)
            # A library may have tasks that cannot be cancelled.
            os._exit(1)

    asyncio.run(run())
    print("ok", flush=True)
