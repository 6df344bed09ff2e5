from peer import PythonPeer
from scenarios import PARAMS


class WebsocketClient(PythonPeer):
    name = "websocket-client"
    title = "websocket-client (Python)"
    version = "1.9.2"
    environment = "websocket-client"
    requirements = ["websocket-client==1.9.2"]
    adapter = "python/websocket_client.py"
    lacks = {f"deflate-{params}": "websocket-client does not compress" for params in PARAMS}
    no_server = "it is a client only"


PEERS = [WebsocketClient()]
