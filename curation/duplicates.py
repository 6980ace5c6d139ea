"""Near-duplicate groups: connected components of the graph of similar pairs (paper section 3.3)."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from curation.arrays import like, to_numpy
from curation.components import Components
from curation.similar_pairs import above, join_similar, margin

# Queries of one call of faiss; the list of neighbours of a block is about 1.5 MiB.
BLOCK = 2048


def duplicate_groups(embeddings: np.ndarray, threshold: float = 0.6, k: int | None = None) -> np.ndarray:
    """int64 [N]: label of each row's group, the smallest row number in it.

    embeddings: unit [N, D], float32 or float16. Rows are joined when their cosine, in float32, is strictly above
    `threshold`: all such pairs with k = None; with k, pairs in which one row is among the k nearest of the other,
    itself left out (paper: 64). Exact either way. Beside the embeddings, k = None takes some 50 MB whatever N.
    Raises ValueError for NaN or a wrong shape.
    """
    vectors = to_numpy(embeddings)
    if vectors.ndim != 2:
        raise ValueError(f"embeddings must be [N, D], got shape {vectors.shape}")
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, or null for all pairs, got {k}")
    if vectors.dtype not in (np.float32, np.float16):
        vectors = vectors.astype(np.float32)
    for first in range(0, len(vectors), BLOCK):
        bad = ~np.isfinite(vectors[first : first + BLOCK]).all(axis=1)
        if bad.any():
            raise ValueError(f"embeddings hold NaN or infinite values, first in row {first + int(bad.argmax())}")
    groups = Components(len(vectors))
    if k is None:
        join_similar(vectors, threshold, groups)
    else:
        join_neighbours(vectors, threshold, k, groups)
    return like(groups.labels(), embeddings)


def join_neighbours(vectors: np.ndarray, threshold: float, k: int, groups: Components) -> None:
    """Joins each row with those of its k nearest neighbours that are above the threshold, by faiss."""
    import faiss

    count = len(vectors)
    vectors = np.ascontiguousarray(vectors, np.float32)
    error = margin(torch.float32, vectors.shape[1], float(np.linalg.norm(vectors, axis=1).max(initial=1.0)))
    for first in range(0, count, BLOCK):
        queries = vectors[first : first + BLOCK]
        # One more than k: the row itself is usually, but among exact copies not always, in the list.
        similarity, found = faiss.knn(queries, vectors, min(k + 1, count), metric=faiss.METRIC_INNER_PRODUCT)
        others = found != np.arange(first, first + len(queries))[:, None]
        others &= np.cumsum(others, axis=1) <= k
        row, place = np.nonzero(others & (similarity > threshold - error))
        left, right, value = row + first, found[row, place], similarity[row, place]
        similar = value > threshold + error
        doubtful = np.flatnonzero(~similar)
        similar[doubtful] = above(vectors, left[doubtful], right[doubtful], threshold)
        groups.join(left[similar], right[similar])


def choose_representatives(
    groups: np.ndarray, keys: Sequence[str] | pa.Array, eligible: np.ndarray, seed: int
) -> np.ndarray:
    """int64 [N]: row that is kept of each row's group, -1 where no member is eligible.

    groups: int [N] labels; keys: N unique names; eligible: bool [N]. A seeded draw that depends on the members' keys
    only, so that neither the order of the rows nor the rest of the pool matters: the eligible member with the smallest
    SHA-256 of seed and key (open in the paper, which says random).
    """
    labels, eligible = to_numpy(groups), to_numpy(eligible).astype(bool)
    if not len(labels) == len(keys) == len(eligible):
        raise ValueError(
            f"groups, keys and eligible must be equally long, got {len(labels)}, {len(keys)}, {len(eligible)}"
        )
    names, group = np.unique(labels, return_inverse=True)
    chosen = np.full(len(names), -1, np.int64)
    candidates = np.flatnonzero(eligible)
    count = np.bincount(group[candidates], minlength=len(names))
    # A single candidate needs no draw; at millions of rows most are.
    single = candidates[count[group[candidates]] == 1]
    chosen[group[single]] = single
    lowest: dict[int, bytes] = {}
    drawn = candidates[count[group[candidates]] > 1]
    own = keys.take(pa.array(drawn)).to_pylist() if isinstance(keys, pa.Array) else [keys[row] for row in drawn]
    for row, key in zip(drawn.tolist(), own, strict=True):
        draw = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        place = int(group[row])
        if place not in lowest or draw < lowest[place]:
            lowest[place] = draw
            chosen[place] = row
    return like(chosen[group], groups)
