import install
from peer import Own, Peer, adapter

PACKAGES = ["ws@8.23.0", "roslib@2.1.0"]


def echo(scenario):
    def run(peer, bench):
        # The same server for all of them.
        server = bench.server("client", bench.ours, "plain")
        bench.run([*peer.client(), "client", scenario, server.url])

    return run


class NodePeer(Peer):
    """A peer with an adapter in JavaScript."""

    adapter = ""

    def install(self):
        self.node = install.node()
        self.modules = install.npm("npm", PACKAGES)

    def client(self):
        return ["env", f"NODE_PATH={self.modules}", self.node, adapter(self.adapter)]

    server = client


class Ws(NodePeer):
    name = "ws"
    title = "ws (Node)"
    version = "8.23.0"
    adapter = "node/ws.mjs"
    own = [
        Own("mixed", "1000 messages, in turn text and binary, come back in order", echo("mixed")),
        Own("several", "30 of its clients at once", echo("several")),
        Own(
            "last-messages",
            "its client sends 100 messages and a Close frame at once, and all come back before "
            "the reply to that",
            echo("last-messages"),
        ),
    ]


class Builtin(NodePeer):
    name = "node"
    title = "Node's own WebSocket"
    adapter = "node/builtin.mjs"
    no_server = "Node has no server of its own"
    lacks = {
        "fragments": "Node's own WebSocket sends each message in one frame",
        "ping": "Node's own WebSocket cannot send pings",
        "unix": "Node's own WebSocket has no Unix sockets",
    }

    def install(self):
        super().install()
        self.version = install.command(
            self.node, "-p", "`${process.version}, undici ${process.versions.undici}`"
        ).strip()


def ros(peer, bench):
    bench.run([*peer.client(), "client", "ros", bench.start_ours().url])


class Roslib(NodePeer):
    name = "roslib"
    title = "roslib (Node), for ROS"
    version = "2.1.0"
    adapter = "node/ros.mjs"
    no_client = no_server = "it speaks the protocol of rosbridge only"
    own = [
        Own(
            "ros",
            "subscribes to topics, publishes and calls a service at a rosbridge of this crate",
            ros,
        )
    ]


PEERS = [Ws(), Builtin(), Roslib()]
