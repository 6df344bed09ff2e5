import sys

import install
from peer import Peer, adapter


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

    def install(self):
        self.version = install.debian("chromium", "chromium")
        install.debian("certutil", "libnss3-tools")

    def client(self):
        return [sys.executable, adapter("chromium.py")]


PEERS = [Chromium()]
