"""Runs the scenarios against the peers: see tests/interop/run.

Every program here, this crate's and each adapter, has the same command line:

    PROGRAM server --listen HOST:PORT|/PATH [--tls CERT KEY] [--deflate PARAMS]
    PROGRAM client SCENARIO URL [--ca FILE] [--deflate PARAMS]

The server prints `listening on URL`, with the URL ws://HOST:PORT, wss://HOST:PORT or ws+unix:/PATH,
and serves until it is killed. It may have other lines. The client gets that URL, adds the path of
the scenario (`URL/echo`, and `ws+unix:/PATH:/echo`), checks what is said below, closes, prints `ok`
and ends with status 0. If something is wrong, it prints one line and ends with status 1. Files are
PEM: CERT may have several certificates, KEY is PKCS#8. The certificate is for localhost, and the
driver uses that name for `wss`.

The path selects what the server does:

    /echo              every message comes back unchanged, text as text, binary as binary
    /close/CODE/REASON the server closes at once with that code and reason (percent-encoded)
    /wait              the server waits for the client to close, then prints `closed CODE REASON`
    /abrupt            it sends the text "last words", then ends TCP without a Close frame
    /ping              it sends a ping "are you there", and after the pong the text "pong"
    /headers           it sends a text: a JSON object of the request's headers, in lower case
    /subprotocol       it chooses "second" of those offered, and sends the chosen name as text
    /fragmented        it sends the text "in several frames: é 你 🚀" and the bytes 0 to 255, each
                       in several frames (a character divided between two, if its library can)
    /flood             it sends the texts "0" to "9999" while it reads the same from the client,
                       in order, and then the text "10000"; it closes with 4000 if they are wrong

The client's scenarios, and their paths:

    json, unicode, sizes, binary-1MiB, binary-16MiB, empty   /echo  all comes back to the byte
    fragments        /echo  as `fragmented`, but the client sends
    fragmented       /fragmented
    ping             /echo  pings of 0, 13 and 125 bytes; waits for each pong
    pinged           /ping  receives "pong"
    close-by-server  /close/4001/bye%20%E2%9C%93  sees this code and the reason "bye ✓"
    close-by-client  /wait  closes with 4002 and "done ✓"; the driver looks at the server's line
    abrupt           /abrupt  receives the text, then its library reports that there was no Close
    subprotocol      /subprotocol  offers first and second, receives "second", and chose that too
    headers          /headers  sends X-Robot: 7, and the server has seen it
    flood            /flood

`wss` and `unix` are the client scenario `sizes` over TLS and over a Unix socket. `deflate-PARAMS`
are the client scenarios `json`, `sizes` and `flood`, with `--deflate PARAMS` on both sides. PARAMS are
one or more of these, separated by commas, and without them nothing is compressed:

    default            permessage-deflate as the library has it
    no-context         no context takeover, for both sides
    window-9           windows of 9 bits, for both sides

The client checks that the server's response has what was asked for.

A new peer is a class in a module of `peers`, derived from `peer.Peer`. Nothing is skipped: what a
library does not have is in `lacks`, with the reason, and the page shows it.
"""

import argparse
import concurrent.futures
import pathlib
import signal
import sys
import tempfile
import time
import traceback

import harness
import install
import page
import peers
from scenarios import CLOSED, SCENARIOS

ROLES = ("client", "server")


class Result:
    """The cells of one peer: (role, scenario) or ("own", scenario), each with what was seen."""

    def __init__(self, peer):
        self.peer = peer
        self.cells = {}
        self.seconds = 0.0


def run_peer(peer, ours, certificates):
    result = Result(peer)
    begun = time.monotonic()
    peer.ours = ours
    try:
        peer.install()
    except Exception as error:
        failed = f"FAILS: it cannot be installed: {one_line(error)}"
        for key in wanted(peer):
            result.cells[key] = failed
    else:
        with harness.Bench(ours, certificates) as bench:
            for key in wanted(peer):
                result.cells[key] = cell(peer, bench, *key)
                if result.cells[key].startswith("FAILS"):
                    print(f"{peer.name}: {' '.join(key)}: {result.cells[key]}", flush=True)
    result.seconds = time.monotonic() - begun
    return result


