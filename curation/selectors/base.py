"""What a method of selection is given and what it gives: a total order of removal over the images that are left."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curation.embeddings import Embeddings
from curation.workspace import Workspace, part_files


@dataclass(frozen=True)
class Candidates:
    """The images that no earlier stage has dropped: n rows of the ledger.

    ledger: every image of the workspace; rows: int64 [n], ascending, so that the images are sorted by key.
    """

    workspace: Workspace
    ledger: pa.Table
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> pa.Array:
        """Their keys, strings [n]."""
        return self.column("key")

    def column(self, name: str) -> pa.Array:
        """A column of the ledger [n]. Raises ValueError where no stage wrote it."""
        if name not in self.ledger.column_names:
            stage = "retrieve" if name == "concepts" else "ood"
            raise ValueError(f"the workspace has no column {name}; run `curate` with an `{stage}` stage first")
        return self.ledger[name].combine_chunks().take(pa.array(self.rows))

    def scores(self, *names: str) -> np.ndarray:
        """float32 [n, M]. Raises ValueError where a score is missing or not a number, naming the image."""
        scores = np.empty((len(self), len(names)), np.float32)
        for place, name in enumerate(names):
            scores[:, place] = self.column(name).cast(pa.float32()).to_numpy(zero_copy_only=False)
            bad = np.flatnonzero(np.isnan(scores[:, place]))
            if len(bad):
                raise ValueError(
                    f"{len(bad)} images have no {name}, first {self.keys[int(bad[0])].as_py()!r}; every image needs "
                    f"all its scores: delete {self.workspace.stage_folder('ood')} and run `curate` again"
                )
        return scores

    def embeddings(self, name: str) -> Embeddings:
        """The unit vectors [n, D] that the embed stage stored as `name` (image, copy or clipn), still on disk."""
        folder = self.workspace.stage_folder("embed")
        if part_files(folder) and not any(folder.glob(f"part-*.{name}.npy")):
            raise ValueError(
                f"{folder} holds no {name!r} embeddings; choose another `embedding` for the method, or run `curate` "
                f"with curation.embed.{name}"
            )
        rows, stored = self.workspace.embeddings("embed", name)
        places = np.searchsorted(rows, self.rows)
        if len(places) and (places.max() >= len(rows) or (rows[places] != self.rows).any()):
            raise ValueError(f"{folder} lacks images; run `curate` with this config again")
        return stored.take(places)


@dataclass(frozen=True)
class Ranking:
    """A total order of removal.

    order: int64 [n], places of the candidates, first = removed first. cut: images that the method removes by itself;
    None where it only orders. fronts int32 [n] and scores float32 [n, M]: of the Pareto method, which knees cut.
    """

    order: np.ndarray
    cut: int | None = None
    fronts: np.ndarray | None = None
    scores: np.ndarray | None = None


class Selector(ABC):
    """A method of selection: a frozen dataclass whose fields are its settings.

    Because its order is total, a smaller data set is a subset of a larger one. `kind` is the drop reason of what it
    removes, and names it in records.
    """

    kind: ClassVar[str]

    def check(self, key: str) -> None:
        """Raises ValueError for wrong settings, naming the yaml key `key`.<setting>."""
        return None

    @property
    def cuts(self) -> bool:
        """Whether it removes images by itself, so that no size needs to be given."""
        return False

    @abstractmethod
    def rank(self, candidates: Candidates) -> Ranking:
        """The order of removal of all candidates."""


def removal_by(badness: np.ndarray, threshold: float | None = None) -> Ranking:
    """The highest goes first, of equals the smaller row; what is above the threshold goes in any case.

    badness: float [n], higher = removed earlier.
    """
    order = np.lexsort((np.arange(len(badness)), -badness)).astype(np.int64)
    return Ranking(order, None if threshold is None else int((badness > threshold).sum()))


def drawn(keys: pa.Array, seed: int) -> np.ndarray:
    """int64 [n]: places of the keys in a random order that depends on the seed and on the keys alone.

    By the SHA-256 of seed and key, as representatives of copies are drawn.
    """
    words = np.empty(len(keys), np.uint64)
    for place, key in enumerate(_strings(keys)):
        words[place] = int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big")
    return np.argsort(words, kind="stable").astype(np.int64)


def _strings(keys: pa.Array, strip: int = 65_536) -> Any:
    """The keys as Python strings, a strip of them at a time."""
    for first in range(0, len(keys), strip):
        yield from keys.slice(first, strip).to_pylist()
