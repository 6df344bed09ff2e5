import pathlib
import sys

import install
from peer import Own, Peer, adapter


ABORTS = "release 4.1 of libwebsockets aborts when it compresses an empty message of `sizes`"


def compressed(peer, bench):
    settings = ["--deflate", "default"]
    ours = bench.start_ours(*settings)
    theirs = bench.start([*peer.server(), "server", "--listen", "127.0.0.1:0", *settings])
    for scenario in ("json", "flood"):
        bench.run([*peer.client(), "client", scenario, ours.url, *settings])
        bench.run_ours(scenario, theirs.url, *settings)


def own(name, about, tls=False):
    """A scenario of this crate's client with the test server."""

    def run(peer, bench):
        server = bench.server("own", peer.test_server(), "tls" if tls else "plain")
        url, settings = server.url, []
        if tls:
            url = f"wss://localhost:{url.rsplit(':', 1)[1]}"
            settings = ["--ca", bench.certificates.ca]
        bench.run_ours(f"lws-{name.split()[0]}", url, *settings)

    return Own(name, about, run)


class Libwebsockets(Peer):
    name = "libwebsockets"
    title = "libwebsockets (C)"
    lacks = {
        "server headers": "release 4.1 of libwebsockets does not show its server unknown headers",
        "client deflate-default": ABORTS,
        "server deflate-default": ABORTS,
        "client deflate-window-9": ABORTS,
        "server deflate-window-9": "release 4.1 of libwebsockets accepts an offer with "
        "server_max_window_bits, and does not confirm it as RFC 7692 demands",
    }
    own = [
        Own(
            "compressed",
            "`json` and `flood` with compression, which have no empty messages, in both roles",
            compressed,
        )
    ]

    def install(self):
        install.debian("cc", "gcc")
        install.debian("pkg-config", "pkg-config")
        self.version = install.debian("/usr/include/libwebsockets.h", "libwebsockets-dev")
        source = pathlib.Path(adapter("c/libwebsockets.c"))
        self.program = install.c(source, "libwebsockets")

    def client(self):
        return [self.program]

    server = client


class TestServer(Peer):
    name = "lws-test-server"
    title = "libwebsockets' test server (C)"
    no_client = "it is a server"
    no_server = "it has paths and protocols of its own"
    own = [
        own(
            "increment",
            "numbers arrive in order, it answers a ping, and it closes with 1001 and a reason",
        ),
        own("increment wss", "the same over TLS with a private CA", tls=True),
        own("mirror", "texts of 0 to 4000 bytes come back to two connections, in order"),
        own("mirror wss", "the same over TLS with a private CA", tls=True),
        own("status", "its JSON object arrives"),
        own("unknown", "it hangs up on an unknown subprotocol, and `wait_ready` reports that"),
    ]

    def install(self):
        self.version = install.debian("libwebsockets-test-server", "libwebsockets-test-server")

    def test_server(self):
        return [sys.executable, adapter("lws_test_server.py")]


PEERS = [Libwebsockets(), TestServer()]
