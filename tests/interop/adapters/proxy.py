"""nginx or HAProxy in front of a server of the suite:

    python3 proxy.py nginx|haproxy PROGRAM server --listen HOST:PORT|/SOCKET [--tls CERT KEY]
        [--deflate PARAMS]

PROGRAM is the server. It listens without TLS on a port of its own, and the proxy ends TLS.
"""

import argparse
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading

NGINX = """
daemon off;
worker_processes 1;
pid {scratch}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    server {{
        listen {address} {tls};
        {certificate}
        location / {{
            proxy_pass http://{backend};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend front
    bind fd@{descriptor} {tls}
    default_backend back
backend back
    server server {backend}
"""


def listen(address):
    """Returns the socket on which the proxy listens, and its address."""
    if address.startswith("/"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
    else:
        host, port = address.rsplit(":", 1)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        address = "{}:{}".format(*listener.getsockname())
    listener.listen(128)
    # The proxy inherits it. So connections are accepted before the proxy has started, and no other
    # program can take the port.
    listener.set_inheritable(True)
    return listener, address


def nginx(scratch, listener, address, backend, tls):
    settings = dict(tls="", certificate="")
    if tls:
        settings["tls"] = "ssl"
        settings["certificate"] = "ssl_certificate {}; ssl_certificate_key {};".format(*tls)
    if address.startswith("/"):
        address = f"unix:{address}"
    config = scratch / "nginx.conf"
    config.write_text(NGINX.format(scratch=scratch, address=address, backend=backend, **settings))
    command = ["nginx", "-p", str(scratch), "-e", "stderr", "-c", str(config)]
    # nginx passes its sockets on in this variable when it replaces itself by a newer version.
    return command, {"NGINX": f"{listener.fileno()};"}


def haproxy(scratch, listener, address, backend, tls):
    bind = ""
    if tls:
        # HAProxy reads the certificate and its key from one file.
        both = scratch / "both.pem"
        both.write_text("".join(pathlib.Path(file).read_text() for file in tls))
        bind = f"ssl crt {both}"
    config = scratch / "haproxy.cfg"
    config.write_text(HAPROXY.format(descriptor=listener.fileno(), tls=bind, backend=backend))
    return ["haproxy", "-db", "-q", "-f", str(config)], {}


def start(arguments, scratch, children, ended):
    """Starts both. `ended` receives a text when one of them has ended."""
    command = [arguments.program, "server", "--listen", "127.0.0.1:0"]
    if arguments.deflate:
        command += ["--deflate", arguments.deflate]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    children.append(server)
    line = server.stdout.readline()
    if not line.startswith("listening on ws://"):
        sys.exit(f"the server behind the proxy printed: {line!r}")
    backend = line.split("//", 1)[1].strip().rstrip("/")

    listener, address = listen(arguments.listen)
    make = {"nginx": nginx, "haproxy": haproxy}[arguments.proxy]
    command, environment = make(scratch, listener, address, backend, arguments.tls)
    proxy = subprocess.Popen(
        command,
        env={"PATH": f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin", **environment},
        pass_fds=[listener.fileno()],
        stdout=sys.stderr,
    )
    children.append(proxy)
    listener.close()

    scheme = "wss" if arguments.tls else "ws"
    prefix = f"{scheme}+unix:" if address.startswith("/") else f"{scheme}://"
    print(f"listening on {prefix}{address}", flush=True)

    def pass_on():
        """Prints what the server says of its connections."""
        for line in server.stdout:
            print(line, end="", flush=True)
        ended.put("the server has ended")

    def wait_for_proxy():
        ended.put(f"{arguments.proxy} has ended with status {proxy.wait()}")

    for wait in (pass_on, wait_for_proxy):
        threading.Thread(target=wait, daemon=True).start()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("proxy", choices=["nginx", "haproxy"])
    parser.add_argument("program")
    parser.add_argument("role", choices=["server"])
    parser.add_argument("--listen", required=True)
    parser.add_argument("--tls", nargs=2, type=os.path.abspath)
    parser.add_argument("--deflate")
    arguments = parser.parse_args()
    ended = queue.SimpleQueue()
    # The signal does not interrupt the start of a child, which nobody would end then.
    signal.signal(signal.SIGTERM, lambda *_: ended.put("SIGTERM"))
    children = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        try:
            start(arguments, pathlib.Path(scratch), children, ended)
            reason = ended.get()
        finally:
            for child in children:
                # Not `kill`: nginx has to end its worker process.
                child.terminate()
                child.wait()
    sys.exit(reason)


if __name__ == "__main__":
    main()
