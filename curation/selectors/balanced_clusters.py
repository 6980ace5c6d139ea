"""Balance over a hierarchy of clusters (Vo et al. 2024, "Automatic Data Curation for Self-Supervised Learning")."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from curation.quotas import places_within
from curation.selectors.base import Candidates, Ranking, Selector, drawn
from curation.selectors.clustering import Vectors, assign, centroids, nearest, some_of

IMAGES_PER_CLUSTER, FAN_OUT, LEVELS = 200, 10, 3
FEWEST = 50  # clusters of a level by default: of few centroids, k-means makes one cluster and some single ones


@dataclass(frozen=True)
class BalancedClusters(Selector):
    """Frequent kinds of images are thinned, rare ones kept: k-means of k-means, sampled level by level.

    Every level is clustered anew several times from the images nearest to its centroids, which spreads the centroids
    evenly over what there is (their resampling). A size is then shared equally by the clusters of the coarsest level,
    each share by the clusters within, down to the images, drawn at random; what a small cluster lacks goes to the
    others. Here clusters take turns, so that every smaller set is a part of a larger one. Needs a size.

    Args:
        embedding: Which stored vectors: image, clipn or copy.
        clusters: Clusters of each level, the finest first; null takes one for 200 images, then twice a
            tenth of it, unless that is fewer than 50.
        resamplings: How often a level is clustered anew; 0 is plain k-means.
        iterations: Of each k-means.
        sample: Images that the finest level's k-means sees at most; bounds memory (4 bytes x width each).
        seed: Seed of the clustering and of the draw.
    """

    kind: ClassVar[str] = "balanced_clusters"
    embedding: Literal["image", "clipn", "copy"] = "image"
    clusters: list[int] | None = None
    resamplings: int = 3
    iterations: int = 10
    sample: int = 262_144
    seed: int = 0

    def check(self, key: str) -> None:
        """Counts must be positive, and levels become coarser."""
        for name, least in (("resamplings", 0), ("iterations", 1), ("sample", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{key}.{name} must be at least {least}, got {getattr(self, name)}")
        levels = self.clusters
        if levels is not None and (not levels or min(levels) < 1 or sorted(levels, reverse=True) != list(levels)):
            raise ValueError(
                f"{key}.clusters must be positive and fall, the finest level first, as [6000, 600, 60]; got {levels}"
            )

    def rank(self, candidates: Candidates) -> Ranking:
        """What comes last when the clusters take turns goes first."""
        count = len(candidates)
        places = np.empty(count, np.int64)
        places[drawn(candidates.keys, self.seed)] = np.arange(count)
        return Ranking(take_turns(places, self.levels(candidates))[::-1].copy())

    def levels(self, candidates: Candidates) -> list[np.ndarray]:
        """int64 [n] finest cluster of each image, then of each cluster of a level the cluster of the next one."""
        if not len(candidates):
            return []
        vectors = Vectors(candidates, self.embedding)
        sizes = self.clusters or default_levels(len(candidates))
        labels, means = self._finest(vectors, sizes[0])
        found = [labels]
        for size in sizes[1:]:
            below = means
            means = centroids(below, size, self.iterations, self.seed)
            labels, distance = nearest(below, means)
            for _ in range(self.resamplings):
                chosen = _closest(labels, distance, len(below), len(means), len(below))
                means = centroids(below[chosen], size, self.iterations, self.seed)
                labels, distance = nearest(below, means)
            found.append(labels)
        return found

    def _finest(self, vectors: Vectors, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(cluster of each image, centroids) of the level whose points lie on disk."""
        chosen = some_of(len(vectors), self.sample, self.seed)
        for round_ in range(self.resamplings + 1):
            means = centroids(vectors[chosen], size, self.iterations, self.seed)
            labels, distance = assign(vectors, means)
            if round_ < self.resamplings:
                chosen = _closest(labels, distance, len(vectors), len(means), self.sample)
        return labels, means


def default_levels(count: int) -> list[int]:
    """Clusters of each level for so many images, the finest first."""
    finest = max(1, round(count / IMAGES_PER_CLUSTER))
    coarser = [finest // FAN_OUT**level for level in range(1, LEVELS)]
    return [finest, *(size for size in coarser if size >= FEWEST)]


def _closest(labels: np.ndarray, distance: np.ndarray, count: int, clusters: int, most: int) -> np.ndarray:
    """int64, ascending: the points nearest to each centroid, half as many each as a mean cluster has, `most` in all."""
    each = max(1, min(count // (2 * clusters), most // clusters))
    return np.flatnonzero(places_within(labels, distance) < each)


def take_turns(places: np.ndarray, levels: list[np.ndarray]) -> np.ndarray:
    """int64 [n]: the images in the order in which they are taken.

    places: int64 [n], an image's place in the draw; levels: as BalancedClusters.levels. In a cluster, the clusters
    within it give one image each, round after round, until they are empty; the finest give theirs by the draw. So a
    prefix of any length is shared as equally as the clusters' sizes allow, at every level.
    """
    order, cluster = places, np.arange(len(places))
    for labels in levels:
        cluster = labels[cluster]
        order = places_within(cluster, order) * (int(labels.max(initial=0)) + 1) + cluster
    return np.argsort(order, kind="stable").astype(np.int64)
