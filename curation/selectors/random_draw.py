"""The baseline of all baselines."""

from dataclasses import dataclass
from typing import ClassVar

from curation.selectors.base import Candidates, Ranking, Selector, drawn


@dataclass(frozen=True)
class Random(Selector):
    """Images go in a random order.

    Args:
        seed: Seed of the draw.
    """

    kind: ClassVar[str] = "random"
    seed: int = 0

    def rank(self, candidates: Candidates) -> Ranking:
        """By a hash of seed and key: neither the rows' order nor the rest of the pool matters."""
        return Ranking(drawn(candidates.keys, self.seed))
