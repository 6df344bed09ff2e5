from peer import Own, PythonPeer


def close(peer, bench):
    bench.run_ours("foxglove-close", start(peer, bench).url)


def end(scenario):
    def run(peer, bench):
        server = start(peer, bench)
        bench.run_ours(scenario, server.url)
        server.wait_for("stopped", 20)

    return run


def start(peer, bench):
    return bench.start([*peer.server(), "server", "--listen", "127.0.0.1:0"])


class Foxglove(PythonPeer):
    name = "foxglove"
    title = "foxglove-sdk (Python)"
    version = "0.30.3"
    environment = "foxglove"
    requirements = ["foxglove-sdk==0.30.3"]
    adapter = "python/foxglove_.py"
    no_client = no_server = "it speaks Foxglove's protocol only"
    own = [
        Own(
            "close",
            "this crate's client subscribes to its channels, sends orders, and closes",
            close,
        ),
        Own(
            "stop",
            "the same, and then its server stops: an orderly end, because it sends a Close frame",
            end("foxglove-stop"),
        ),
        Own(
            "exit",
            "the same, and then its program ends without stopping the server: a loss, because "
            "there is no Close frame",
            end("foxglove-exit"),
        ),
    ]


PEERS = [Foxglove()]
