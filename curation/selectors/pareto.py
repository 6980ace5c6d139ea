"""The paper's method: Pareto fronts of the three out-of-domain scores."""

from dataclasses import dataclass, field
from typing import ClassVar

from curation.manifest import SCORES
from curation.pareto import pareto_fronts
from curation.selection import removal_order
from curation.selectors.base import Candidates, Ranking, Selector


@dataclass(frozen=True)
class Pareto(Selector):
    """Images that no other image exceeds in all scores go first, front after front (paper section 3.3).

    `curation.select.sensitivity` and `knee` say where it cuts if no size is given.

    Args:
        scores: Which of ood, ood_general and text_gap count; the paper's are all three.
    """

    kind: ClassVar[str] = "pareto"
    scores: list[str] = field(default_factory=lambda: list(SCORES))

    def check(self, key: str) -> None:
        """Scores must be known, each once, and one at least."""
        wrong = [name for name in self.scores if name not in SCORES]
        if wrong or not self.scores or len(set(self.scores)) < len(self.scores):
            raise ValueError(
                f"{key}.scores is [{', '.join(self.scores)}]; list each once, and one at least, of {', '.join(SCORES)}"
            )

    @property
    def cuts(self) -> bool:
        """At the largest of the scores' knees."""
        return True

    def rank(self, candidates: Candidates) -> Ranking:
        """Fronts ascend; inside a front the larger sum of the scores' ranks goes first, then the smaller key."""
        scores = candidates.scores(*self._ordered())
        fronts = pareto_fronts(scores)
        return Ranking(removal_order(scores, fronts), None, fronts, scores)

    def _ordered(self) -> list[str]:
        """In the order of SCORES, whatever the yaml's."""
        return [name for name in SCORES if name in self.scores]
