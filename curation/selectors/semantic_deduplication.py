"""Semantic de-duplication (Abbas et al. 2023, "SemDeDup: Data-efficient learning at web-scale")."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from curation.selectors.base import Candidates, Ranking, Selector, removal_by
from curation.selectors.clustering import Vectors, assign, centroids, some_of

IMAGES_PER_CLUSTER = 1000
STRIP = 2048  # images of one cluster that are compared at a time


@dataclass(frozen=True)
class SemanticDeduplication(Selector):
    """Of images that mean the same, all but one go: those with a near neighbour in their cluster go first.

    Images are clustered by k-means of their cosines. In a cluster they stand in the order of their similarity to the
    centroid, the least similar first, and each is as redundant as its highest cosine with an image before it.

    Args:
        embedding: Which stored vectors: image, clipn or copy.
        threshold: Images that are more redundant go (the paper's 1 - epsilon); null needs a size.
        clusters: Null takes one for 1,000 images. Time grows with the clusters, and with the square of their sizes.
        iterations: Of k-means.
        sample: Images that k-means sees at most; bounds memory (4 bytes x width each).
        seed: Seed of the clustering.
    """

    kind: ClassVar[str] = "semantic_deduplication"
    embedding: Literal["image", "clipn", "copy"] = "image"
    threshold: float | None = None
    clusters: int | None = None
    iterations: int = 20
    sample: int = 262_144
    seed: int = 0

    def check(self, key: str) -> None:
        """The threshold must be a cosine, counts positive."""
        if self.threshold is not None and not -1 < self.threshold < 1:
            raise ValueError(f"{key}.threshold must be a cosine in (-1, 1), got {self.threshold}")
        for name in ("clusters", "iterations", "sample"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{key}.{name} must be at least 1, got {value}")

    @property
    def cuts(self) -> bool:
        """At the threshold."""
        return self.threshold is not None

    def rank(self, candidates: Candidates) -> Ranking:
        """By redundancy, the highest first."""
        if not len(candidates):
            return Ranking(np.empty(0, np.int64), 0 if self.cuts else None)
        vectors = Vectors(candidates, self.embedding)
        count = self.clusters or max(1, round(len(vectors) / IMAGES_PER_CLUSTER))
        chosen = vectors[some_of(len(vectors), self.sample, self.seed)]
        labels, similarity = assign(vectors, centroids(chosen, count, self.iterations, self.seed, True), True)
        order = np.lexsort((similarity, labels))
        redundancy = np.empty(len(vectors), np.float32)
        for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            redundancy[members] = highest_before(vectors, members)
        return removal_by(redundancy, self.threshold)


def highest_before(vectors: Vectors, members: np.ndarray) -> np.ndarray:
    """float32 [m]: each member's highest cosine with a member before it; -1 of the first, which repeats nothing.

    In blocks: a cluster that holds everything takes no more memory than a small one.
    """
    highest = np.empty(len(members), np.float32)
    for first in range(0, len(members), STRIP):
        block = vectors[members[first : first + STRIP]]
        found = np.tril(block @ block.T + 1, -1).max(axis=1) - 1  # the row itself and those after it count as -1
        for before in range(0, first, STRIP):
            earlier = vectors[members[before : before + STRIP]]
            np.maximum(found, (block @ earlier.T).max(axis=1), out=found)
        highest[first : first + STRIP] = found
    return highest
