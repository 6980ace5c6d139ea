"""Groups of rows, by numba and by its twin in scipy."""

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

import curation.components
from curation.components import Components, compiled_kernels


@pytest.fixture(params=["compiled", "scipy"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "scipy":
        monkeypatch.setattr(curation.components, "compiled_kernels", lambda: None)
        monkeypatch.setattr(curation.components, "PENDING", 7)  # merges within a test, not only at its end
    else:
        pytest.importorskip("numba")
    return request.param


def smallest_rows(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Smallest row of each row's component, from all edges at once."""
    graph = coo_matrix((np.ones(len(left)), (left, right)), shape=(count, count))
    component = connected_components(graph, directed=False)[1]
    return np.unique(component, return_index=True)[1][component]


def test_components__no_edge_leaves_single_rows(twin: str) -> None:
    groups = Components(3)
    groups.join(np.empty(0, np.int64), np.empty(0, np.int64))
    assert groups.labels().tolist() == [0, 1, 2]
    assert Components(0).labels().tolist() == []


def test_components__chain_in_any_order_is_one_group(twin: str) -> None:
    groups = Components(60)
    rows = np.random.default_rng(0).permutation(np.arange(10, 59))
    for row in rows:
        groups.join(np.array([row + 1]), np.array([row]))
    assert groups.labels().tolist() == [*range(10), *[10] * 50]


def test_components__edges_after_labels_count(twin: str) -> None:
    groups = Components(5)
    groups.join(np.array([4]), np.array([3]))
    before = groups.labels()
    groups.join(np.array([1]), np.array([4]))
    assert before.tolist() == [0, 1, 2, 3, 3]
    assert groups.labels().tolist() == [0, 1, 2, 1, 1]


@pytest.mark.parametrize("edges", [20, 100, 150, 400])
def test_components__random_graphs(twin: str, edges: int) -> None:
    left, right = np.random.default_rng(edges).integers(0, 200, (2, edges))
    groups = Components(200)
    for first in range(0, edges, 11):
        groups.join(left[first : first + 11], right[first : first + 11])
    np.testing.assert_array_equal(groups.labels(), smallest_rows(200, left, right))


def test_compiled_kernels__are_there_where_numba_is() -> None:
    pytest.importorskip("numba")
    assert compiled_kernels() is not None
