"""Near-duplicate groups: connected components of the graph of similar pairs (paper section 3.3)."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

# A tile of similarities is 16 MiB in float32, whatever the number of images.
BLOCK = 2048


def duplicate_groups(embeddings: np.ndarray, threshold: float = 0.6, k: int | None = None) -> np.ndarray:
    """int64 [N]: label of each row's group, the smallest row number in it.

    embeddings: unit float32 [N, D]. Rows are joined when their cosine is above `threshold`: all such pairs, exactly,
    with k = None; with k, pairs in which one row is among the k nearest of the other, itself left out (paper: 64).
    Memory is the embeddings and a tile, not N^2. Raises ValueError for NaN or a wrong shape.
    """
    vectors = torch.as_tensor(np.ascontiguousarray(embeddings, dtype=np.float32))
    if vectors.ndim != 2:
        raise ValueError(f"embeddings must be [N, D], got shape {tuple(vectors.shape)}")
    bad = ~torch.isfinite(vectors).all(dim=1)
    if bool(bad.any()):
        raise ValueError(f"embeddings hold NaN or infinite values in {int(bad.sum())} rows, first {int(bad.nonzero()[0])}")
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, or None for all pairs, got {k}")
    parents = np.arange(len(vectors))
    pairs = all_pairs(vectors, threshold) if k is None else nearest_pairs(vectors.numpy(), threshold, k)
    for left, right in pairs:
        parents = _merge(parents, left, right)
    return parents


def all_pairs(vectors: torch.Tensor, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs i < j with cosine above the threshold, tile by tile of the upper half of the product."""
    count = len(vectors)
    for i in range(0, count, BLOCK):
        for j in range(i, count, BLOCK):
            tile = vectors[i : i + BLOCK] @ vectors[j : j + BLOCK].T
            rows = (tile.amax(dim=1) > threshold).nonzero().flatten()  # most rows have no partner in a tile
            if not len(rows):
                continue
            left, right = (tile[rows] > threshold).nonzero(as_tuple=True)
            left = rows[left] + i
            right = right + j
            upper = left < right
            if bool(upper.any()):
                yield left[upper].numpy(), right[upper].numpy()


def nearest_pairs(vectors: np.ndarray, threshold: float, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs above the threshold among each row's k nearest neighbours, by faiss; blocks of queries."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    for first in range(0, len(vectors), BLOCK):
        # One more than k: the row itself is usually, but among exact copies not always, in the list.
        similarity, found = index.search(vectors[first : first + BLOCK], min(k + 1, len(vectors)))
        own = np.arange(first, first + len(found))[:, None]
        others = found != own
        others &= np.cumsum(others, axis=1) <= k
        keep = others & (similarity > threshold) & (found >= 0)
        left, place = keep.nonzero()
        yield left + first, found[left, place]


def _merge(parents: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Labels after joining the groups of pairs; a label stays the smallest row of its group."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    left, right = parents[left], parents[right]
    differ = left != right
    if not differ.any():
        return parents
    names, inverse = np.unique(np.concatenate([left[differ], right[differ]]), return_inverse=True)
    half = len(inverse) // 2
    graph = coo_matrix((np.ones(half, bool), (inverse[:half], inverse[half:])), shape=(len(names), len(names)))
    _, component = connected_components(graph, directed=False)
    smallest = np.full(component.max() + 1, len(parents), np.int64)
    np.minimum.at(smallest, component, names)
    target = np.arange(len(parents))
    target[names] = smallest[component]
    return target[parents]


def choose_representatives(groups: np.ndarray, keys: Sequence[str], eligible: np.ndarray, seed: int) -> np.ndarray:
    """int64 [N]: row that is kept of each row's group, -1 where no member is eligible.

    A seeded draw that depends on the members' keys only, so the order of the rows and what else is in the pool do
    not matter: the eligible member with the smallest SHA-256 of (seed, key).
    """
    groups = np.asarray(groups)
    chosen = np.full(len(groups), -1, np.int64)
    best: dict[int, tuple[bytes, int]] = {}
    sizes = np.bincount(groups, minlength=len(groups)) if len(groups) else np.empty(0, int)
    for row in np.flatnonzero(np.asarray(eligible, bool)).tolist():
        group = int(groups[row])
        # A group of one needs no draw; at millions of rows most are.
        draw = hashlib.sha256(f"{seed}:{keys[row]}".encode()).digest() if sizes[group] > 1 else b""
        if group not in best or draw < best[group][0]:
            best[group] = (draw, row)
    if best:
        labels = np.fromiter(best, np.int64, len(best))
        kept = np.full(len(groups), -1, np.int64)
        kept[labels] = [row for _, row in best.values()]
        chosen = kept[groups]
    return chosen
