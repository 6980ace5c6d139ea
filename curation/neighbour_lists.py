"""The paper's graph: each row joined with those of its k nearest neighbours that are above the threshold."""

from collections.abc import Iterator

import numpy as np
import torch

from curation.components import Components
from curation.rounding import margin
from curation.searching.neighbours import top_k
from curation.similar_pairs import STRIP, Vectors, above

# Rows whose neighbours are searched at a time, and the bytes of a block of float32 vectors that they are held against.
QUERIES, BLOCK_BYTES = 16384, 2**27


def query_blocks(count: int) -> list[range]:
    """The rows, cut into blocks of queries; a function of their number alone."""
    return [range(first, min(first + QUERIES, count)) for first in range(0, count, QUERIES)]


def neighbour_forest(
    vectors: Vectors, threshold: float, k: int, queries: range, devices: list[str] | None = None
) -> np.ndarray:
    """int64 [E, 2]: edges (smallest row, row) of the groups that the lists of some rows make.

    vectors: unit [N, D], also on disk; queries: the rows whose k nearest neighbours, themselves left out, count where
    their cosine is above the threshold. Exact, by faiss, or on torch devices: when null, the GPUs that there are.
    """
    own = np.asarray(vectors[queries.start : queries.stop], np.float32)
    norms = np.linalg.norm(own, axis=1)
    places = np.flatnonzero(norms > 0)  # a row of zeros is near nothing
    if not len(places):
        return np.empty((0, 2), np.int64)
    # One more than k: the row itself is usually, but among exact copies not always, in the list.
    similarity, found = top_k(
        own[places], blocks(vectors), min(k + 1, len(vectors)), block_bytes=BLOCK_BYTES, devices=devices
    )
    rows = places + queries.start
    others = (found != rows[:, None]) & (found >= 0)
    others &= np.cumsum(others, axis=1) <= k
    # The search normalises, `above` does not: rows that are not quite of unit length are left to it.
    error = margin(torch.float32, vectors.shape[1], 1.0) + 4 * float(np.abs(norms[places] - 1).max())
    row, place = np.nonzero(others & (similarity > threshold - error))
    left, right = rows[row], found[row, place]
    similar = similarity[row, place] > threshold + error
    doubtful = np.flatnonzero(~similar)
    similar[doubtful] = above(vectors, left[doubtful], right[doubtful], threshold)
    return forest_of(left[similar], right[similar])


def blocks(vectors: Vectors) -> Iterator[np.ndarray]:
    """All vectors, some rows at a time."""
    for first in range(0, len(vectors), STRIP):
        yield vectors[first : first + STRIP]


def forest_of(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """int64 [E, 2]: edges (smallest row, row) of the groups that pairs of rows make."""
    members, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    groups = Components(len(members))
    groups.join(*places.astype(np.int64).reshape(2, -1))
    labels = groups.labels()
    joined = np.flatnonzero(labels != np.arange(len(labels)))
    return np.column_stack([members[labels[joined]], members[joined]]).astype(np.int64)
