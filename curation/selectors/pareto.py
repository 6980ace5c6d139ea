"""The paper's method: Pareto fronts of the three out-of-domain scores."""

from dataclasses import dataclass
from typing import ClassVar

from curation.manifest import SCORES
from curation.pareto import pareto_fronts
from curation.selection import removal_order
from curation.selectors.base import Candidates, Ranking, Selector


@dataclass(frozen=True)
class Pareto(Selector):
    """Images that no other image exceeds in all three scores go first, front after front (paper section 3.3).

    `curation.select.sensitivity` and `knee` say where it cuts if no size is given.
    """

    kind: ClassVar[str] = "pareto"

    @property
    def cuts(self) -> bool:
        """At the largest of the three knees."""
        return True

    def rank(self, candidates: Candidates) -> Ranking:
        """Fronts ascend; inside a front the larger sum of the scores' ranks goes first, then the smaller key."""
        scores = candidates.scores(*SCORES)
        fronts = pareto_fronts(scores)
        return Ranking(removal_order(scores, fronts), None, fronts, scores)
