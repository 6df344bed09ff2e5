"""The scenarios that every peer is asked for. main.py describes what both sides do."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Scenario:
    name: str
    # One line for the page.
    about: str
    # In seconds.
    deadline: int = 30
    # The kind of server: plain, tls, unix, or deflate with its parameters.
    variant: str = "plain"
    # What the client is asked for, if that is not the name.
    runs: tuple = ()

    @property
    def clients(self):
        return self.runs or (self.name,)


# The parameters of `--deflate`, and what is compressed with each.
PARAMS = {
    "default": "by permessage-deflate",
    "no-context": "without context takeover on both sides",
    "window-9": "with windows of 9 bits on both sides",
}
COMPRESSED = ("json", "sizes", "flood")

SCENARIOS = [
    Scenario("json", "JSON and its edge cases come back to the byte"),
    Scenario("unicode", "so does text of every plane"),
    Scenario("sizes", "text and binary of 0, 1, 125, 126, 65535 and 65536 bytes"),
    Scenario("binary-1MiB", "1 MiB of binary"),
    Scenario("binary-16MiB", "16 MiB of binary", deadline=60),
    Scenario("fragments", "the client sends messages in several frames"),
    Scenario("fragmented", "the server sends messages in several frames"),
    Scenario("empty", "an empty text and an empty binary message"),
    Scenario("ping", "the client's pings are answered with their payload"),
    Scenario("pinged", "the client answers the server's ping"),
    Scenario("close-by-server", "the server closes with a code and a reason"),
    Scenario("close-by-client", "the client closes with a code and a reason"),
    Scenario("abrupt", "the server ends TCP, and the client reports a loss"),
    Scenario("subprotocol", "the server chooses one of two subprotocols"),
    Scenario("headers", "the server sees a header that the client adds"),
    Scenario("flood", "10 000 numbered messages each way at once, in order", deadline=60),
    Scenario("wss", "`sizes` over TLS with a private CA", variant="tls", runs=("sizes",)),
    Scenario("unix", "`sizes` over a Unix socket", variant="unix", runs=("sizes",)),
    *(
        Scenario(
            f"deflate-{params}",
            f"`json`, `sizes` and `flood`, compressed {how}",
            deadline=60,
            variant=f"deflate {params}",
            runs=COMPRESSED,
        )
        for params, how in PARAMS.items()
    ),
]

# What the server prints after `close-by-client`.
CLOSED = "closed 4002 done ✓"
