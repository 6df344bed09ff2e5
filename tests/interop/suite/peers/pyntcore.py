from peer import Own, PythonPeer


def networktables(peer, bench):
    server = bench.start_ours()
    bench.run([*peer.client(), "client", "networktables", server.url])
    # The client sends `Host: ` without a host, which RFC 9112, section 3.2, allows.
    server.wait_for('a client of NetworkTables, with the Host Some("")', 20)
    # It ends TCP without a Close frame.
    server.wait_for("an end that is not orderly: connection lost", 20)


class Pyntcore(PythonPeer):
    name = "pyntcore"
    title = "pyntcore (Python), for FIRST robots"
    version = "2026.2.2"
    environment = "pyntcore"
    requirements = ["pyntcore==2026.2.2"]
    adapter = "python/networktables.py"
    no_client = no_server = "it speaks NetworkTables only"
    own = [
        Own(
            "networktables",
            "its client, which sends an empty `Host`, publishes and subscribes at a server of "
            "NetworkTables 4 of this crate; it ends without a Close frame, which is a loss",
            networktables,
        )
    ]


PEERS = [Pyntcore()]
