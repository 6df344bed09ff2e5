"""Starts servers and clients, and waits for what they print."""

import os
import pathlib
import queue
import signal
import subprocess
import tempfile
import threading
import time

# How long a program may take to start and print its URL, or a server to notice an end.
START = 20

_running = set()
_running_lock = threading.Lock()
_stopped = False


class Failure(Exception):
    """What went wrong, in one line."""


class Process:
    """A program in a process group of its own, whose lines are read as they come."""

    def __init__(self, command):
        with _running_lock:
            if _stopped:
                raise Failure("the run was interrupted")
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
            except OSError as error:
                raise Failure(f"{command[0]}: {error.strerror}") from error
            _running.add(self)
        self.lines = queue.Queue()
        self.errors = []
        readers = (self.read_output, self.read_errors)
        self.readers = [threading.Thread(target=each, daemon=True) for each in readers]
        for reader in self.readers:
            reader.start()

    def read_output(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line.rstrip("\n"))

    def line(self, deadline):
        """The next line of the output, or None at its end."""
        try:
            return self.lines.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None

    def last_error(self):
        lines = [line for line in self.errors if line.strip()]
        return f" (standard error: {lines[-1].strip()})" if lines else ""

    def signal_group(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def stop(self):
        """Ends the process and its children. Before that, it may remove its files."""
        self.signal_group(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        self.signal_group(signal.SIGKILL)
        self.process.wait()
        for reader in self.readers:
            reader.join(5)
        with _running_lock:
            _running.discard(self)


def stop_all():
    """Ends everything that is still running, and lets nothing else start."""
    global _stopped
    with _running_lock:
        _stopped = True
        running = list(_running)
    for process in running:
        process.stop()


class Server(Process):
    """A server, which prints its URL after `announces`."""

    def __init__(self, command, announces="listening on "):
        super().__init__(command)
        try:
            self.url = self.wait_for(announces, START).removeprefix(announces)
        except Failure:
            self.stop()
            raise

    def wait_for(self, beginning, seconds):
        """Takes lines until one begins so, and returns it."""
        deadline = time.monotonic() + seconds
        seen = []
        while True:
            try:
                line = self.line(deadline)
            except TimeoutError:
                said = f"; it printed {seen!r}" if seen else ""
                raise Failure(
                    f"the server did not print {beginning.strip()!r}{said}{self.last_error()}"
                ) from None
            if line is None:
                self.process.wait()
                for reader in self.readers:
                    reader.join(5)
                said = f": {seen[-1]}" if seen else ""
                raise Failure(f"the server ended{said}{self.last_error()}")
            if line.startswith(beginning):
                return line
            seen.append(line)

    def alive(self):
        return self.process.poll() is None


class Client(Process):
    """A client, whose last line has to be `ok`."""

    def __init__(self, command, seconds):
        super().__init__(command)
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.last = None

    def next_line(self):
        line = self.line(self.deadline)
        if line is not None:
            self.last = line
        return line

    def wait_for(self, wanted):
        """Takes lines until this one comes."""
        try:
            while (line := self.next_line()) != wanted:
                if line is None:
                    self.finish()
                    raise Failure(f"the client has ended, and did not print {wanted!r}")
        except TimeoutError:
            self.stop()
            raise Failure(f"the client did not print {wanted!r}{self.last_error()}") from None

    def finish(self):
        """Waits for the end."""
        try:
            while self.next_line() is not None:
                pass
            status = self.process.wait(max(0.1, self.deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            said = f" after {self.last!r}" if self.last else ""
            raise Failure(f"no end within {self.seconds} s{said}{self.last_error()}") from None
        finally:
            self.stop()
        if status != 0:
            raise Failure(f"{self.last or f'status {status}'}{self.last_error()}")
        if self.last != "ok":
            raise Failure(f"the client's last line is {self.last!r}")


def run_client(command, seconds):
    """Runs a client to its end."""
    Client(command, seconds).finish()


class Bench:
    """What the scenarios of one peer share: its processes, files and certificates."""

    def __init__(self, ours, certificates):
        self.ours = [ours]
        self.certificates = certificates
        self.folder = tempfile.TemporaryDirectory(prefix="interop-")
        self.servers = {}
        self.started = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.started:
            server.stop()
        self.folder.cleanup()

    def path(self, name):
        return str(pathlib.Path(self.folder.name) / name)

    def start(self, command, *announces):
        """Starts a server, which is ended with the bench."""
        server = Server(command, *announces)
        self.started.append(server)
        return server

    def start_ours(self, *settings):
        """Starts this crate's server."""
        return self.start([*self.ours, "server", "--listen", "127.0.0.1:0", *settings])

    def begin(self, command, deadline=30):
        """Starts a client."""
        client = Client(command, deadline)
        self.started.append(client)
        return client

    def run(self, command, deadline=30):
        """Runs a client to its end."""
        run_client(command, deadline)

    def run_ours(self, scenario, url, *settings, deadline=30):
        """Runs this crate's client."""
        self.run([*self.ours, "client", scenario, url, *settings], deadline)

    def server(self, role, command, variant):
        """The server of this kind. It is started once, and again after it has ended."""
        key = (role, variant)
        server = self.servers.get(key)
        if server is None or not server.alive():
            self.forget(role, variant)
            settings = {
                "plain": ["--listen", "127.0.0.1:0"],
                "tls": [
                    "--listen",
                    "127.0.0.1:0",
                    "--tls",
                    self.certificates.cert,
                    self.certificates.key,
                ],
                "unix": ["--listen", self.path(f"{role}.sock")],
            }
            arguments = settings.get(variant)
            if arguments is None:
                arguments = [*settings["plain"], "--deflate", variant.removeprefix("deflate ")]
            server = self.start([*command, "server", *arguments])
            self.servers[key] = server
        return server

    def forget(self, role, variant):
        """Ends a server, so that the next scenario has a new one."""
        server = self.servers.pop((role, variant), None)
        if server is not None:
            server.stop()
            self.started.remove(server)


class Certificates:
    """A CA, and a certificate for localhost that it has signed."""

    def __init__(self, folder):
        self.ca = str(folder / "ca.pem")
        self.cert = str(folder / "cert.pem")
        self.key = str(folder / "key.pem")
        extensions = folder / "extensions"
        extensions.write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"
        )
        request, ca_key = str(folder / "request.pem"), str(folder / "ca.key")
        new = ["req", "-newkey", "rsa:2048", "-nodes"]
        for arguments in (
            [*new, "-x509", "-days", "2", "-subj", "/CN=CA of a test"]
            + ["-keyout", ca_key, "-out", self.ca],
            [*new, "-subj", "/CN=localhost", "-keyout", self.key, "-out", request],
            ["x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key]
            + ["-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", self.cert],
        ):
            subprocess.run(
                ["openssl", *arguments], check=True, stderr=subprocess.PIPE, timeout=60
            )
