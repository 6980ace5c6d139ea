"""Similar pairs of pools beyond an exact search: proposed by an index in cells, decided by the embeddings."""

from pathlib import Path
from typing import Any

import numpy as np

from curation.neighbour_lists import BLOCK_BYTES, blocks, forest_of
from curation.searching.faiss_index import Approximate, BuiltIndex, build_index, plan_index
from curation.searching.neighbours import top_k
from curation.similar_pairs import Vectors, above
from datamodules.files import read_json, write_json

# Rows that are looked up in the index at a time.
QUERIES = 4096


class ApproximatePairs:
    """The index of the rows, and the pairs that it finds.

    Args:
        vectors: Unit [N, D], also on disk.
        threshold: Pairs with a higher cosine are similar.
        k: Neighbours of each row that are looked at.
        settings: Memory, recall and sample.
        folder: Where the index is kept until the graph is finished, and what was measured after that.
        key: The yaml key of `settings`, for errors.
    """

    def __init__(
        self, vectors: Vectors, threshold: float, k: int, settings: Approximate, folder: Path, key: str
    ) -> None:
        self.vectors, self.threshold, self.k = vectors, threshold, k
        self.settings, self.folder = settings, folder
        rows, width = vectors.shape
        try:
            self.plan = plan_index(rows, width, settings.index_gb * 1e9, k)
        except ValueError as error:
            raise ValueError(f"{key}.index_gb is {settings.index_gb:g}: {error}") from None
        self.index: BuiltIndex | None = None

    @property
    def report(self) -> dict[str, Any]:
        """Index, bytes, effort and measured recall of pairs, after `prepare`."""
        found: dict[str, Any] = read_json(self.folder / "index.json")
        return found

    def prepare(self) -> None:
        """Builds the index and raises its effort until it finds enough of the sample's pairs; on one rank."""
        index = self._built()
        if self.report is not None:
            return
        count = len(self.vectors)
        sample = np.sort(np.random.default_rng(0).permutation(count)[: self.settings.sample])
        queries = self.vectors[sample]
        sample, queries = sample[(queries != 0).any(axis=1)], queries[(queries != 0).any(axis=1)]
        similarity, exact = top_k(queries, blocks(self.vectors), min(self.k + 1, count), block_bytes=BLOCK_BYTES,
                                  devices=[])  # fmt: skip
        exact[(similarity <= self.threshold) | (exact == sample[:, None])] = -1
        pairs = int((exact >= 0).sum())
        measured = index.tune(queries, exact, self.settings.recall) if pairs else {
            "effort": index.effort, "candidates": index.candidates, "recall": None}  # fmt: skip
        how = {"index": self.plan.factory, "bytes": self.plan.size, **measured, "sample": len(sample)}
        write_json(self.folder / "index.json", {**how, "sampled_pairs": pairs})

    def forest(self, queries: range) -> np.ndarray:
        """int64 [E, 2]: edges (smallest row, row) of the groups that the found pairs of some rows make."""
        index = self._built()
        index.effort, index.candidates = self.report["effort"], self.report["candidates"]
        own = self.vectors[queries.start : queries.stop]
        proposed = index.propose(np.asarray(own, np.float32), self.k + 1)
        row, place = np.nonzero(proposed >= 0)
        left, right = row + queries.start, proposed[row, place]
        pairs = np.unique(np.column_stack([np.minimum(left, right), np.maximum(left, right)]), axis=0)
        left, right = pairs[pairs[:, 0] != pairs[:, 1]].T
        similar = above(self.vectors, left, right, self.threshold)
        return forest_of(left[similar], right[similar])

    def _built(self) -> BuiltIndex:
        if self.index is None:
            rows, width = self.vectors.shape
            self.index = build_index(self.plan, lambda: blocks(self.vectors), rows, width, self.folder)
        return self.index

    def clear(self) -> None:
        """Deletes the index; what was measured stays."""
        self.index = None
        for path in self.folder.glob("index-*"):
            path.unlink()


def lookup_blocks(count: int) -> list[range]:
    """The rows, cut into blocks that are looked up together."""
    return [range(first, min(first + QUERIES, count)) for first in range(0, count, QUERIES)]
