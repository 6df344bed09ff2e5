import pathlib
import sys

import harness
import install
from peer import Own, Peer, adapter


def page(peer, bench):
    example = str(pathlib.Path(peer.ours).parent / "page_and_socket")
    server = bench.start([example, "127.0.0.1:0"], "open ")
    bench.run([*peer.client(), "client", "page", server.url], deadline=60)
    lines = []
    while not lines or "1001" not in lines[-1]:
        lines.append(server.wait_for("127.0.0.1:", harness.START).split(": ", 1)[1])
    for wanted in ("may not connect here", '{"left":0.5,"right":0.5}', '{"left":0,"right":0}'):
        if not any(line.endswith(wanted) for line in lines):
            raise harness.Failure(f"the server printed {lines}")


class Chromium(Peer):
    name = "chromium"
    title = "Chromium"
    no_server = "it is a browser"
    lacks = {
        "fragments": "a page cannot send a message in several frames",
        "ping": "a page cannot send pings",
        "headers": "a page cannot add headers to the request",
        "unix": "a page cannot use Unix sockets",
    }

    own = [
        Own(
            "page",
            "shows the page of the example `page_and_socket` and drives its robot; a page of "
            "another origin may not",
            page,
        )
    ]

    def install(self):
        self.version = install.debian("chromium", "chromium")
        install.debian("certutil", "libnss3-tools")

    def client(self):
        return [sys.executable, adapter("chromium.py")]


PEERS = [Chromium()]
