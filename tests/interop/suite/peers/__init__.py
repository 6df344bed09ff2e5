"""The peers. Each module of this folder has a list `PEERS`."""

import importlib
import pathlib

# The order of the columns. A module that is not in the list follows, by its name.
ORDER = ["websockets", "websocket_client", "aiohttp", "rtcbot", "node", "chromium", "proxies"]


def load():
    folder = pathlib.Path(__file__).parent
    found = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    names = [name for name in ORDER if name in found] + sorted(found - set(ORDER))
    return [peer for name in names for peer in importlib.import_module(f"peers.{name}").PEERS]
