"""roslibpy, a client of rosbridge: ros.py client ros URL"""

import queue
import sys
import time

import roslibpy

TIMEOUT = 20
NUMBER = 10


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def run(url):
    ros = roslibpy.Ros(f"{url}/ros")
    ros.run(TIMEOUT)

    # The robot publishes its state as soon as someone subscribes.
    states = queue.Queue()
    state = roslibpy.Topic(ros, "/robot/state", "std_msgs/String")
    state.subscribe(states.put)
    for n in range(NUMBER):
        message = states.get(timeout=TIMEOUT)
        check(message == {"data": f"state {n}"}, message)

    # It publishes each order again, on another topic.
    seen = queue.Queue()
    orders_seen = roslibpy.Topic(ros, "/robot/orders/seen", "std_msgs/String")
    orders_seen.subscribe(seen.put)
    orders = roslibpy.Topic(ros, "/robot/orders", "std_msgs/String")
    orders.advertise()
    for n in range(NUMBER):
        orders.publish(roslibpy.Message({"data": f"order {n}: é 🚀"}))
    for n in range(NUMBER):
        message = seen.get(timeout=TIMEOUT)
        check(message == {"data": f"order {n}: é 🚀"}, message)

    add = roslibpy.Service(ros, "/robot/add", "rospy_tutorials/AddTwoInts")
    answer = add.call(roslibpy.ServiceRequest({"a": 20, "b": 22}), timeout=TIMEOUT)
    check(answer["sum"] == 42, answer)

    for topic in (state, orders_seen):
        topic.unsubscribe()
    orders.unadvertise()
    ros.close()
    # `close` only begins the closing handshake.
    deadline = time.monotonic() + TIMEOUT
    while ros.is_connected:
        check(time.monotonic() < deadline, "it is still connected after close")
        time.sleep(0.01)
    ros.terminate()


if len(sys.argv) != 4 or sys.argv[1:3] != ["client", "ros"]:
    sys.exit("usage: ros.py client ros URL")
try:
    run(sys.argv[3])
except Exception as error:
    print(" ".join(f"{type(error).__name__}: {error}".split()), flush=True)
    sys.exit(1)
print("ok", flush=True)
