from peer import Own, PythonPeer

VERSION = "17.4"


def echo(scenario):
    def run(peer, bench):
        # The same server for all of them.
        server = bench.server("client", bench.ours, "plain")
        bench.run([*peer.client(), "client", scenario, server.url])

    return run


class Asyncio(PythonPeer):
    name = "websockets-asyncio"
    title = "websockets (Python), asyncio"
    version = VERSION
    environment = "websockets"
    requirements = [f"websockets=={VERSION}"]
    adapter = "python/websockets_asyncio.py"
    own = [
        Own("mixed", "1000 messages, in turn text and binary, come back in order", echo("mixed")),
        Own("several", "30 of its clients at once", echo("several")),
        Own(
            "cut-off",
            "its client ends TCP in the middle of a message, and the server's other connections "
            "stay",
            echo("cut-off"),
        ),
    ]


class Threads(Asyncio):
    name = "websockets-threads"
    title = "websockets (Python), threads"
    adapter = "python/websockets_threads.py"
    own = []


PEERS = [Asyncio(), Threads()]
