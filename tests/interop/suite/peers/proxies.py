import sys

import install
from peer import Own, Peer, adapter


def over_tls(peer, bench):
    server = bench.server("server", peer.server(), "tls")
    url = f"wss://localhost:{server.url.rsplit(':', 1)[1]}"
    scenarios = ["json", "binary-16MiB", "ping", "headers", "close-by-server", "abrupt", "flood"]
    for scenario in scenarios:
        bench.run_ours(scenario, url, "--ca", bench.certificates.ca, deadline=60)


class Proxy(Peer):
    """This crate's server behind a proxy of Debian's. The client is this crate's, too."""

    no_client = "it is a proxy"

    own = [
        Own(
            "over TLS",
            "ends TLS: 16 MiB, 10 000 messages each way, pings, headers, a Close frame and an "
            "abrupt end pass through it",
            over_tls,
        )
    ]

    def install(self):
        self.version = install.debian(self.name, self.name)

    def server(self):
        return [sys.executable, adapter("proxy.py"), self.name, self.ours]


class Nginx(Proxy):
    name = "nginx"
    title = "nginx before this crate's server"


class Haproxy(Proxy):
    name = "haproxy"
    title = "HAProxy before this crate's server"


PEERS = [Nginx(), Haproxy()]
