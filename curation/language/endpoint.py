"""Answers from an OpenAI-compatible endpoint: a fixed number in flight, waiting where the server asks for it."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.language.answers import AnswerWriter, Naming
from curation.language.connection import Connection, describe
from curation.language.models import Answer, LanguageModel, Request
from curation.language.pacing import Pacing
from curation.language.protocol import TOO_LARGE, Dialect, read_answer, read_retry_after
from curation.progress import Progress

if TYPE_CHECKING:
    import httpx

# What waiting may change, besides 5xx; what another prompt may change. Any other status ends the run.
WAIT = (408, 409, 425, 429)
PROMPT = (400, 413, 422)
# So many failures one after the other are no matter of the prompts.
IN_A_ROW = 64


def answer_remotely(
    model: LanguageModel, requests: list[Request], naming: Naming, folder: Path, key: str, title: str, done: int
) -> None:
    """Asks all requests and stores each answer when it comes. done: how many of the same task were stored before.

    Raises ConnectionError, PermissionError or ValueError, naming the yaml key, where the endpoint is of no use.
    """
    bar = Progress(title, done + len(requests), done, "answers")
    with AnswerWriter(folder) as writer, contextlib.closing(bar):
        try:
            asyncio.run(_Asking(model, naming, writer, key, bar, done).run(requests))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


class _Asking:
    """One run over a list of requests."""

    def __init__(
        self, model: LanguageModel, naming: Naming, writer: AnswerWriter, key: str, bar: Progress, answered: int
    ) -> None:
        self.model, self.naming, self.writer, self.bar = model, naming, writer, bar
        self.connection = Connection(model, key)
        self.dialect = Dialect(model)
        self.answered = answered
        self.failed_in_a_row = 0
        self.pacing = Pacing()

    async def run(self, requests: list[Request]) -> None:
        import httpx

        workers = min(self.model.concurrency, len(requests))
        queue = iter(requests)
        async with (
            httpx.AsyncClient(
                headers={**self.connection.headers(), "Content-Type": "application/json"},
                timeout=httpx.Timeout(self.model.timeout_s, connect=min(10.0, self.model.timeout_s)),
                limits=httpx.Limits(max_connections=workers, max_keepalive_connections=workers),
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(workers):
                group.create_task(self._work(client, queue))

    async def _work(self, client: "httpx.AsyncClient", queue: Iterator[Request]) -> None:
        for request in queue:
            began = time.monotonic()
            answer = await self._answer(client, request)
            self.writer.append([self.naming.record(request, answer, time.monotonic() - began)])
            self.bar.step(1)

    async def _answer(self, client: "httpx.AsyncClient", request: Request) -> Answer:
        """The answer to one request. Raises where the endpoint is of no use to any."""
        attempt, answered, reason = 0, self.answered, ""
        while attempt <= self.model.retries:
            await self.pacing.pause(attempt)
            attempt += 1
            sent = self.dialect.body(request)
            try:
                status, retry_after, body = await self._post(client, sent)
            except _network_errors() as error:
                reason = describe(error)
                continue
            if status == 200:
                answer = read_answer(body, request)
                if isinstance(answer, Answer):
                    self.answered += 1
                    self.failed_in_a_row = 0
                    return answer
                reason = answer
                continue
            reason = f"HTTP {status}: {self.connection.message(body)}"
            if status in PROMPT:
                if self.dialect.adapt(body, sent):
                    attempt -= 1
                    continue
                return self._fail(reason, stop=self.answered == 0)
            if status not in WAIT and status < 500:
                raise self.connection.refusal(status, body)
            self.pacing.hold(retry_after)
            if status == 429 and self.answered > answered:  # it answers others: a limit of the rate is no failure
                attempt, answered = 1, self.answered
        if not await self._is_there(client):
            raise self.connection.unreachable(f"{reason}, {attempt} times")
        return self._fail(reason, stop=True)

    def _fail(self, reason: str, stop: bool) -> Answer:
        """A failed answer; with `stop`, an error where too many failed one after the other."""
        self.failed_in_a_row += 1
        if stop and self.failed_in_a_row >= IN_A_ROW:
            raise ConnectionError(
                f"{self.connection.key}.endpoint {self.connection.base} failed {IN_A_ROW} requests one after the "
                f"other, the last with {reason}; correct the settings or the server and run again, answers are kept"
            )
        return Answer("", "failed", error=reason)

    async def _post(self, client: "httpx.AsyncClient", sent: dict[str, Any]) -> tuple[int, float, bytes]:
        """(status, seconds that the server asks to wait, body cut at a size that no sound answer reaches)."""
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self.model.timeout_s),
                client.stream("POST", f"{self.connection.base}/chat/completions", content=json.dumps(sent)) as response,
            ):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > TOO_LARGE:
                        break
        except TimeoutError:
            raise TimeoutError(f"no answer within {self.model.timeout_s:g} s (timeout_s)") from None
        return response.status_code, read_retry_after(response.headers.get("Retry-After")), bytes(body)

    async def _is_there(self, client: "httpx.AsyncClient") -> bool:
        """Whether the endpoint still lists its models: then one prompt failed, else the server."""
        try:
            response = await client.get(f"{self.connection.base}/models", timeout=10.0)
        except _network_errors():
            return False
        return response.status_code < 500


def _network_errors() -> tuple[type[Exception], ...]:
    import httpx

    return (TimeoutError, httpx.TransportError, httpx.DecodingError)
