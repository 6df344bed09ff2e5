"""Compression in websockets: the settings of `--deflate`."""

from scenarios import check_deflate
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)


def parameters(deflate):
    settings = {}
    for side in ("server", "client"):
        if "no-context" in deflate:
            settings[f"{side}_no_context_takeover"] = True
        if "window-9" in deflate:
            settings[f"{side}_max_window_bits"] = 9
    return settings


def client(deflate):
    """The arguments of `connect`."""
    if deflate is None:
        return {"compression": None}
    factory = ClientPerMessageDeflateFactory(**parameters(deflate))
    return {"compression": None, "extensions": [factory]}


def server(deflate):
    """The arguments of `serve`."""
    if deflate is None:
        return {"compression": None}
    factory = ServerPerMessageDeflateFactory(**parameters(deflate))
    return {"compression": None, "extensions": [factory]}


def check(ws, deflate):
    check_deflate(deflate, ws.response.headers.get("Sec-WebSocket-Extensions", ""))
