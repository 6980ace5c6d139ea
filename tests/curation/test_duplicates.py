import hashlib

import numpy as np
import pytest
import torch

from curation.duplicates import choose_representatives, duplicate_groups


def around(degrees: list[float]) -> np.ndarray:
    """Unit vectors of the plane."""
    angles = np.deg2rad(degrees)
    return np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def random_rows(count: int = 300, width: int = 6) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def neighbour_groups(vectors: np.ndarray, threshold: float, k: int) -> list[int]:
    """Groups of the graph of the k nearest neighbours, by hand."""
    cosine = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(cosine, -np.inf)
    labels = list(range(len(vectors)))
    for row in range(len(vectors)):
        for other in np.argsort(-cosine[row])[:k]:
            if cosine[row, other] > threshold:
                low, high = sorted((labels[row], labels[other]))
                labels = [low if label == high else label for label in labels]
    return labels


@pytest.mark.parametrize(("k", "expected"), [(None, [0, 0, 0, 3, 0]), (64, [0, 0, 0, 3, 0]), (1, [0, 1, 0, 3, 1])])
def test_duplicate_groups__chain_is_one_group(k: int | None, expected: list[int]) -> None:
    # 0-40, 40-80.5 and 80.5-90 are near, 0-90 is not. A list of one neighbour has 40-0 and 80.5-90 only.
    vectors = around([0, 90, 40, 180, 80.5])
    assert duplicate_groups(vectors, threshold=0.75, k=k).tolist() == expected


@pytest.mark.parametrize("k", [1, 2, 5])
def test_duplicate_groups__neighbour_lists(k: int) -> None:
    vectors = random_rows()
    groups = duplicate_groups(vectors, threshold=0.9, k=k)
    assert groups.tolist() == neighbour_groups(vectors, 0.9, k)


def test_duplicate_groups__list_as_long_as_the_pool_is_all_pairs() -> None:
    vectors = random_rows()
    pairs = duplicate_groups(vectors, threshold=0.93)
    assert 1 < len(set(pairs)) < 300
    np.testing.assert_array_equal(duplicate_groups(vectors, threshold=0.93, k=1000), pairs)


def test_duplicate_groups__exact_copies_with_short_lists() -> None:
    # A row need not be in its own list among its copies; each list still joins its row with another one.
    vectors = np.repeat(random_rows(2, 8), 2, axis=0)
    assert duplicate_groups(vectors, threshold=0.99, k=1).tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("k", [None, 3])
def test_duplicate_groups__threshold_is_not_reached_by_equality(k: int | None) -> None:
    vectors = np.array([[1, 0], [0.5, np.sqrt(0.75)]], np.float32)
    assert duplicate_groups(vectors, threshold=0.5, k=k).tolist() == [0, 1]
    assert duplicate_groups(vectors, threshold=0.4999, k=k).tolist() == [0, 0]


@pytest.mark.parametrize("k", [None, 3])
def test_duplicate_groups__none_and_one_row(k: int | None) -> None:
    assert duplicate_groups(np.empty((0, 4), np.float32), k=k).tolist() == []
    assert duplicate_groups(np.ones((1, 4), np.float32) / 2, k=k).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_duplicate_groups__tensor_in_tensor_out(dtype: torch.dtype) -> None:
    groups = duplicate_groups(torch.from_numpy(around([0, 5, 90])).to(dtype))
    assert isinstance(groups, torch.Tensor) and groups.dtype == torch.int64
    assert groups.tolist() == [0, 0, 2]


def test_duplicate_groups__memory_mapped_float16(tmp_path) -> None:
    np.save(tmp_path / "rows.npy", around([0, 5, 90]).astype(np.float16))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert duplicate_groups(rows).tolist() == [0, 0, 2]
    assert duplicate_groups(rows, k=2).tolist() == [0, 0, 2]


def test_duplicate_groups__wrong_input_is_named() -> None:
    vectors = random_rows(10)
    vectors[7, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values, first in row 7"):
        duplicate_groups(vectors)
    with pytest.raises(ValueError, match=r"must be \[N, D\], got shape \(3,\)"):
        duplicate_groups(np.zeros(3))
    with pytest.raises(ValueError, match="k must be at least 1.*got 0"):
        duplicate_groups(random_rows(3), k=0)


KEYS = [f"{number:02d}.jpg" for number in range(60)]
GROUPS = np.arange(60) % 7


def test_choose_representatives__one_eligible_member_of_each_group() -> None:
    eligible = np.arange(60) % 3 > 0
    chosen = choose_representatives(GROUPS, KEYS, eligible, seed=0)
    assert (GROUPS[chosen] == GROUPS).all() and eligible[chosen].all()
    assert len(set(chosen.tolist())) == 7


def test_choose_representatives__smallest_hash_of_seed_and_key() -> None:
    chosen = choose_representatives(np.zeros(60, np.int64), KEYS, np.ones(60, bool), seed=5)
    assert set(chosen.tolist()) == {min(range(60), key=lambda i: hashlib.sha256(f"5:{KEYS[i]}".encode()).digest())}


def test_choose_representatives__order_of_rows_does_not_matter() -> None:
    eligible = np.ones(60, bool)
    chosen = {KEYS[row] for row in choose_representatives(GROUPS, KEYS, eligible, seed=1)}
    order = np.random.default_rng(0).permutation(60)
    keys = [KEYS[row] for row in order]
    assert {keys[row] for row in choose_representatives(GROUPS[order] + 100, keys, eligible, seed=1)} == chosen
    assert {KEYS[row] for row in choose_representatives(GROUPS, KEYS, eligible, seed=2)} != chosen


def test_choose_representatives__group_without_an_eligible_member() -> None:
    eligible = np.array([False, False, True, False])
    assert choose_representatives(np.array([4, 4, 9, 9]), list("abcd"), eligible, 0).tolist() == [-1, -1, 2, 2]
    assert choose_representatives(np.empty(0, np.int64), [], np.empty(0, bool), 0).tolist() == []


def test_choose_representatives__lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="equally long, got 2, 1, 2"):
        choose_representatives(np.zeros(2, np.int64), ["a"], np.ones(2, bool), 0)
