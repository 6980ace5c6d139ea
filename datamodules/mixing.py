"""Epochs of several kinds of images in set shares: data sets by weight, real and synthetic ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.image_source import ImageSource, JoinedSources
from datamodules.sampling import GlobalBatches, epoch_order

# Orders of groups are drawn from other streams than those of epochs (2**63 + epoch).
GROUPS, PASSES = 2**62, 2**40


@dataclass(frozen=True)
class Group:
    """Rows, ascending int64 [n], that together have a share of every epoch; shares of all groups sum to 1."""

    rows: np.ndarray
    share: float


def make_groups(source: ImageSource, weights: Sequence[float] | None, synthetic_share: float | None) -> list[Group]:
    """The groups of a data set: its parts where they have weights, apart in real and synthetic with synthetic_share.

    synthetic_share is kept exactly; among the real images, as among the synthetic ones, the parts stand as their
    weights, or without weights as their numbers. Raises ValueError naming the setting.
    """
    numbered = weights is not None and isinstance(source, JoinedSources) and len(weights) > 1
    parts = source.part_of_rows() if numbered and isinstance(source, JoinedSources) else np.zeros(len(source), int)
    of_part = np.asarray(weights, float) if numbered and weights is not None else np.ones(1)
    counts = np.bincount(parts, minlength=len(of_part))
    if not counts.all():
        raise ValueError(f"data.source: number {int(np.argmin(counts)) + 1} of the list has a weight, but no image")
    if synthetic_share is None:
        rows = [np.flatnonzero(parts == part) for part in range(len(of_part))]
        return [Group(those, share) for those, share in zip(rows, of_part / of_part.sum(), strict=True)]
    synthetic = source.synthetic()
    groups = []
    for kind, share, name in ((False, 1 - synthetic_share, "real"), (True, synthetic_share, "synthetic")):
        if not share:
            continue
        rows = [np.flatnonzero((parts == part) & (synthetic == kind)) for part in range(len(of_part))]
        held = of_part * [bool(len(those)) for those in rows]
        if not held.sum():
            raise ValueError(
                f"data.synthetic_share is {synthetic_share}, but data.source has no {name} image; a manifest says in "
                "its column `source` which are synthetic, and a list with `synthetic: true` which data set is"
            )
        groups += [Group(those, share * one / held.sum()) for those, one in zip(rows, held, strict=True) if len(those)]
    return groups


def shown(source: ImageSource, groups: Sequence[Group]) -> str:
    """What an epoch shows, in words: the images there are and, of groups in set shares, the shares."""
    parts = [len(part) for part in source.parts] if isinstance(source, JoinedSources) else [len(source)]
    text = " + ".join(f"{count:,}" for count in parts) + " images"
    synthetic = int(source.synthetic().sum())
    text += f", {synthetic:,} of them synthetic" if synthetic else ""
    if len(groups) > 1:
        shares = " + ".join(f"{100 * group.share:.4g} % of {len(group.rows):,}" for group in groups)
        text += f", drawn as {shares}"
    return text


def apportion(shares: Sequence[float], total: int) -> np.ndarray:
    """int64: `total` in whole numbers by shares; what is left goes to the largest remainders, the first of ties."""
    exact = np.asarray(shares) / np.sum(shares) * total
    whole = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: total - whole.sum()]] += 1
    return whole


class MixedBatches(GlobalBatches):
    """This rank's share of each global batch where an epoch is not every image once.

    Each group goes through its rows in one permutation after another, across epochs, so that none comes a second time
    before all others came once; a row's pass is the number of its permutation. An epoch takes the next rows of each
    group, whole batches in all, and shuffles them. All is a function of seed and epoch.

    Args:
        groups: rows and shares.
        images: of an epoch; what fills no batch is left out.
        batch_size: of all ranks together.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self, groups: Sequence[Group], images: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(images, batch_size, seed, rank, world_size)
        self.groups = list(groups)
        self.counts = apportion([group.share for group in groups], len(self) * batch_size)
        for group, count in zip(groups, self.counts, strict=True):
            if not count:
                raise ValueError(
                    f"data.source: a share of {group.share:.2g} of {len(self) * batch_size} images an epoch is none; "
                    "raise its weight (or data.synthetic_share), or data.epoch_images"
                )

    def due(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(passes, rows) of a whole epoch in order, int64 [images of an epoch]."""
        pieces = [self._next(n, epoch * count, (epoch + 1) * count) for n, count in enumerate(self.counts.tolist())]
        passes, rows = (np.concatenate(column) for column in zip(*pieces, strict=True))
        order = epoch_order(len(rows), self.order_seed, epoch)
        return passes[order], rows[order]

    def _next(self, number: int, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Places start to end of a group's endless sequence."""
        rows = self.groups[number].rows
        passes = []
        for visit in range(start // len(rows), -(-end // len(rows))):
            order = epoch_order(len(rows), self.order_seed, GROUPS + number * PASSES + visit)
            first, last = (min(max(place - visit * len(rows), 0), len(rows)) for place in (start, end))
            passes.append((np.full(last - first, visit), rows[order[first:last]]))
        visits, shown = (np.concatenate(column) for column in zip(*passes, strict=True))
        return visits, shown
