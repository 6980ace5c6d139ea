"""Small real sources of a search: DataComp's tables, clip-retrieval's folders and its service."""

import base64
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.local_server import Handler, LocalServer


def unit(rows: int, width: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def describe(first: int, count: int) -> pa.Table:
    """uid, url, text and some more columns of DataComp's tables."""
    numbers = range(first, first + count)
    return pa.table(
        {
            "uid": [f"{number:032x}" for number in numbers],
            "url": [f"http://example.org/{number}.jpg" for number in numbers],
            "text": [f"picture {number}" for number in numbers],
            "original_width": [640] * count,
            "clip_l14_similarity_score": [0.2] * count,
            "sha256": ["0" * 64] * count,
        }
    )


def save_tables(folder: Path, vectors: np.ndarray, parts: int = 3, compressed: bool = False) -> Path:
    """Embeddings and addresses in DataComp's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    save = np.savez_compressed if compressed else np.savez
    for number, rows in enumerate(np.array_split(np.arange(len(vectors)), parts)):
        arrays = {"l14_img": vectors[rows].astype(np.float16), "b32_img": unit(len(rows), 8).astype(np.float16)}
        save(folder / f"{number:08x}.npz", **arrays)
        table = describe(int(rows[0]), len(rows))
        pq.write_table(table, folder / f"{number:08x}.parquet", row_group_size=max(1, len(rows) // 2))
    return folder


def clip_metadata(first: int, count: int) -> pa.Table:
    """The columns of LAION's metadata for clip-retrieval."""
    table = describe(first, count)
    return pa.table({"url": table["url"], "caption": table["text"], "LICENSE": ["CC-BY 4.0"] * count})


def save_index(
    folder: Path, vectors: np.ndarray, factory: str = "Flat", arrow: bool = False, euclidean: bool = False
) -> Path:
    """A clip-retrieval index folder: image.index and metadata/."""
    import faiss

    (folder / "metadata").mkdir(parents=True)
    metric = faiss.METRIC_L2 if euclidean else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(vectors.shape[1], factory, metric)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(folder / "image.index"))
    half = len(vectors) // 2
    tables = [clip_metadata(0, half), clip_metadata(half, len(vectors) - half)]
    if not arrow:
        for number, table in enumerate(tables):
            pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet", row_group_size=7)
        return folder
    with pa.OSFile(str(folder / "metadata" / "0.arrow"), "wb") as file, pa.ipc.new_file(file, tables[0].schema) as out:
        for table in tables:
            out.write_table(table, max_chunksize=7)
    return folder


def spread_index(folder: Path) -> None:
    """Makes image.index a folder of populated.index and its lists on disk, as LAION-5B's is."""
    import faiss
    from faiss.contrib.ondisk import merge_ondisk

    whole = faiss.read_index(str(folder / "image.index"))
    shutil.move(folder / "image.index", folder / "shard.index")
    (folder / "image.index").mkdir()
    whole.reset()
    merge_ondisk(whole, [str(folder / "shard.index")], str(folder / "image.index" / "merged_index.ivfdata"))
    faiss.write_index(whole, str(folder / "image.index" / "populated.index"))
    (folder / "shard.index").unlink()


def save_embedding_folder(folder: Path, vectors: np.ndarray) -> Path:
    """What `clip-retrieval inference` writes: img_emb/ and metadata/."""
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(vectors)), 2)):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", vectors[rows].astype(np.float16))
        table = clip_metadata(int(rows[0]), len(rows))
        pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")
    return folder


class KnnServer(LocalServer):
    """A local service that speaks clip-retrieval's HTTP: exact search, with its encoder and a few of its bad days.

    script(body, number of the request) -> status other than 200 or bytes to send instead, or None.
    """

    def __init__(
        self, vectors: np.ndarray, embed: Callable[[str], np.ndarray], latency_s: float = 0.0,
        script: Callable[[dict[str, Any], int], Any] = lambda body, number: None, port: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(_Handler, port)
        self.vectors, self.embed, self.latency_s, self.script = vectors, embed, latency_s, script
        self.requests: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/knn-service"

    def answer(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        given = body.get("embedding_input")
        query = np.float32(given) if given is not None else self.embed(body["text"])
        similarity = self.vectors @ query
        rows = np.argsort(-similarity)[: body["num_images"]]
        rows = [row for row in rows.tolist() if not (body["deduplicate"] and row % 10 == 9)]
        return [
            {
                "id": row, "similarity": float(similarity[row]), "url": f"http://example.org/{row}.jpg",
                "caption": f"picture {row}", "image": base64.b64encode(b"no").decode(),
            }
            for row in rows
        ]  # fmt: skip


class _Handler(Handler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(200, ["laion5B"]) if self.path == "/indices-list" else self._send(404, {"message": "no such path"})

    def do_POST(self) -> None:
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with owner.lock:
            owner.requests.append(body)
            number = len(owner.requests)
            owner.in_flight += 1
            owner.most_in_flight = max(owner.most_in_flight, owner.in_flight)
        time.sleep(owner.latency_s)
        planned = owner.script(body, number)
        with owner.lock:
            owner.in_flight -= 1
        if self.path != "/knn-service" or body["indice_name"] != "laion5B":
            self._send(404, {"message": "no such index"})
        elif planned is None:
            self._send(200, owner.answer(body))
        elif isinstance(planned, int):
            self._send(planned, {"message": "a bad day"}, {"Retry-After": "0.05"} if planned == 429 else {})
        else:
            self._send(200, planned)

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)