def wanted(peer):
    """The cells of a peer."""
    for role in ROLES:
        if getattr(peer, f"no_{role}") is None:
            for scenario in SCENARIOS:
                yield role, scenario.name
    for own in peer.own:
        yield "own", own.name


def one_line(error):
    return " ".join(str(error).split()) or type(error).__name__


def cell(peer, bench, role, name):
    try:
        if role == "own":
            next(own for own in peer.own if own.name == name).run(peer, bench)
            return "ok"
        scenario = next(each for each in SCENARIOS if each.name == name)
        if lack := peer.lack(role, name):
            return f"no: {lack}"
        return run_scenario(peer, bench, role, scenario)
    except harness.Failure as error:
        return f"FAILS: {one_line(error)}"
    except Exception as error:
        traceback.print_exc()
        return f"FAILS: the driver: {type(error).__name__}: {one_line(error)}"


def run_scenario(peer, bench, role, scenario):
    """`role` is the peer's."""
    theirs = peer.client() if role == "client" else peer.server()
    client, server = (theirs, bench.ours) if role == "client" else (bench.ours, theirs)
    variant = scenario.variant
    listening = bench.server(role, server, variant)
    settings = []
    url = listening.url
    if variant == "tls":
        settings = ["--ca", bench.certificates.ca]
        url = f"wss://localhost:{url.rsplit(':', 1)[1]}"
    elif variant.startswith("deflate "):
        settings = ["--deflate", variant.removeprefix("deflate ")]
    try:
        for runs in scenario.clients:
            harness.run_client(
                [*client, "client", runs, url, *settings], scenario.deadline
            )
        if scenario.name == "close-by-client":
            line = listening.wait_for("closed ", harness.START)
            if line != CLOSED:
                raise harness.Failure(f"the server saw {line!r}")
    except harness.Failure as error:
        # A server that hangs or has ended fails one scenario, not all that follow.
        said = listening.last_error()
        bench.forget(role, variant)
        raise harness.Failure(f"{error}{said.replace('standard error', 'server')}") from None
    return "ok"


def main():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--examples", type=pathlib.Path, required=True)
    parser.add_argument("--cache", type=pathlib.Path, required=True)
    parser.add_argument("--bless", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("names", nargs="*", metavar="PEER")
    arguments = parser.parse_args()

    all_peers = peers.load()
    if arguments.list:
        print("\n".join(each.name for each in all_peers))
        return 0
    known = {each.name for each in all_peers}
    if unknown := [name for name in arguments.names if name not in known]:
        sys.exit(f"there is no peer {', '.join(unknown)}: see --list")
    if arguments.names and arguments.bless:
        sys.exit("--bless needs all peers")
    chosen = [each for each in all_peers if not arguments.names or each.name in arguments.names]

    install.cache = arguments.cache
    install.cache.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="interop-") as folder:
        certificates = harness.Certificates(pathlib.Path(folder))
        ours = str(arguments.examples / "interop")
        results = {}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            try:
                running = [pool.submit(run_peer, each, ours, certificates) for each in chosen]
                for done in concurrent.futures.as_completed(running):
                    result = done.result()
                    results[result.peer.name] = result
                    print(summary(result), flush=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                harness.stop_all()

    results = [results[each.name] for each in chosen]
    print(page.for_the_terminal(results))
    print(f"{time.monotonic() - begun:.0f} s together")
    return page.settle(results, complete=not arguments.names, bless=arguments.bless)


def summary(result):
    kinds = {"ok": 0, "no": 0, "FAILS": 0}
    for content in result.cells.values():
        kinds[content.split(":")[0]] += 1
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return f"{result.peer.name}: {counts} in {result.seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
