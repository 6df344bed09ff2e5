from peer import PythonPeer

VERSION = "17.4"


class Asyncio(PythonPeer):
    name = "websockets-asyncio"
    title = "websockets (Python), asyncio"
    version = VERSION
    environment = "websockets"
    requirements = [f"websockets=={VERSION}"]
    adapter = "python/websockets_asyncio.py"


class Threads(Asyncio):
    name = "websockets-threads"
    title = "websockets (Python), threads"
    adapter = "python/websockets_threads.py"


PEERS = [Asyncio(), Threads()]
