"""A real local HTTP server that speaks the OpenAI protocol, with latency, errors and rude answers.

    with LanguageServer(lambda messages: "1. pizza\\n2. sushi") as server:
        model = LanguageModel("tiny", endpoint=server.url)

The script is called with the request's messages and gives the answer: a text, a `Reply`, or, for a script of two
parameters, it also sees the whole body (seed, temperature, ...). Start it in the process of the test: it outlives a
child that is killed, and counts what that child asked.
"""

import inspect
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.local_server import Handler, LocalServer

Script = Callable[..., "str | Reply"]


@dataclass
class Reply:
    """What the server sends back.

    status other than 200: an error body with `text` as its message. hang_s: waits so long before answering (a client's
    time-out comes first). drop: closes the connection without an answer. raw: this body instead of the protocol's.
    probability: of the first choice, sent as log-probabilities of the tokens "Yes" and "No".
    """

    text: str = ""
    finish: str = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang_s: float = 0.0
    drop: bool = False
    raw: bytes | None = None
    probability: float | None = None


class LanguageServer(LocalServer):
    """Serves one model. `requests`: the bodies received, in order; `most_in_flight`: at one time."""

    def __init__(
        self,
        script: Script = lambda messages: "fine",
        *,
        model: str = "tiny",
        latency_s: float = 0.0,
        api_key: str | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(_Handler, port)
        self.script, self.model, self.latency_s, self.api_key = script, model, latency_s, api_key
        self.requests: list[dict[str, Any]] = []
        self.refused: int = 0  # for the wrong key
        self.most_in_flight = 0
        self.in_flight = 0
        self.closing = threading.Event()
        self.sees_body = len(inspect.signature(script).parameters) > 1

    @property
    def url(self) -> str:
        """The endpoint, as LanguageModel wants it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def prompts(self) -> list[str]:
        """The last message of each request, in order."""
        with self.lock:
            return [body["messages"][-1]["content"] for body in self.requests]

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        super().__exit__(*error)


class _Handler(Handler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self._key_is_wrong():
            return
        if self.path != "/v1/models":
            self._error(404, "no such path")
            return
        self._send(200, {"object": "list", "data": [{"id": self.server.owner.model, "object": "model"}]})

    def do_POST(self) -> None:
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._key_is_wrong():
            return
        if self.path != "/v1/chat/completions":
            self._error(404, "no such path")
            return
        if body.get("model") != owner.model:
            self._error(404, f"The model `{body.get('model')}` does not exist.")
            return
        with owner.lock:
            owner.requests.append(body)
            owner.in_flight += 1
            owner.most_in_flight = max(owner.most_in_flight, owner.in_flight)
        try:
            began = time.monotonic()
            reply = owner.script(body["messages"], body) if owner.sees_body else owner.script(body["messages"])
            reply = reply if isinstance(reply, Reply) else Reply(reply)
            owner.closing.wait(max(0.0, owner.latency_s + reply.hang_s - (time.monotonic() - began)))
        finally:
            with owner.lock:
                owner.in_flight -= 1
        self._answer(reply, body)

    def _answer(self, reply: Reply, body: dict[str, Any]) -> None:
        if reply.drop:
            self.close_connection = True
            self.connection.close()
        elif reply.status != 200:
            self._error(reply.status, reply.text or "the server has a bad day", reply.headers)
        elif reply.raw is not None:
            self._send(200, reply.raw, reply.headers)
        else:
            choice: dict[str, Any] = {
                "index": 0,
                "message": {"role": "assistant", "content": reply.text},
                "finish_reason": reply.finish,
            }
            if body.get("logprobs") and reply.probability is not None:
                choice["logprobs"] = {"content": [_logprobs(reply.probability)]}
            self._send(200, {"object": "chat.completion", "model": body["model"], "choices": [choice]}, reply.headers)

    def _key_is_wrong(self) -> bool:
        owner = self.server.owner
        sent = self.headers.get("Authorization", "")
        if owner.api_key is None or sent == f"Bearer {owner.api_key}":
            return False
        with owner.lock:
            owner.refused += 1
        self._error(401, f"Incorrect API key provided: {sent.removeprefix('Bearer ')}")  # as rude as the real ones
        return True

    def _error(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, {"error": {"message": message, "type": "invalid_request_error"}}, headers)

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _logprobs(probability: float) -> dict[str, Any]:
    import math

    top = [("Yes", probability), ("No", 1.0 - probability)]
    tokens = [{"token": token, "logprob": math.log(max(share, 1e-9))} for token, share in top]
    return {**max(tokens, key=lambda token: token["logprob"]), "top_logprobs": tokens}
