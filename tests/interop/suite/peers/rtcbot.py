import json
import urllib.request

import harness
from peer import Own, PythonPeer
from scenarios import PARAMS

NO_BINARY = "RTCBot sends and receives text only"
NO_CODE = "RTCBot always closes with 1000, and does not show a received code"
IN_PARTS = f"{NO_BINARY}; text in several frames is a scenario of its own"
NO_PARTS = "RTCBot sends each message in one frame"


def values(peer, bench):
    """JSON in both roles, over ws and wss."""
    for settings, more, host in (
        ([], [], "127.0.0.1"),
        (
            ["--tls", bench.certificates.cert, bench.certificates.key],
            ["--ca", bench.certificates.ca],
            "localhost",
        ),
    ):
        for server, client in ((bench.ours, peer.client()), (peer.server(), bench.ours)):
            listening = bench.start([*server, "server", "--listen", "127.0.0.1:0", *settings])
            url = listening.url.replace("127.0.0.1", host)
            bench.run([*client, "client", "values", url, *more])


def compressed(peer, bench):
    """RTCBot's server compresses whatever a client wants compressed; its client never asks."""
    listening = bench.start([*peer.server(), "server", "--listen", "127.0.0.1:0"])
    for scenario in ("json", "flood"):
        bench.run_ours(scenario, listening.url, "--deflate", "default")


def tutorial(server, robot, operator):
    """A function that runs the tutorial, with each part in "Rust" or in "Python"."""

    def run(peer, bench):
        def command(language):
            return bench.ours if language == "Rust" else peer.client()

        listening = bench.start([*command(server), "server", "--listen", "127.0.0.1:0"])
        running = bench.begin([*command(robot), "client", "robot", listening.url])
        running.wait_for("connected")
        bench.run([*command(operator), "client", "operator", listening.url])
        running.finish()

    return run


def page(peer, bench):
    """The tutorial's own way: the page's offer is an HTTP POST to RTCBot's server."""
    listening = bench.start([*peer.server(), "server", "--listen", "127.0.0.1:0"])
    robot = bench.begin([*bench.ours, "client", "robot", listening.url])
    robot.wait_for("connected")
    offer = {"type": "offer", "sdp": "v=0\r\ns=é 🤖\r\n"}
    request = urllib.request.Request(
        listening.url.replace("ws", "http", 1) + "/connect",
        json.dumps(offer).encode(),
        {"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=20) as response:
        answer = json.load(response)
    if answer != {"type": "answer", "to": offer}:
        raise harness.Failure(f"the robot's answer is {answer}")


class Rtcbot(PythonPeer):
    name = "rtcbot"
    title = "RTCBot (Python)"
    version = "0.2.5, with aiohttp 3.14.5"
    environment = "rtcbot"
    requirements = ["aiohttp==3.14.5", "--no-deps rtcbot==0.2.5"]
    adapter = "python/rtcbot_.py"
    lacks = {
        "sizes": NO_BINARY,
        "binary-1MiB": NO_BINARY,
        "binary-16MiB": NO_BINARY,
        "empty": NO_BINARY,
        "wss": f"{NO_BINARY}; its JSON over TLS is a scenario of its own",
        "unix": "RTCBot has no Unix sockets",
        **{f"deflate-{params}": NO_BINARY for params in PARAMS},
        "client fragments": NO_PARTS,
        "server fragments": IN_PARTS,
        "client fragmented": IN_PARTS,
        "server fragmented": NO_PARTS,
        "client ping": "RTCBot sends no pings",
        "server pinged": "RTCBot sends no pings",
        "close-by-server": NO_CODE,
        "close-by-client": NO_CODE,
        "client abrupt": "RTCBot does not report how a connection ended",
        "server abrupt": "RTCBot cannot end a connection without a Close frame",
        "subprotocol": "RTCBot has no subprotocols",
        "client headers": "RTCBot sends no headers of the program",
    }
    own = [
        Own(
            "values",
            "exchanges JSON values in both roles, over `ws` and `wss`; those to RTCBot are texts "
            "in several frames",
            values,
        ),
        Own(
            "compressed",
            "`json` and `flood` with compression, between this crate's client and its server",
            compressed,
        ),
        Own(
            "page",
            'its tutorial "Connecting over 4G": a page\'s offer, posted to its server, reaches '
            "this crate's robot, and the answer comes back",
            page,
        ),
        *(
            Own(
                f"tutorial {server}-{robot}-{operator}",
                f"the tutorial's relay: the server in {server}, the robot in {robot}, its "
                f"operator in {operator}",
                tutorial(server, robot, operator),
            )
            for server, robot, operator in (
                ("Rust", "Python", "Python"),
                ("Python", "Rust", "Python"),
                ("Python", "Python", "Rust"),
                ("Python", "Rust", "Rust"),
                ("Rust", "Python", "Rust"),
                ("Rust", "Rust", "Python"),
            )
        ),
    ]


PEERS = [Rtcbot()]
