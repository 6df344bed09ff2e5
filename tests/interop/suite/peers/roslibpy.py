from peer import Own, PythonPeer


def ros(peer, bench):
    server = bench.start_ours()
    bench.run([*peer.client(), "client", "ros", server.url])
    server.wait_for("the client of ROS has closed", 20)


class Roslibpy(PythonPeer):
    name = "roslibpy"
    title = "roslibpy (Python), for ROS"
    version = "2.1.0"
    environment = "roslibpy"
    requirements = ["roslibpy==2.1.0"]
    adapter = "python/ros.py"
    no_client = no_server = "it speaks the protocol of rosbridge only"
    own = [
        Own(
            "ros",
            "subscribes to topics, publishes and calls a service at a rosbridge of this crate",
            ros,
        )
    ]


PEERS = [Roslibpy()]
