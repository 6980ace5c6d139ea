"""A local server of pictures, some of them rude."""

import io
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.tiny import picture


class ImageServer:
    """/N.jpg is picture N; see `do_GET` for the rest. `asked`: how often each path was asked for; `agents`: by whom."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self.latency_s, self.padding = latency_s, 0  # padding: bytes after each picture
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.lock = threading.Lock()
        self.http = _Server(("127.0.0.1", 0), _Handler)
        self.http.owner = self
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        return int(self.http.server_address[1])

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def __enter__(self) -> "ImageServer":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    owner: ImageServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        owner, path = self.server.owner, self.path.lstrip("/")
        with owner.lock:
            owner.asked[path] += 1
            owner.agents.add(self.headers["User-Agent"])
        time.sleep(owner.latency_s)
        if path.startswith("to/"):  # a redirect
            self._send(302, b"", {"Location": path.removeprefix("to/")})
        elif path == "page.jpg":
            self._send(200, b"<!doctype html><p>no picture")
        elif path == "forbidden.jpg":
            self._send(200, _jpeg(1), {"X-Robots-Tag": "noai"})
        elif path == "large.jpg":
            self._send(200, bytes(300_000))
        elif path == "slow.jpg":
            self._drip()
        elif path.removesuffix(".jpg").isdecimal():
            self._send(200, _jpeg(int(path.removesuffix(".jpg"))) + bytes(owner.padding))
        else:
            self._send(404, b"")

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _drip(self) -> None:
        """Never silent for long, never done."""
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.1)


def _jpeg(number: int) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, format="JPEG")
    return file.getvalue()
