"""The store of answers: append-only JSON lines, one file a rank, that a kill leaves readable.

An answer is named by all that decides it, so that stages with changed settings and reruns find what was asked before.
Long histories stand once in histories.jsonl and are referred to by their digest. Imports no torch.
"""

import functools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from curation.language.models import Answer, LanguageModel, Request
from datamodules.files import fingerprint

Record = dict[str, Any]


class Naming:
    """Names of the requests to one model, whose `identity()` is given: sixteen hexadecimal digits."""

    def __init__(self, model: LanguageModel, identity: dict[str, Any]) -> None:
        self.model, self.identity = model, identity
        self._prefix = fingerprint(self.identity)
        self._digests: dict[tuple[tuple[str, str], ...], str | None] = {(): None}

    def history(self, request: Request) -> str | None:
        """Digest of a request's history; None where it has none."""
        if request.history not in self._digests:
            self._digests[request.history] = fingerprint(request.history)
        return self._digests[request.history]

    def id(self, request: Request) -> str:
        """Name of the answer to a request."""
        return fingerprint([self._prefix, self.history(request), request.prompt, request.seed, request.choices])

    def record(self, request: Request, answer: Answer, seconds: float) -> Record:
        """What is stored of an answer: all of it, and all that it came from."""
        return {
            "id": self.id(request),
            "finish": answer.finish,
            "text": answer.text,
            "probability": answer.probability,
            "error": answer.error,
            "prompt": request.prompt,
            "seed": request.seed,
            "history": self.history(request),
            "choices": request.choices,
            "model": self.model.model,
            "revision": self.identity.get("revision"),
            "endpoint": self.model.endpoint,
            "parameters": self.model.parameters(),
            "seconds": round(seconds, 3),
        }


class AnswerWriter:
    """Appends to the file of one rank. Records given together are found together or, after a kill, not at all."""

    def __init__(self, folder: Path, rank: int = 0, name: str = "answers") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}-{rank}.jsonl"
        self.file = open(self.path, "ab", buffering=0)
        if self.path.stat().st_size and _last_byte(self.path) != b"\n":  # a kill left half a line: it ends here
            self._write(b"\n")

    def append(self, records: list[Record]) -> None:
        """Writes records in one go. Raises OSError naming the file and the remedy where the disk is full."""
        parts = ({**record, "part": [number, len(records)]} for number, record in enumerate(records, 1))
        self._write("".join(json.dumps(part) + "\n" for part in parts).encode())

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            remedy = f"{error.strerror}: make room and run again, the answers stored so far are kept"
            raise OSError(error.errno, remedy, str(self.path)) from None

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def __enter__(self) -> "AnswerWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AnswerStore:
    """Reads a folder of answers. In memory stand names and places in the files, no texts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._forget()

    def _forget(self) -> None:
        self.places: dict[str, tuple[int, int]] = {}  # id -> (number of the file, offset of its line)
        self.failed: set[str] = set()
        self.histories: set[str] = set()
        self.files: list[Path] = []
        self.read_to: dict[Path, int] = {}

    def refresh(self) -> None:
        """Reads what was appended since the last time; everything anew where a file has gone or shrunk."""
        files = sorted(self.folder.glob("answers-*.jsonl")) + sorted(self.folder.glob("histories-*.jsonl"))
        if any(not path.exists() or path.stat().st_size < end for path, end in self.read_to.items()):
            self._forget()
        for path in files:
            if path not in self.files:
                self.files.append(path)
            number = self.files.index(path)
            for offset, end, record in _records(path, self.read_to.get(path, 0)):
                self.read_to[path] = end
                if path.name.startswith("histories"):
                    self.histories.add(record["id"])
                    continue
                self.places[record["id"]] = (number, offset)
                (self.failed.add if record["finish"] == "failed" else self.failed.discard)(record["id"])

    def has(self, name: str) -> bool:
        """Whether an answer is stored that did not fail."""
        return name in self.places and name not in self.failed

    def read(self, names: Iterable[str]) -> dict[str, Record]:
        """The stored records of these names, failed ones too; what is not stored is left out."""
        wanted: dict[int, list[tuple[int, str]]] = {}
        for name in set(names):
            if name in self.places:
                number, offset = self.places[name]
                wanted.setdefault(number, []).append((offset, name))
        found = {}
        for number, places in wanted.items():
            with open(self.files[number], "rb") as file:
                for offset, name in sorted(places):
                    file.seek(offset)
                    found[name] = json.loads(file.readline())
        return found

    def add_histories(self, naming: Naming, requests: Iterable[Request]) -> None:
        """Stores the histories of these requests that are not stored yet."""
        new = {naming.history(request): request.history for request in requests if request.history}
        records = [{"id": name, "turns": turns} for name, turns in new.items() if name not in self.histories]
        if records:
            with AnswerWriter(self.folder, name="histories") as writer:
                writer.append(records)
            self.refresh()


@functools.lru_cache(maxsize=8)
def open_store(folder: Path) -> AnswerStore:
    """The store of a folder; kept, so that the next call of `ask` reads only what is new."""
    return AnswerStore(folder)


def to_answer(record: Record) -> Answer:
    """The answer of a stored record."""
    return Answer(record["text"], record["finish"], record["probability"], record["error"])


def _records(path: Path, start: int) -> Iterator[tuple[int, int, Record]]:
    """(offset, end, record) of the records that were written whole together with all of their group.

    Half lines, and groups that a kill cut short, are passed over wherever they stand.
    """
    group: list[tuple[int, int, Record]] = []
    with open(path, "rb") as file:
        file.seek(start)
        end = start
        for line in file:
            offset, end = end, end + len(line)
            try:
                record = json.loads(line)
                number, size = record["part"]
            except (ValueError, KeyError, TypeError):
                continue
            if number == 1:
                group = []
            elif len(group) != number - 1 or group[0][2]["part"][1] != size:
                continue
            group.append((offset, end, record))
            if number == size:
                yield from group
                group = []


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
