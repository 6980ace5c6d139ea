"""k-means over stored embeddings, by faiss, in memory bounded by a sample and a block."""

from collections.abc import Iterator

import numpy as np

from curation.selectors.base import Candidates

BLOCK = 8192  # rows that are compared with the centroids at a time
CHEAP = 5_000_000  # vectors times centroids: begun by k-means++, which takes about five times as long as k-means


class Vectors:
    """Unit embeddings [n, D] of candidates that lie on disk. Reading a row that is not finite is an error."""

    def __init__(self, candidates: Candidates, name: str) -> None:
        self.stored, self.name, self.candidates = candidates.embeddings(name), name, candidates

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """float32 [m, D] of int64 [m] places."""
        vectors = self.stored[places]
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            place = int(places[int(bad.argmax())])
            key = self.candidates.keys[place].as_py()
            raise ValueError(
                f"the stored {self.name!r} embedding of image {key!r} (row {self.candidates.rows[place]}) holds NaN or "
                f"infinite values; delete {self.candidates.workspace.stage_folder('embed')} and run `curate` again"
            )
        return vectors

    def blocks(self, places: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(places, float32 [m, D]) of all rows, or of some, a block at a time."""
        places = np.arange(len(self)) if places is None else places
        for first in range(0, len(places), BLOCK):
            part = places[first : first + BLOCK]
            yield part, self[part]


def centroids(vectors: np.ndarray, count: int, iterations: int, seed: int, spherical: bool = False) -> np.ndarray:
    """float32 [min(count, m), D]: k-means of float32 [m, D]; spherical: by cosine, centroids of unit length.

    Where that is cheap, they begin far apart (k-means++), else at random vectors.
    """
    import faiss

    count, vectors = min(count, len(vectors)), np.ascontiguousarray(vectors, np.float32)
    means = faiss.Kmeans(
        vectors.shape[1], count, niter=iterations, seed=seed, spherical=spherical, min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )  # fmt: skip
    start = None
    if 1 < count < len(vectors) and count * len(vectors) <= CHEAP:
        from sklearn.cluster import kmeans_plusplus

        start = np.ascontiguousarray(
            kmeans_plusplus(vectors, count, random_state=seed, n_local_trials=1)[0], np.float32
        )
    means.train(vectors, init_centroids=start)
    return np.asarray(means.centroids).reshape(count, -1)


def nearest(vectors: np.ndarray, means: np.ndarray, spherical: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [m] number of the nearest centroid, float32 [m] squared distance, or cosine where spherical)."""
    import faiss

    metric = faiss.METRIC_INNER_PRODUCT if spherical else faiss.METRIC_L2
    value, label = faiss.knn(np.ascontiguousarray(vectors), means, 1, metric=metric)
    return label[:, 0], value[:, 0]


def assign(vectors: Vectors, means: np.ndarray, spherical: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` of all stored rows."""
    labels, values = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    for places, block in vectors.blocks():
        labels[places], values[places] = nearest(block, means, spherical)
    return labels, values


def some_of(count: int, most: int, seed: int) -> np.ndarray:
    """int64, ascending: all places, or as many as `most` of them, drawn by the seed."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
