"""Quotas on top of the order of removal: one sequence in which images come in, whatever the size. Imports no torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

SLACK = 1e-9  # 0.3 of 10 images are 3, though a product of floats may be a little less


@dataclass(frozen=True)
class Quotas:
    """How many images of a concept, and what share of synthetic ones, a data set may hold; null holds any.

    A concept's images are those that it is the closest concept of (column `concept`): each image counts once.
    """

    per_concept_max: int | None = None
    synthetic_share: float | None = None

    def __bool__(self) -> bool:
        return self.per_concept_max is not None or self.synthetic_share is not None

    def check(self, key: str) -> None:
        """Raises ValueError naming the yaml key."""
        if self.per_concept_max is not None and self.per_concept_max < 1:
            raise ValueError(f"{key}.per_concept_max must be at least 1, or null, got {self.per_concept_max}")
        if self.synthetic_share is not None and not 0 <= self.synthetic_share <= 1:
            raise ValueError(f"{key}.synthetic_share must be in [0, 1], or null, got {self.synthetic_share}")

    def most(self, concepts: np.ndarray, synthetic: np.ndarray) -> int:
        """Images that may come in at most; exact for one of the two quotas. Arguments as of `admission`."""
        most = len(concepts) if self.per_concept_max is None else self.per_concept_max
        both, real = (int(np.minimum(np.bincount(of), most).sum()) for of in (concepts, concepts[~synthetic]))
        share = self.synthetic_share
        return both if share is None or share == 1 else min(both, real + int(share / (1 - share) * real + SLACK))

    def admission(self, order: np.ndarray, concepts: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
        """int64 [m]: the images in the order in which they come in; a data set of N images is the first N of them.

        order: int64 [n], first = removed first; concepts: int [n], a number for each concept; synthetic: bool [n].
        From the last removed to the first: an image whose concept is full stays out; a synthetic one that would pass
        the share waits until real ones have made room. So every prefix keeps both quotas.
        """
        best = order[::-1].astype(np.int64)
        if self.synthetic_share is None:
            if self.per_concept_max is None:
                return best
            return best[places_within(concepts[best]) < self.per_concept_max]
        return best[_in_turn(concepts[best], synthetic[best], self.synthetic_share, self.per_concept_max)]


def places_within(groups: np.ndarray, by: np.ndarray | None = None) -> np.ndarray:
    """int64 [n]: how many rows of the same group come before each, in ascending order of `by`, of equals by row."""
    order = np.argsort(groups, kind="stable") if by is None else np.lexsort((by, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return places


def _in_turn(concepts: np.ndarray, synthetic: np.ndarray, share: float, most: int | None) -> np.ndarray:
    """int64 [m]: places of the rows that come in, in that order; rows are the best first."""
    # Plain lists: a step of numpy would cost ten times as much.
    concept: list[Any] = concepts.tolist()
    real, made = np.flatnonzero(~synthetic).tolist(), np.flatnonzero(synthetic).tolist()
    room = [len(concept) if most is None else most] * (max(concept, default=0) + 1)
    taken: list[int] = []
    i = j = count = 0  # next real, next synthetic, synthetic ones taken
    while True:
        while i < len(real) and not room[concept[real[i]]]:
            i += 1
        while j < len(made) and not room[concept[made[j]]]:
            j += 1
        fits = j < len(made) and count + 1 <= share * (len(taken) + 1) + SLACK
        if fits and (i == len(real) or made[j] < real[i]):
            place = made[j]
            j, count = j + 1, count + 1
        elif i < len(real):
            place = real[i]
            i += 1
        else:
            return np.array(taken, np.int64)
        taken.append(place)
        room[concept[place]] -= 1
