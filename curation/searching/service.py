"""A clip-retrieval service over HTTP: a fixed number of requests in flight, waiting where the server asks for it."""

import asyncio
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.language.connection import describe
from curation.language.pacing import Pacing
from curation.language.protocol import read_retry_after
from curation.stage import runtime

if TYPE_CHECKING:
    import httpx

WAIT = (408, 425, 429)  # besides 5xx: what waiting may change
TOO_LARGE = 256 * 1024**2  # bytes of an answer
# So many failures one after the other are no matter of the queries.
IN_A_ROW = 16
KEY = "curation.search.service"

Query = str | list[float]  # a text that the service embeds, or an embedding

ANSWER = pa.schema(
    [
        ("row", pa.int64()), ("similarity", pa.float32()), ("url", pa.string()), ("caption", pa.string()),
        ("licence", pa.string()), ("id", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Service:
    """A clip-retrieval service; the defaults of its filters are those of clip-retrieval's client (paper: "default").

    The filters work after the search: they leave fewer than `k` images.

    Args:
        url: Address of the service, such as http://localhost:1234/knn-service.
        indice_name: Which of its indexes; null takes the only one.
        modality: Search among the index's images or texts: image or text.
        use_mclip: Its multilingual text encoder.
        deduplicate: It drops near-duplicates of an image.
        use_safety_model: It drops what it takes for unsafe.
        use_violence_detector: It drops what it takes for violent.
        aesthetic_score: Shifts queries towards this rating, 0 to 9, where the service can; null for none.
        aesthetic_weight: How far.
        concurrency: Requests in flight.
        timeout_s: Time for one answer.
        retries: Further tries of a request that failed for the time being.
    """

    url: str
    indice_name: str | None = None
    modality: str = "image"
    use_mclip: bool = False
    deduplicate: bool = True
    use_safety_model: bool = True
    use_violence_detector: bool = True
    aesthetic_score: int | None = 9
    aesthetic_weight: float = 0.5
    concurrency: int = runtime(8)
    timeout_s: float = runtime(120.0)
    retries: int = runtime(6)

    @property
    def base(self) -> str:
        """The address without the route."""
        return self.url.rstrip("/").removesuffix("/knn-service")

    def body(self, query: Query, k: int) -> dict[str, Any]:
        """The JSON of one request: a text, or an embedding."""
        return {
            "text" if isinstance(query, str) else "embedding_input": query,
            "modality": self.modality,
            "num_images": k,
            "num_result_ids": k,
            "indice_name": self.indice_name,
            "use_mclip": self.use_mclip,
            "deduplicate": self.deduplicate,
            "use_safety_model": self.use_safety_model,
            "use_violence_detector": self.use_violence_detector,
            "aesthetic_score": "" if self.aesthetic_score is None else self.aesthetic_score,
            "aesthetic_weight": "" if self.aesthetic_score is None else self.aesthetic_weight,
        }

    def check(self) -> "Service":
        """The service with its index's name. Raises ValueError or ConnectionError naming the key; takes seconds."""
        import httpx

        if self.modality not in ("image", "text"):
            raise ValueError(f"{KEY}.modality is {self.modality!r}; it is image or text")
        if self.aesthetic_score is not None and not 0 <= self.aesthetic_score <= 9:
            raise ValueError(f"{KEY}.aesthetic_score is {self.aesthetic_score}; it is 0 to 9, or null")
        for name in ("concurrency", "timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{KEY}.{name} must be positive, got {getattr(self, name)}")
        try:
            response = httpx.get(f"{self.base}/indices-list", timeout=10)
            names = response.json() if response.status_code == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unreachable(self, describe(error)) from None
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConnectionError(
                f"{KEY}.url: {self.base}/indices-list gives no list of indexes (HTTP {response.status_code}); "
                "it is no clip-retrieval service: correct the address"
            )
        if self.indice_name not in names and (self.indice_name is not None or len(names) != 1):
            raise ValueError(
                f"{KEY}.indice_name is {self.indice_name!r}, but {self.base} has {', '.join(names) or 'no index'}; "
                "name one of these"
            )
        return dataclasses.replace(self, indice_name=self.indice_name or names[0])


def unreachable(service: Service, reason: str) -> ConnectionError:
    """The error of a service that gives no answer."""
    return ConnectionError(
        f"{KEY}.url {service.base} does not answer ({reason}); start the service or correct the address. LAION's "
        "public one is gone: use a table with embeddings (curation.search.tables) or an index of your own"
    )


def ask_service(
    service: Service, queries: Iterator[tuple[int, Query]], k: int, keep: Callable[[int, pa.Table | str], None]
) -> None:
    """Asks all queries; keep(number, ANSWER or why there is none) is called once for each when it is answered.

    Raises ConnectionError or ValueError naming the yaml key where the service is of no use to any query.
    """
    try:
        asyncio.run(_Asking(service, k, keep).run(queries))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


class _Asking:
    """One run over the queries."""

    def __init__(self, service: Service, k: int, keep: Callable[[int, pa.Table | str], None]) -> None:
        self.service, self.k, self.keep = service, k, keep
        self.pacing = Pacing()
        self.failed_in_a_row = 0

    async def run(self, queries: Iterator[tuple[int, Query]]) -> None:
        import httpx

        number = self.service.concurrency
        limits = httpx.Limits(max_connections=number, max_keepalive_connections=number)
        timeout = httpx.Timeout(self.service.timeout_s, connect=min(10.0, self.service.timeout_s))
        async with httpx.AsyncClient(timeout=timeout, limits=limits) as client, asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(self._work(client, queries))

    async def _work(self, client: "httpx.AsyncClient", queries: Iterator[tuple[int, Query]]) -> None:
        for number, query in queries:
            answer = await self._answer(client, json.dumps(self.service.body(query, self.k)))
            failed = isinstance(answer, str)
            self.failed_in_a_row = self.failed_in_a_row + 1 if failed else 0
            if self.failed_in_a_row >= IN_A_ROW:
                raise ConnectionError(
                    f"{KEY}.url {self.service.base} failed {IN_A_ROW} queries one after the other, the last with "
                    f"{answer}; correct the settings or the service and run again, what it answered is kept"
                )
            self.keep(number, answer)

    async def _answer(self, client: "httpx.AsyncClient", body: str) -> pa.Table | str:
        """The answer to one query, or why there is none."""
        reason, connected = "", False
        for attempt in range(self.service.retries + 1):
            await self.pacing.pause(attempt)
            try:
                status, retry_after, content = await self._post(client, body)
            except _network_errors() as error:
                reason = describe(error)
                continue
            connected = True
            if status == 200:
                answer = read_answer(content)
                if isinstance(answer, pa.Table):
                    return answer
                reason = answer
                continue
            reason = f"HTTP {status}: {' '.join(content[:300].decode(errors='replace').split())}"
            if status not in WAIT and status < 500:
                raise ValueError(f"{KEY}.url {self.service.base} refuses ({reason}); correct {KEY}")
            self.pacing.hold(retry_after)
        if not connected:
            raise unreachable(self.service, f"{reason}, {self.service.retries + 1} times")
        return reason

    async def _post(self, client: "httpx.AsyncClient", body: str) -> tuple[int, float, bytes]:
        """(status, seconds that the server asks to wait, body up to a size that no sound answer reaches)."""
        content = bytearray()
        headers = {"Content-Type": "application/json"}
        async with (
            asyncio.timeout(self.service.timeout_s),
            client.stream("POST", f"{self.service.base}/knn-service", content=body, headers=headers) as response,
        ):
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > TOO_LARGE:
                    break
        return response.status_code, read_retry_after(response.headers.get("Retry-After")), bytes(content)


def read_answer(content: bytes) -> pa.Table | str:
    """ANSWER of a body: entries without a sound id and similarity are left out. A sentence where it is no answer."""
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        return f"HTTP 200 with what is no list of images: {content[:100].decode(errors='replace')!r}"
    columns: dict[str, list[Any]] = {name: [] for name in ANSWER.names}
    for entry in entries:
        try:
            row, similarity = int(entry["id"]), float(entry["similarity"])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if not (0 <= row < 2**63 and math.isfinite(similarity)):
            continue
        texts = {name: _text(entry, *aliases) for name, aliases in _TEXTS.items()}
        for name, value in {"row": row, "similarity": similarity, "id": str(row), **texts}.items():
            columns[name].append(value)
    return pa.table(columns, schema=ANSWER)


_TEXTS = {"url": ("url",), "caption": ("caption", "text"), "licence": ("licence", "license")}


def _text(entry: dict[str, Any], *names: str) -> str | None:
    small = {key.lower(): value for key, value in entry.items()}
    value = next((small[name] for name in names if isinstance(small.get(name), str)), None)
    return None if value is None else value.encode("utf-8", errors="replace").decode()


def _network_errors() -> tuple[type[Exception], ...]:
    import httpx

    return (TimeoutError, httpx.TransportError, httpx.DecodingError)
