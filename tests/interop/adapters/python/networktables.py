"""pyntcore, a client of NetworkTables 4: networktables.py client networktables URL"""

import os
import sys
import time
import urllib.parse

import ntcore

TIMEOUT = 20


def wait(what, condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {TIMEOUT} s")
        time.sleep(0.01)


def run(url):
    address = urllib.parse.urlsplit(url)
    robot = ntcore.NetworkTableInstance.create()
    speed = robot.getDoubleTopic("/robot/speed").publish()
    order = robot.getStringTopic("/robot/order").subscribe("none")
    robot.setServer(address.hostname, address.port)
    robot.startClient4("robot")
    wait("a connection", robot.isConnected)
    wait("the order to begin", lambda: order.get() == "begin")
    for number in (0.5, -0.25, 1e-3):
        speed.set(number)
        robot.flush()
        wait("an order", lambda: order.get() == f"after the speed {number}")
    robot.stopClient()
    wait("the end", lambda: not robot.isConnected())


if len(sys.argv) != 4 or sys.argv[1:3] != ["client", "networktables"]:
    sys.exit("usage: networktables.py client networktables URL")
status = 0
try:
    run(sys.argv[3])
    print("ok", flush=True)
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    status = 1
# The library's threads abort an interpreter that ends otherwise.
os._exit(status)
