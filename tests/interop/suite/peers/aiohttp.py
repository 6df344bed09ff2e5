from peer import PythonPeer


class Aiohttp(PythonPeer):
    name = "aiohttp"
    title = "aiohttp (Python)"
    version = "3.14.5"
    environment = "aiohttp"
    requirements = ["aiohttp==3.14.5"]
    adapter = "python/aiohttp_.py"
    lacks = {
        "client fragments": "aiohttp sends each message in one frame",
        "server fragmented": "aiohttp sends each message in one frame",
        "client deflate-no-context": "aiohttp's client cannot ask for that",
    }


PEERS = [Aiohttp()]
