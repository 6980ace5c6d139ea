"""The section of duplicates: how large the groups of copies are, and the largest of them as pictures."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from curation.report.galleries import Strip
from curation.report.view import View

PAPER_K = 64  # length of the paper's neighbour lists
FATES = {"": "kept", "duplicate": "copy", "identical": "same file", "leak": "leak", "pareto": "out of domain",
         "quota": "over the quota", "not_retrieved": "not retrieved"}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Groups of so many images (a range of sizes): how many groups and images, and a bar in percent of the longest."""

    images: str
    groups: int
    members: int
    bar: float


@dataclass(frozen=True)
class Groups:
    """All groups of two or more: number, of those larger than k, histogram, and the largest as pictures.

    k: length of the neighbour lists, the paper's where all pairs were compared; files with the same bytes as another
    one were not compared and do not count for `larger`. index: how pairs were searched, if not exactly.
    """

    count: int
    larger: int
    k: int
    sizes: list[Sizes]
    strips: list[Strip]
    index: str


def duplicate_groups(view: View) -> Groups:
    """The groups of the column duplicate_group."""
    groups = view.numbers("duplicate_group")
    rows = np.flatnonzero(~np.isnan(groups))
    _, inverse, counts = np.unique(groups[rows], return_inverse=True, return_counts=True)
    compared = np.bincount(inverse[~view.dropped("identical")[rows]], minlength=len(counts))
    record = view.records.get("duplicates") or {}
    k = (record.get("settings") or {}).get("k") or PAPER_K
    strips = []
    by_group = rows[np.argsort(inverse, kind="stable")]
    ends = np.cumsum(counts)
    for place in np.argsort(-counts, kind="stable")[: view.settings.groups]:
        if counts[place] > 1:
            members = by_group[ends[place] - counts[place] : ends[place]]
            strips.append(_strip(view, members, f"more than {k}" if compared[place] > k else ""))
    many = counts[counts > 1]
    return Groups(len(many), int((compared > k).sum()), k, histogram(many), strips, _index(record.get("result") or {}))


def _index(result: dict[str, Any]) -> str:
    if not result.get("index"):
        return ""
    recall = result.get("recall")
    found = "no pair was in the sample" if recall is None else f"it finds {100 * recall:.1f} % of the pairs of a sample"
    return f"{result['index']}: {found}"


def histogram(counts: np.ndarray) -> list[Sizes]:
    """Sizes of groups (int [G], each at least 2) in ranges that double: 2, 3-4, 5-8, ..."""
    if not len(counts):
        return []
    ranges = np.ceil(np.log2(counts)).astype(int)
    found = []
    for power in range(1, int(ranges.max()) + 1):
        mine = counts[ranges == power]
        low, high = 2 ** (power - 1) + 1, 2**power
        found.append((f"{high}" if low == high else f"{low:,} – {high:,}", len(mine), int(mine.sum())))
    longest = max(groups for _, groups, _ in found)
    return [Sizes(name, groups, members, 100 * groups / longest) for name, groups, members in found]


def _strip(view: View, members: np.ndarray, mark: str) -> Strip:
    """One group: the image that stays for it first."""
    copies = view.dropped("duplicate")[members] | view.dropped("identical")[members]
    members = members[np.argsort(copies, kind="stable")]
    shown = members[: view.settings.per_group]
    tiles = [view.tile(int(row), fate(view, int(row)), "" if view.reasons[row] else "kept") for row in shown]
    more = f"{len(members) - len(shown):,} more not shown" if len(members) > len(shown) else ""
    return Strip(f"{len(members):,} images", more, tiles, mark)


def fate(view: View, row: int) -> str:
    """What became of an image, in a word or two."""
    reason = view.reasons[row] or ""
    return FATES.get(reason, reason.replace("_", " "))
