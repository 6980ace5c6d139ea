"""Pairs above a threshold: tiles of any type and size give the pairs of a product in float64."""

import numpy as np
import pytest
import torch

import curation.components
import curation.similar_pairs as similar_pairs
import curation.tile_scans as tile_scans
from curation.components import Components
from curation.similar_pairs import PairSearch, above, block_pairs, join_similar


@pytest.fixture(params=["compiled", "torch"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both scans, in blocks and tiles so small that 150 rows have full and partial ones, on and off the diagonal."""
    if request.param == "torch":
        monkeypatch.setattr(curation.components, "compiled_kernels", lambda: None)
    else:
        pytest.importorskip("numba")
    sizes = {"BLOCK_ROWS": 64, "BLOCK_BYTES": 1, "STRIP": 24, "TILE_ROWS": 16, "TILE_COLUMNS": 40, "DOUBTFUL": 80}
    for name, value in {**sizes, "EXACT_PAIRS": 7, "CACHE_BYTES": 0}.items():
        monkeypatch.setattr(similar_pairs, name, value)
    monkeypatch.setattr(tile_scans, "MANY", 9)
    monkeypatch.setattr(tile_scans, "FIRST_SLICE", 10)
    monkeypatch.setattr(tile_scans, "SLICE", 100)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clusters(count: int = 150, width: int = 24, spread: float = 0.6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, width))
    return unit(centres[rng.integers(0, 12, count)] + spread * rng.normal(size=(count, width)))


def by_hand(vectors: np.ndarray, threshold: float) -> list[int]:
    """Groups of all pairs whose product, rounded to float32, is above the threshold; joined one by one."""
    wide = vectors.astype(np.float32).astype(np.float64)
    pairs = np.argwhere((wide @ wide.T).astype(np.float32) > np.float32(threshold))
    labels = list(range(len(vectors)))
    for a, b in pairs.tolist():
        low, high = sorted((labels[a], labels[b]))
        labels = [low if label == high else label for label in labels]
    return labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threshold", [0.9, 0.75, 0.6, 0.3, 0.0, -0.3])
def test_join_similar__groups_of_the_exact_products(twin: None, threshold: float, dtype: torch.dtype) -> None:
    # At low thresholds everything is joined at once; a few rows in wide spaces stay apart.
    vectors = clusters() if threshold > 0.3 else unit(np.random.default_rng(0).normal(size=(9, 12)))
    groups = Components(len(vectors))
    join_similar(vectors, threshold, groups, dtype=dtype)
    expected = by_hand(vectors, threshold)
    assert groups.labels().tolist() == expected
    assert threshold <= 0 or 1 < len(set(expected)) < len(vectors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_join_similar__pairs_at_the_threshold(twin: None, dtype: torch.dtype, stored: type) -> None:
    # Pairs of rows 2i and 2i + 1 whose cosines straddle the threshold by a few float32 steps.
    cosines = (float(np.float32(0.6)) + np.arange(-20, 21) * 2e-8).astype(np.float32)
    vectors = np.zeros((2 * len(cosines), 2 * len(cosines)))
    for i, cosine in enumerate(cosines.astype(np.float64)):
        vectors[2 * i, 2 * i] = 1
        vectors[2 * i + 1, 2 * i : 2 * i + 2] = cosine, np.sqrt(1 - cosine**2)
    rows = vectors.astype(stored)
    groups = Components(len(rows))
    join_similar(rows, 0.6, groups, dtype=dtype)
    labels = groups.labels()
    assert labels.tolist() == by_hand(rows, 0.6)
    if stored is np.float32:  # strictly above: the pair at 0.6 itself is not joined
        assert (labels[1::2] != labels[::2]).tolist() == (cosines <= np.float32(0.6)).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threshold", [-0.3, 0.0])
@pytest.mark.parametrize("offset", [-0.6, -0.1, -1e-3, -1e-6, 0.0, 1e-6, 1e-3, 0.1, 0.6])
def test_join_similar__two_rows_around_thresholds_of_either_sign(
    twin: None, dtype: torch.dtype, threshold: float, offset: float
) -> None:
    cosine = float(np.float32(threshold)) + offset
    groups = Components(2)
    join_similar(np.float32([[1, 0], [cosine, np.sqrt(1 - cosine**2)]]), threshold, groups, dtype=dtype)
    assert groups.labels().tolist() == [0, 0 if offset > 0 else 1]


def test_join_similar__exact_copies_are_one_group(twin: None) -> None:
    # More doubtful and certain pairs than the buffers hold at once.
    vectors = np.repeat(clusters(3), 40, axis=0)
    for dtype in (torch.float32, torch.bfloat16):
        groups = Components(120)
        join_similar(vectors, float(np.float32(vectors[0] @ vectors[0])) - 1e-6, groups, dtype=dtype)
        assert groups.labels().tolist() == [0] * 40 + [40] * 40 + [80] * 40


def test_join_similar__more_doubtful_pairs_than_room(twin: None) -> None:
    # 120 rows of two kinds whose cosine is the threshold to within bfloat16's error, in a tile that holds 80 pairs.
    angle = np.arccos(0.602)
    vectors = unit(np.repeat([[1, 0], [np.cos(angle), np.sin(angle)]], 60, axis=0))
    for threshold, count in ((0.6, 1), (0.603, 2)):
        groups = Components(120)
        join_similar(vectors, threshold, groups, dtype=torch.bfloat16)
        assert len(set(groups.labels())) == count


def test_above__compares_in_float32() -> None:
    vectors = np.array([[1, 0], [np.float32(0.6), 0.8]], np.float32)
    left, right = np.array([0, 0]), np.array([1, 0])
    assert above(vectors, left, right, 0.6).tolist() == [False, True]
    assert above(vectors, left, right, np.nextafter(np.float32(0.6), 0)).tolist() == [True, True]
    assert above(vectors, left[:0], right[:0], 0.6).tolist() == []


TYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("threads", [1, 3])
def test_forest__the_same_bytes_by_any_device_type_and_number_of_threads(twin: None, threads: int) -> None:
    vectors, before = clusters(200), torch.get_num_threads()
    rows, columns = range(0, 90), range(120, 200)
    forests = []
    try:
        torch.set_num_threads(threads)
        for devices in (None, ["cpu"] * threads):
            forests += [PairSearch(vectors, 0.7, dtype=dtype, devices=devices).forest(rows, columns) for dtype in TYPES]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(forest, forests[0]) for forest in forests) and len(forests[0]) > 20
    first, other = forests[0].T
    assert (first < other).all() and np.isin(forests[0], [*rows, *columns]).all()
    expected = Components(200)
    a, b = np.argwhere(vectors[:90].astype(float) @ vectors[120:].T.astype(float) > 0.7).T
    expected.join(a, b + 120)
    found = Components(200)
    found.join(first, other)
    assert found.labels().tolist() == expected.labels().tolist()


@pytest.mark.parametrize(("count", "width"), [(0, 8), (1, 8), (9000, 8), (70_000, 512), (3_000_000, 2048)])
def test_block_pairs__every_pair_of_rows_once_in_bounded_blocks(count: int, width: int) -> None:
    pairs = block_pairs(count, width)
    assert sum(len(a) * (len(a) - 1) // 2 if a == b else len(a) * len(b) for a, b in pairs) == count * (count - 1) // 2
    assert all(a == b or a.stop <= b.start for a, b in pairs)
    assert max((len(a) for a, _ in pairs), default=0) * width * 2 <= similar_pairs.BLOCK_BYTES


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, *TYPES])
def test_forest__a_gpu_gives_the_bytes_of_the_cpu(dtype: torch.dtype | None) -> None:
    vectors = np.concatenate([clusters(20_000, 64), np.repeat(clusters(3, 64), 3000, axis=0)])
    rows, columns = range(0, 12_000), range(12_000, 29_000)
    for left, right in ((rows, rows), (rows, columns), (columns, columns)):
        expected = PairSearch(vectors, 0.8).forest(left, right)
        found = PairSearch(vectors, 0.8, dtype=dtype, devices=["cuda:0"]).forest(left, right)
        np.testing.assert_array_equal(found, expected)
