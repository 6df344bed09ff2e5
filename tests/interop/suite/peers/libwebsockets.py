import pathlib
import sys

import install
from peer import Own, Peer, adapter


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
    lacks = {"server headers": "release 4.1 does not show its server unknown headers"}

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
