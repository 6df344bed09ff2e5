from peer import PythonPeer


class WebsocketClient(PythonPeer):
    name = "websocket-client"
    title = "websocket-client (Python)"
    version = "1.9.2"
    environment = "websocket-client"
    requirements = ["websocket-client==1.9.2"]
    adapter = "python/websocket_client.py"
    no_server = "it is a client only"


PEERS = [WebsocketClient()]
