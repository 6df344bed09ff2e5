"""The test server of libwebsockets, which has paths and protocols of its own:

    python3 lws_test_server.py server --listen 127.0.0.1:0 [--tls CERT KEY]
"""

import argparse
import signal
import socket
import subprocess
import sys
import time

STARTS = 20


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(tls):
    """Starts the server. Returns it and its port, or None if it has not started."""
    # The server cannot choose a port. Another program may take this one first.
    port = free_port()
    command = ["libwebsockets-test-server", f"--port={port}", "--interface=127.0.0.1", "--debug=3"]
    if tls:
        command += ["--ssl", f"--ssl-cert={tls[0]}", f"--ssl-key={tls[1]}"]
    server = subprocess.Popen(command, stdout=sys.stderr)
    while server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return server, port
        except OSError:
            time.sleep(0.05)
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["server"])
    parser.add_argument("--listen", choices=["127.0.0.1:0"], required=True)
    parser.add_argument("--tls", nargs=2)
    arguments = parser.parse_args()
    for _ in range(STARTS):
        if started := start(arguments.tls):
            break
    else:
        sys.exit("the server does not start")
    server, port = started
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    print(f"listening on {'wss' if arguments.tls else 'ws'}://127.0.0.1:{port}", flush=True)
    sys.exit(f"the server has ended with status {server.wait()}")


if __name__ == "__main__":
    main()
