"""From an order of removal and quotas to the images of one data set. Imports no torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from curation.quotas import Quotas
from curation.selectors import Candidates, Selector
from curation.stage import plain


@dataclass(frozen=True)
class Choice:
    """Which of the candidates stay.

    keep: bool [n]; cut: images that go by the order alone; over: bool [n], those that only a quota keeps out.
    """

    keep: np.ndarray
    cut: int
    over: np.ndarray


def admission(candidates: Candidates, order: np.ndarray, quotas: Quotas) -> np.ndarray:
    """int64 [m]: places of the candidates in the order in which they come in; any data set is a prefix of it."""
    return quotas.admission(order, *quota_columns(candidates, quotas)) if quotas else order[::-1]


def quota_columns(candidates: Candidates, quotas: Quotas) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [n] number of the closest concept, bool [n] whether synthetic)."""
    synthetic = pc.equal(candidates.column("source"), "synthetic").to_numpy(zero_copy_only=False)
    if quotas.per_concept_max is None:
        return np.zeros(len(candidates), np.int64), synthetic
    concepts = candidates.column("concept").dictionary_encode(null_encoding="encode")
    return concepts.indices.to_numpy().astype(np.int64), synthetic


def choose(order: np.ndarray, admitted: np.ndarray, cut: int | None = None, size: int | None = None) -> Choice:
    """The first `size` admitted images, or those before the first that is among the `cut` that go.

    order: int64 [n], first = removed first; admitted: as of `admission`.
    """
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    if size is None:
        assert cut is not None
        gone = rank[admitted] < cut
        kept = admitted[: int(gone.argmax()) if gone.any() else len(admitted)]
    else:
        kept = admitted[:size]
        cut = int(rank[kept].min(initial=len(order)))
    keep = np.zeros(len(order), bool)
    keep[kept] = True
    return Choice(keep, cut, ~keep & (rank >= cut))


def size_within(size: int, available: int, setting: str, quotas: Quotas | None = None) -> int:
    """The size, if there are that many images. Raises ValueError naming the setting."""
    if size > available:
        after = "the earlier stages and the quotas" if quotas else "the earlier stages"
        raise ValueError(
            f"{setting} is {size}, but only {available} images are left after {after}; "
            "ask for fewer, or collect a larger pool"
        )
    return size


def describe(
    method: Selector, size: int | None, choice: Choice, quotas: Quotas, parent: str | None, **more: Any
) -> dict[str, Any]:
    """What selection.json says: the method with its settings, the size asked for (null: its own cut), what came of it.

    parent: SHA-256 of the manifest of `full`, which a data set is cut beside; null for `full` itself.
    """
    return {
        "method": plain(method), "size": size, "images": int(choice.keep.sum()), "removed": choice.cut,
        "over_quota": int(choice.over.sum()), "quotas": plain(quotas), "parent": parent, **more,
    }  # fmt: skip
