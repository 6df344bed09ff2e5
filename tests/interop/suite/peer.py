"""What a module of `peers` says about one peer."""

import pathlib

import install

ADAPTERS = pathlib.Path(__file__).resolve().parent.parent / "adapters"


def adapter(path):
    """The path of a program in the folder `adapters`."""
    return str(ADAPTERS / path)


class Peer:
    """One implementation. A class derived from this one describes it."""

    # The column's name, and the argument of `run`.
    name = ""
    # The same for people, and the version of the library.
    title = ""
    version = ""
    # The path of this crate's program, which the driver sets.
    ours = ""
    # Why the peer has no client or no server, if that is so.
    no_client = None
    no_server = None
    # The scenarios that the peer does not have, with the reason: "SCENARIO" for both roles, or
    # "client SCENARIO" and "server SCENARIO".
    lacks = {}
    # Its scenarios of its own, as `Own`.
    own = []

    def install(self):
        """Installs what the peer needs. It may set `version` to the version that it found."""

    def client(self):
        """The command of the client, to which the driver adds `client SCENARIO URL ...`."""
        raise NotImplementedError

    def server(self):
        """The command of the server, to which the driver adds `server --listen ...`."""
        raise NotImplementedError

    def lack(self, role, scenario):
        return self.lacks.get(f"{role} {scenario}") or self.lacks.get(scenario)


class PythonPeer(Peer):
    """A peer with one adapter in Python, which is client and server."""

    # The folder of its environment. Peers with the same one have the same requirements.
    environment = "python"
    requirements = []
    adapter = ""

    def install(self):
        self.python = install.python(self.environment, self.requirements)

    def client(self):
        return [self.python, adapter(self.adapter)]

    server = client


class Own:
    """A scenario that only one peer has."""

    def __init__(self, name, about, run, deadline=30):
        """`run` is a function of the peer and a `harness.Bench`. It raises `Failure`."""
        self.name = name
        # One sentence for the page.
        self.about = about
        self.run = run
        self.deadline = deadline
