"""A local server of pictures, some of them rude."""

import io
import time
from collections import Counter

from tests.local_server import Handler, LocalServer
from tests.tiny import picture


class ImageServer(LocalServer):
    """/N.jpg is picture N; see `do_GET` for the rest. `asked`: how often each path was asked for; `agents`: by whom."""

    def __init__(self, latency_s: float = 0.0) -> None:
        super().__init__(_Handler)
        self.latency_s, self.padding = latency_s, 0  # padding: bytes after each picture
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


class _Handler(Handler):
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
