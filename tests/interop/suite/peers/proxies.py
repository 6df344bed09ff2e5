import sys

import install
from peer import Peer, adapter


class Proxy(Peer):
    """This crate's server behind a proxy of Debian's. The client is this crate's, too."""

    no_client = "it is a proxy"
    lacks = {"server fragmented": "the server behind it sends each message in one frame"}

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
