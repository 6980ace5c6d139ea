"""Near-duplicate groups: connected components of the graph of similar pairs (paper section 3.3)."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.arrays import like, to_numpy
from curation.components import Components
from curation.embeddings import Embeddings
from curation.neighbour_lists import neighbour_forest, query_blocks
from curation.representatives import draw_one
from curation.similar_pairs import STRIP, Vectors, join_similar


class NoDirection(ValueError):
    """A row of embeddings that holds NaN or infinite values; `row` is its place."""

    def __init__(self, row: int) -> None:
        super().__init__(f"embeddings hold NaN or infinite values, first in row {row}")
        self.row = row


def duplicate_groups(
    embeddings: np.ndarray | Embeddings, threshold: float = 0.6, k: int | None = None,
    devices: list[str] | None = None,
) -> np.ndarray:  # fmt: skip
    """int64 [N]: label of each row's group, the smallest row number in it.

    embeddings: unit [N, D], float32 or float16, in memory or on disk. Rows are joined when their cosine, in float32, is
    strictly above `threshold`: all such pairs with k = None; with k, pairs in which one row is among the k nearest of
    the other, itself left out (paper: 64). Exact either way. devices: torch devices to search on, none or null for the
    CPU. Beside the embeddings this takes less than 1 GB whatever N. Raises ValueError for NaN or a wrong shape.
    """
    vectors = embeddings if isinstance(embeddings, Embeddings) else to_numpy(embeddings)
    if vectors.ndim != 2:
        raise ValueError(f"embeddings must be [N, D], got shape {vectors.shape}")
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, or null for all pairs, got {k}")
    if not isinstance(vectors, Embeddings) and vectors.dtype not in (np.float32, np.float16):
        vectors = vectors.astype(np.float32)
    norm = largest_norm(vectors)
    groups = Components(len(vectors))
    if k is None:
        join_similar(vectors, threshold, groups, norm, devices=devices)
    else:
        for queries in query_blocks(len(vectors)):
            groups.join(*neighbour_forest(vectors, threshold, k, queries, devices or []).T)
    return like(groups.labels(), embeddings)


def largest_norm(vectors: Vectors) -> float:
    """The largest norm of the rows [N, D]; 1 without rows. Raises NoDirection for NaN or infinite values."""
    largest = 0.0 if len(vectors) else 1.0
    for first in range(0, len(vectors), STRIP):
        part = np.asarray(vectors[first : first + STRIP], np.float32)
        squares = np.einsum("nd,nd->n", part, part)
        bad = ~np.isfinite(squares)
        if bad.any():
            raise NoDirection(first + int(bad.argmax()))
        largest = max(largest, float(np.sqrt(squares.max())))
    return largest


def choose_representatives(
    groups: np.ndarray,
    keys: Sequence[str] | pa.Array,
    eligible: np.ndarray,
    seed: int,
    worse: np.ndarray | None = None,
) -> np.ndarray:
    """int64 [N]: row that is kept of each row's group, -1 where no member is eligible.

    groups: int [N] labels; keys: N unique names; eligible: bool [N]; worse: a number [N], of which the eligible
    members with the smallest come into the draw. A seeded draw that depends on the members' keys only, so that neither
    the order of the rows nor the rest of the pool matters (open in the paper, which says random).
    """
    labels, eligible = to_numpy(groups), to_numpy(eligible).astype(bool)
    if not len(labels) == len(keys) == len(eligible):
        raise ValueError(
            f"groups, keys and eligible must be equally long, got {len(labels)}, {len(keys)}, {len(eligible)}"
        )
    return like(draw_one(labels, keys, seed, eligible, worse), groups)
