"""Debian's Chromium, a client only:

    python3 chromium.py client SCENARIO URL [--ca FILE] [--deflate PARAMS]
    python3 chromium.py client page http://HOST:PORT

A page that this program serves runs the scenario in JavaScript. `page` is for the example
page_and_socket: it opens the example's page and holds one of its sliders.

The browser has a profile and a home of its own, in which certutil (libnss3-tools) trusts the CA. The
program speaks to it over pipes, by the protocol of its developer tools.
"""

import argparse
import collections
import http.server
import itertools
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time

DEADLINE = 55
HERE = pathlib.Path(__file__).parent

RUN = """(async ({scenario, url, deflate}) => {
    const peer = {
        deflate: deflate ?? undefined,
        open: (url, {protocols = []}) => new WebSocket(url, protocols),
    };
    const {run} = await import('/scenarios.mjs');
    await run(scenario, url, peer);
})(%s)"""

# Waits until a function of the page is true.
UNTIL = """(async (condition) => {
    const deadline = Date.now() + 20_000;
    while (!condition()) {
        if (Date.now() > deadline) throw new Error(`${condition}: ${document.body.innerText}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
})(() => %s)"""

HOLD = """
    both.dispatchEvent(new PointerEvent('pointerdown', {pointerId: 1}));
    both.value = 0.5;
    both.dispatchEvent(new Event('input'));"""

# What a page of another site would try.
INTRUDE = """new Promise((resolve) => {
    const socket = new WebSocket(%s);
    socket.onopen = () => resolve('it may connect');
    socket.onclose = ({code}) => resolve(`closed ${code}`);
})"""


class Wrong(Exception):
    """What is wrong, in one line."""


class Browser:
    """A browser with one page."""

    def __init__(self, scratch, ca):
        self.deadline = time.monotonic() + DEADLINE
        self.numbers = itertools.count(1)
        self.buffer = b""
        self.events = collections.deque()
        self.log = scratch / "log"
        home = scratch / "home"
        home.mkdir()
        if ca:
            trust(ca, home)
        from_us, self.commands = os.pipe()
        self.answers, to_us = os.pipe()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    # The browser's pipes are the descriptors 3 and 4.
                    *("sh", "-c", f'exec "$@" 3<&{from_us} 4>&{to_us}', "sh"),
                    "chromium",
                    "--headless",
                    "--no-sandbox",
                    "--no-first-run",
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-extensions",
                    "--no-proxy-server",
                    "--remote-debugging-pipe",
                    f"--user-data-dir={scratch / 'profile'}",
                    "about:blank",
                ],
                env={**os.environ, "HOME": str(home)},
                pass_fds=(from_us, to_us),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        os.close(from_us)
        os.close(to_us)

    def open(self, url):
        """Opens the page, in a tab of its own."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        self.call("Page.enable", self.session)
        answer = self.call("Page.navigate", self.session, url=url)
        if error := answer.get("errorText"):
            raise Wrong(f"{url}: {error}")
        # The tab has loaded about:blank before.
        self.wait_for("Page.frameNavigated", lambda event: event["frame"]["url"] == url)
        self.wait_for("Page.loadEventFired")

    def evaluate(self, script):
        """Runs the script in the page, and returns its result."""
        answer = self.call(
            "Runtime.evaluate",
            self.session,
            expression=script,
            awaitPromise=True,
            returnByValue=True,
        )
        if wrong := answer.get("exceptionDetails"):
            raise Wrong(wrong["exception"]["description"].split("\n    at ")[0].removeprefix("Error: "))
        return answer["result"].get("value")

    def call(self, method, session=None, **parameters):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self.next_message()).get("id") != number:
            self.events.append(answer)
        if "error" in answer:
            raise Wrong(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait_for(self, method, condition=lambda _: True):
        """Takes events until this one has come."""
        while True:
            event = self.events.popleft() if self.events else self.next_message()
            if event.get("method") == method and condition(event["params"]):
                return

    def next_message(self):
        while b"\0" not in self.buffer:
            left = max(0, self.deadline - time.monotonic())
            ready, _, _ = select.select([self.answers], [], [], left)
            part = os.read(self.answers, 1 << 16) if ready else b""
            if not part:
                lines = self.log.read_text(errors="replace").splitlines()
                what = "the browser has ended" if ready else f"no result in {DEADLINE} s"
                raise Wrong(f"{what}; it says: {' '.join(lines[-3:])}")
            self.buffer += part
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def close(self):
        """Lets the browser end. It writes its profile before."""
        try:
            os.write(self.commands, b'{"id": 0, "method": "Browser.close"}\0')
            self.process.wait(10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


def trust(ca, home):
    """Makes the certificates' database of this home, with the CA in it."""
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    certutil = ["certutil", "-d", f"sql:{database}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)
    subprocess.run([*certutil, "-A", "-n", "CA", "-t", "C,,", "-i", ca], check=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves an empty page, and the scenarios."""

    files = {
        "/": ("text/html", b"<!doctype html><title>A scenario</title>"),
        "/scenarios.mjs": ("text/javascript", (HERE / "node" / "scenarios.mjs").read_bytes()),
    }

    def do_GET(self):
        kind, body = self.files.get(self.path, (None, None))
        if kind is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve():
    """Returns the URL of the empty page."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def drive(browser, url):
    """Drives the robot of the example, in its page."""
    socket = json.dumps(url.replace("http", "ws", 1) + "/ws")
    browser.open(serve())
    answer = browser.evaluate(INTRUDE % socket)
    if answer != "closed 1006":
        raise Wrong(f"a page of another origin: {answer}")
    browser.open(url + "/")
    browser.evaluate(UNTIL % "document.getElementById('status').textContent === 'connected'")
    state = "JSON.parse(document.getElementById('state').textContent || '{}')"
    browser.evaluate(UNTIL % f"{state}.left === 0")
    browser.evaluate(HOLD)
    browser.evaluate(UNTIL % f"{state}.left === 0.5 && {state}.x > 0.2")
    browser.evaluate("window.onpointerup({pointerId: 1})")
    browser.evaluate(UNTIL % f"{state}.left === 0")
    browser.call("Page.navigate", browser.session, url="about:blank")


def run(arguments, scratch):
    browser = Browser(scratch, arguments.ca)
    try:
        if arguments.scenario == "page":
            drive(browser, arguments.url)
        else:
            browser.open(serve())
            keys = ("scenario", "url", "deflate")
            browser.evaluate(RUN % json.dumps({key: getattr(arguments, key) for key in keys}))
    finally:
        browser.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["client"])
    parser.add_argument("scenario")
    parser.add_argument("url")
    parser.add_argument("--ca")
    parser.add_argument("--deflate")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The browser may still write into its profile while the folder is being removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        try:
            run(arguments, pathlib.Path(scratch))
        except Wrong as wrong:
            print(str(wrong).replace("\n", " "))
            return 1
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
