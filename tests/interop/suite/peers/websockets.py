from peer import PythonPeer

REQUIREMENTS = ["websockets==17.4"]


class Asyncio(PythonPeer):
    name = "websockets-asyncio"
    title = "websockets (Python), asyncio"
    version = "17.4"
    requirements = REQUIREMENTS
    adapter = "python/websockets_asyncio.py"


PEERS = [Asyncio()]
