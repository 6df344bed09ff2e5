"""Debian's Chromium, a client only: python3 chromium.py client SCENARIO URL [--ca FILE] [--deflate PARAMS]

A page that this program serves runs the scenario in JavaScript, and posts its result back. The
browser has a profile and a home of its own, in which certutil (libnss3-tools) trusts the CA.
"""

import argparse
import http.server
import json
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading

DEADLINE = 55
HERE = pathlib.Path(__file__).parent

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>A scenario</title>
<script type="module">
  const report = (result) => fetch('/result', { method: 'POST', body: result });
  const peer = { open: (url, { protocols = [] }) => new WebSocket(url, protocols) };
  try {
    const { scenario, url, deflate } = await (await fetch('/settings')).json();
    const { run } = await import('/scenarios.mjs');
    await run(scenario, url, { ...peer, deflate: deflate ?? undefined });
    await report('ok');
  } catch (error) {
    await report(`${error.message}`);
  }
</script>
"""


class Page(http.server.ThreadingHTTPServer):
    """Serves the page with its settings. `result` receives the result."""

    daemon_threads = True

    def __init__(self, settings):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {
            "/": ("text/html", PAGE.encode()),
            "/scenarios.mjs": ("text/javascript", (HERE / "node" / "scenarios.mjs").read_bytes()),
            "/settings": ("application/json", json.dumps(settings).encode()),
        }
        self.result = queue.Queue()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind, body = self.server.files.get(self.path, (None, None))
        if kind is None:
            self.send_error(404)
            return
        self.answer(kind, body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer("text/plain", b"")
        self.server.result.put(body.decode())

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def trust(ca, home):
    """Makes the certificates' database of this home, with the CA in it."""
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    certutil = ["certutil", "-d", f"sql:{database}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)
    subprocess.run([*certutil, "-A", "-n", "CA", "-t", "C,,", "-i", ca], check=True)


def run(arguments, scratch):
    page = Page({"scenario": arguments.scenario, "url": arguments.url, "deflate": arguments.deflate})
    home = scratch / "home"
    home.mkdir()
    if arguments.ca:
        trust(arguments.ca, home)
    errors = scratch / "errors"
    with errors.open("wb") as log:
        browser = subprocess.Popen(
            [
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
                f"--user-data-dir={scratch / 'profile'}",
                f"http://127.0.0.1:{page.server_port}/",
            ],
            env={**os.environ, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        return page.result.get(timeout=DEADLINE)
    except queue.Empty:
        lines = errors.read_text(errors="replace").splitlines()
        return f"no result in {DEADLINE} s; the browser says: {' '.join(lines[-3:])}"
    finally:
        browser.terminate()
        try:
            browser.wait(10)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["client"])
    parser.add_argument("scenario")
    parser.add_argument("url")
    parser.add_argument("--ca")
    parser.add_argument("--deflate")
    arguments = parser.parse_args()
    # The browser may still write into its profile while the folder is being removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        result = run(arguments, pathlib.Path(scratch))
    print(result.replace("\n", " "))
    return 0 if result == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
