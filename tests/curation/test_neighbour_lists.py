import numpy as np
import pytest

import curation.neighbour_lists as neighbour_lists
from curation.duplicates import duplicate_groups
from curation.neighbour_lists import forest_of, neighbour_forest, query_blocks


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("k", "cut"), [(1, True), (2, True), (5, False)])
def test_lists_and_all_pairs__agree_except_in_groups_larger_than_k(
    k: int, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbour_lists, "QUERIES", 37)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 8))
    vectors = unit(centres[rng.integers(0, 40, 300)] + 0.25 * rng.normal(size=(300, 8)))
    pairs, lists = duplicate_groups(vectors, 0.95), duplicate_groups(vectors, 0.95, k=k)
    sizes = np.bincount(pairs)[pairs]
    small = sizes <= k
    assert 40 < small.sum() < 290
    np.testing.assert_array_equal(lists[small], pairs[small])
    np.testing.assert_array_equal(pairs[lists], pairs)  # a list joins no rows that all pairs do not
    assert (lists != pairs).any() == cut


def test_neighbour_forest__zero_rows_and_rows_of_other_lengths() -> None:
    vectors = unit(np.array([[1, 0.1], [1, 0], [0, 1], [1, 1]]))
    vectors = np.concatenate([vectors, np.zeros((2, 2), np.float32)])
    assert neighbour_forest(vectors, 0.9, 3, range(6), []).tolist() == [[0, 1]]
    assert neighbour_forest(vectors, 0.9, 3, range(4, 6), []).tolist() == []
    vectors[:2] *= 0.97  # their product, 0.93, decides
    assert neighbour_forest(vectors, 0.9, 3, range(2), []).tolist() == [[0, 1]]
    assert neighbour_forest(vectors, 0.95, 3, range(2), []).tolist() == []


def test_query_blocks__every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_lists, "QUERIES", 4)
    assert [list(part) for part in query_blocks(9)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert query_blocks(0) == []


def test_forest_of__edges_from_the_smallest_row() -> None:
    left, right = np.array([9, 30, 4, 9]), np.array([7, 31, 9, 7])
    assert forest_of(left, right).tolist() == [[4, 7], [4, 9], [30, 31]]
    assert forest_of(left[:0], right[:0]).shape == (0, 2)
