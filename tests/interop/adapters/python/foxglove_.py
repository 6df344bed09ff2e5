"""foxglove-sdk, a server that shows a robot's data: foxglove_.py server --listen HOST:PORT

Upon the order "begin" the robot publishes ten states. The order "stop" stops the server, and
the order "exit" ends the program without that. To every other order it publishes an answer.
"""

import sys
import threading

import foxglove
from foxglove.websocket import Capability, ServerListener

STATES = 10


class Robot(ServerListener):
    def __init__(self):
        schema = {"type": "object"}
        self.state = foxglove.Channel("/robot/state", schema=schema)
        self.answers = foxglove.Channel("/robot/answers", schema=schema)
        self.stopped = threading.Event()

    def on_message_data(self, client, client_channel_id, data):
        order = data.decode()
        if order == '"begin"':
            for n in range(STATES):
                self.state.log({"state": n})
        elif order in ('"stop"', '"exit"'):
            self.last_order = order
            self.stopped.set()
        else:
            self.answers.log({"answer to": order})


if len(sys.argv) != 4 or sys.argv[1:3] != ["server", "--listen"]:
    sys.exit("usage: foxglove_.py server --listen HOST:PORT")
host, port = sys.argv[3].rsplit(":", 1)
robot = Robot()
server = foxglove.start_server(
    name="robot",
    host=host,
    port=int(port),
    capabilities=[Capability.ClientPublish],
    supported_encodings=["json"],
    server_listener=robot,
)
print(f"listening on ws://{host}:{server.port}", flush=True)
robot.stopped.wait()
if robot.last_order == '"stop"':
    server.stop()
print("stopped", flush=True)
