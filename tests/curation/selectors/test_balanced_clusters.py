"""Sizes are shared equally by the clusters of every level."""

from pathlib import Path

import numpy as np
import pytest

from curation.selectors import BalancedClusters
from curation.selectors.balanced_clusters import default_levels, take_turns
from tests.curation.selectors.pools import save_candidates, spheres


def shared(sizes: list[int], total: int) -> list[int]:
    """Equal shares of the total, as far as the sizes go, by the definition: one for each in turn."""
    shares = [0] * len(sizes)
    while sum(shares) < total:
        for place, size in enumerate(sizes):
            if shares[place] < size and sum(shares) < total:
                shares[place] += 1
    return shares


@pytest.mark.parametrize("total", [1, 2, 7, 20, 33, 60, 100])
def test_take_turns__equal_shares_at_every_level(total: int) -> None:
    # Two coarse clusters, of images 10 + 20 + 5 and 60 + 5.
    finest = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [10, 20, 5, 60, 5]))
    coarse = np.array([0, 0, 0, 1, 1])
    taken = take_turns(np.arange(100)[::-1].copy(), [finest, coarse])[:total]
    counts = np.bincount(finest[taken], minlength=5)
    halves = shared([35, 65], total)
    assert counts[:3].sum() == halves[0] and counts[3:].sum() == halves[1]
    assert counts.tolist() == shared([10, 20, 5], halves[0]) + shared([60, 5], halves[1])
    for cluster in range(5):  # in a cluster by the draw, which is the reverse of the rows here
        members = np.flatnonzero(finest == cluster)[::-1]
        assert set(taken[finest[taken] == cluster]) == set(members[: counts[cluster]])


def test_balanced_clusters__rare_kinds_stay(tmp_path: Path) -> None:
    vectors, kind = spheres([300, 60, 12, 12], 0.03)
    method = BalancedClusters(clusters=[8, 4], iterations=20)
    order = method.rank(save_candidates(tmp_path, vectors)).order
    assert sorted(order.tolist()) == list(range(len(kind)))
    assert np.bincount(kind[order[-48:]]).tolist() == [12, 12, 12, 12]
    assert np.bincount(kind[order[-84:]]).tolist() == [30, 30, 12, 12]


def test_balanced_clusters__seed_decides_and_threads_do_not(tmp_path: Path) -> None:
    import faiss

    candidates = save_candidates(tmp_path, spheres([400, 100, 20], 0.2)[0])
    orders = []
    for threads, seed in ((1, 0), (2, 0), (1, 1)):
        faiss.omp_set_num_threads(threads)
        orders.append(BalancedClusters(clusters=[30, 5], seed=seed).rank(candidates).order)
    faiss.omp_set_num_threads(1)
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()


def test_default_levels__no_level_of_few_clusters() -> None:
    assert default_levels(1_200_000) == [6000, 600, 60]
    assert default_levels(200_000) == [1000, 100]
    assert default_levels(50_000) == [250] and default_levels(3) == [1]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_balanced_clusters__few_images_and_copies_only(tmp_path: Path, count: int) -> None:
    vectors = np.tile(np.eye(1, 8, dtype=np.float32), (count, 1))
    order = BalancedClusters(clusters=[3, 2]).rank(save_candidates(tmp_path, vectors)).order
    assert sorted(order.tolist()) == list(range(count)) and order.dtype == np.int64


def test_balanced_clusters__nan_is_told_with_the_image(tmp_path: Path) -> None:
    vectors = spheres([20], 0.1)[0]
    vectors[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"'image' embedding of image '00014.jpg' \(row 14\) holds NaN.*columns/embed"):
        BalancedClusters().rank(save_candidates(tmp_path, vectors))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"clusters": [4, 8]}, r"m\.clusters must be positive and fall.*\[4, 8\]"), ({"clusters": []}, "m.clusters"),
     ({"resamplings": -1}, "m.resamplings must be at least 0, got -1"), ({"sample": 0}, "m.sample")],
)  # fmt: skip
def test_balanced_clusters__wrong_settings(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BalancedClusters(**settings).check("m")
    BalancedClusters().check("m")
