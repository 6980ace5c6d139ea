"""Connected components of a graph whose edges arrive piece by piece, in memory of the rows alone."""

from types import ModuleType

import numpy as np

# Edges that the scipy twin gathers before it joins them: 32 MiB.
PENDING = 2**21


class Components:
    """Groups of rows; `join` adds edges, `labels` names each row's group by its smallest row.

    Union-find compiled by numba where it is installed, else scipy's connected components of the groups so far.
    """

    def __init__(self, count: int) -> None:
        self.parents = np.arange(count, dtype=np.int64)
        self.kernels = compiled_kernels()
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Joins the groups of left[i] and right[i], int64 [E] each."""
        if self.kernels is not None:
            self.kernels.unite(self.parents, left, right)
            return
        self._pending.append((left, right))
        self._waiting += len(left)
        if self._waiting >= PENDING:
            self._merge()

    def labels(self) -> np.ndarray:
        """int64 [N]: the smallest row of each row's group."""
        if self.kernels is not None:
            return self.kernels.flatten(self.parents)
        self._merge()
        return self.parents.copy()

    def _merge(self) -> None:
        """The pending edges, by scipy; here the parents are labels, not a forest."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        if not self._pending:
            return
        left, right = (self.parents[np.concatenate(side)] for side in zip(*self._pending, strict=True))
        self._pending, self._waiting = [], 0
        names, places = np.unique(np.concatenate([left, right]), return_inverse=True)
        edges = places.reshape(2, -1)
        graph = coo_matrix((np.ones(edges.shape[1], bool), (edges[0], edges[1])), shape=(len(names), len(names)))
        component = connected_components(graph, directed=False)[1]
        smallest = np.full(component.max(initial=-1) + 1, len(self.parents), np.int64)
        np.minimum.at(smallest, component, names)
        target = np.arange(len(self.parents))
        target[names] = smallest[component]
        self.parents = target[self.parents]


def compiled_kernels() -> ModuleType | None:
    """Numba's kernels, None where numba is missing."""
    try:
        from curation import pair_kernels
    except ImportError:
        return None
    return pair_kernels
