"""Which member of a group of copies stays."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

# Names that are Python objects at a time.
NAMES = 65_536


def draw_one(
    group: np.ndarray,
    keys: Sequence[str] | pa.Array,
    seed: int,
    eligible: np.ndarray | None = None,
    worse: np.ndarray | None = None,
) -> np.ndarray:
    """int64 [N]: place of the member that stays of each row's group, -1 where no member is eligible.

    group: int [N], equal in a group; keys: N unique names; eligible: bool [N], null for all; worse: a number [N], of
    which the smallest of the eligible of a group come into the draw. The draw depends on the members' keys only, so
    that neither the order of the rows nor the rest of the pool matters: the smallest SHA-256 of seed and key.
    """
    names, group = np.unique(group, return_inverse=True)
    chosen = np.full(len(names), -1, np.int64)
    candidates = np.arange(len(group)) if eligible is None else np.flatnonzero(eligible)
    # A single candidate needs no draw; at millions of rows most are.
    single = np.bincount(group[candidates], minlength=len(names))[group[candidates]] == 1
    chosen[group[candidates[single]]] = candidates[single]
    drawn = candidates[~single]
    if worse is not None and len(drawn):
        best = np.full(len(names), worse[drawn].max(), worse.dtype)
        np.minimum.at(best, group[drawn], worse[drawn])
        drawn = drawn[worse[drawn] == best[group[drawn]]]
    words = hashes(keys, drawn, seed)
    order = np.lexsort((*words.T[::-1], group[drawn]))
    first = order[np.flatnonzero(np.diff(group[drawn][order], prepend=-1))]
    chosen[group[drawn[first]]] = drawn[first]
    return chosen[group]


def hashes(keys: Sequence[str] | pa.Array, rows: np.ndarray, seed: int) -> np.ndarray:
    """uint64 [n, 4]: SHA-256 of seed and key of some rows, in the order of its bytes."""
    words = np.empty((len(rows), 4), np.uint64)
    for first in range(0, len(rows), NAMES):
        part = rows[first : first + NAMES]
        own = keys.take(pa.array(part)).to_pylist() if isinstance(keys, pa.Array) else [keys[row] for row in part]
        digests = b"".join(hashlib.sha256(f"{seed}:{key}".encode()).digest() for key in own)
        words[first : first + len(part)] = np.frombuffer(digests, ">u8").reshape(-1, 4)
    return words
