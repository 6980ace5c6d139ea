"""Selection by one number of each image."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from curation.selectors.base import Candidates, Ranking, Selector, removal_by


@dataclass(frozen=True)
class ClipScore(Selector):
    """The images that are least similar to their closest concept go first (as LAION and DataComp filter by CLIP score).

    Args:
        threshold: Images whose cosine with their closest concept is below it go; null needs a size.
    """

    kind: ClassVar[str] = "clip_score"
    threshold: float | None = None

    def check(self, key: str) -> None:
        """The threshold must be a cosine."""
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise ValueError(f"{key}.threshold must be a cosine in [-1, 1], got {self.threshold}")

    @property
    def cuts(self) -> bool:
        """At the threshold."""
        return self.threshold is not None

    def rank(self, candidates: Candidates) -> Ranking:
        """By `concept_similarity`, the lowest first."""
        worst = -candidates.scores("concept_similarity")[:, 0]
        return removal_by(worst, None if self.threshold is None else -self.threshold)


@dataclass(frozen=True)
class OneScore(Selector):
    """The images with the highest value of one out-of-domain score go first: what the other two scores add shows.

    Args:
        score: ood (against the bank), ood_general (against the general bank) or text_gap.
        threshold: Images above it go; null needs a size.
    """

    kind: ClassVar[str] = "one_score"
    score: Literal["ood", "ood_general", "text_gap"] = "ood"
    threshold: float | None = None

    @property
    def cuts(self) -> bool:
        """At the threshold."""
        return self.threshold is not None

    def rank(self, candidates: Candidates) -> Ranking:
        """By the score, the highest first."""
        return removal_by(candidates.scores(self.score)[:, 0], self.threshold)
