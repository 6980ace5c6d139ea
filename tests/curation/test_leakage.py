import numpy as np
import pytest
import torch

from curation.embeddings import Embeddings
from curation.leakage import NearestTests, NotFinite, background_similarity, max_similarity


def unit_rows(count: int, seed: int, width: int = 8) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
def test_max_similarity__blocks_do_not_matter(block: int) -> None:
    pool, tests = unit_rows(50, 0), unit_rows(64, 1)
    similarity, closest = max_similarity(pool, tests, block)
    exact = pool.astype(np.float64) @ tests.T.astype(np.float64)
    np.testing.assert_array_equal(closest, exact.argmax(axis=1))
    np.testing.assert_allclose(similarity, exact.max(axis=1), atol=1e-6)
    assert similarity.dtype == np.float32 and closest.dtype == np.int64


@pytest.mark.parametrize("block", [2, 4096])
def test_max_similarity__equal_similarities_go_to_the_smaller_index(block: int) -> None:
    tests = np.eye(4, dtype=np.float32)[[3, 1, 0, 1, 0, 0]]
    assert max_similarity(np.eye(4, dtype=np.float32)[:3], tests, block)[1].tolist() == [2, 1, 0]


def test_max_similarity__one_test_image_copied_often_finds_every_copy() -> None:
    # More copies than any list of neighbours of the test image would hold.
    pool = np.repeat(unit_rows(1, 0), 100, axis=0)
    similarity, closest = max_similarity(pool, np.concatenate([unit_rows(20, 1), pool[:1]]))
    np.testing.assert_allclose(similarity, 1, atol=1e-6)
    assert set(closest.tolist()) == {20}


def test_max_similarity__opposite_images_have_negative_similarity() -> None:
    similarity, closest = max_similarity(np.float32([[1, 0]]), np.float32([[-1, 0]]))
    assert similarity.tolist() == [-1] and closest.tolist() == [0]


def test_max_similarity__empty_pool() -> None:
    similarity, closest = max_similarity(np.empty((0, 8), np.float32), unit_rows(3, 0))
    assert similarity.tolist() == [] and closest.tolist() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_max_similarity__tensor_in_tensor_out(dtype: torch.dtype) -> None:
    rows = torch.eye(4, dtype=dtype)
    similarity, closest = max_similarity(rows, rows)
    assert isinstance(similarity, torch.Tensor) and similarity.dtype == torch.float32
    assert isinstance(closest, torch.Tensor) and closest.tolist() == [0, 1, 2, 3]


def test_max_similarity__wrong_input_is_named() -> None:
    good, bad = unit_rows(3, 0), unit_rows(3, 1)
    bad[1, 1] = np.nan
    with pytest.raises(ValueError, match="test_embeddings is empty"):
        max_similarity(good, np.empty((0, 8), np.float32))
    with pytest.raises(ValueError, match="embeddings have 8 dimensions, test_embeddings 5"):
        max_similarity(good, unit_rows(3, 0, width=5))
    with pytest.raises(ValueError, match="test_embeddings holds NaN or infinite values in 1 rows, the first is row 1"):
        max_similarity(good, bad)
    with pytest.raises(ValueError, match=r"embeddings must be \[N, D\], got shape \(8,\)"):
        max_similarity(good[0], good)


class Watched(Embeddings):
    """Embeddings that remember how many rows were asked for at once."""

    most = 0

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        rows = super().__getitem__(key)
        Watched.most = max(Watched.most, len(rows))
        return rows


def test_max_similarity__vectors_stay_on_disk() -> None:
    pool, tests = unit_rows(300, 0).astype(np.float16), unit_rows(200, 1).astype(np.float16)
    similarity, closest = max_similarity(Watched([pool[:90], pool[90:]]), Watched([tests]), block=40)
    assert Watched.most == 40
    expected = max_similarity(Embeddings([pool])[:], Embeddings([tests])[:])
    np.testing.assert_array_equal(similarity, expected[0])
    np.testing.assert_array_equal(closest, expected[1])


def test_max_similarity__same_bits_for_every_block_and_thread_count() -> None:
    pool, tests = unit_rows(257, 0, 96), unit_rows(129, 1, 96)
    tests[64:] = np.nextafter(tests[:65], 2)  # nearly equal: their order is below a product's rounding
    before, expected = torch.get_num_threads(), max_similarity(pool, tests)
    exact = pool.astype(np.float64) @ tests.T.astype(np.float64)
    np.testing.assert_array_equal(expected[0], exact.max(axis=1).astype(np.float32))
    try:
        for block, threads in ((3, 1), (50, 2), (4096, 2)):
            torch.set_num_threads(threads)
            similarity, closest = max_similarity(pool, tests, block)
            assert similarity.tobytes() == expected[0].tobytes() and closest.tobytes() == expected[1].tobytes()
    finally:
        torch.set_num_threads(before)


def test_max_similarity__products_are_as_exact_as_their_bound_supposes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, mm = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: (seen.append(torch.get_float32_matmul_precision()), mm(*a, **k)))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # TF32 on a GPU, whose errors are a thousand times the bound
    try:
        max_similarity(unit_rows(5, 0), unit_rows(4, 1))
        assert seen == ["highest"] and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("block", [3, 4096])
def test_nearest_tests__offsets_decide(block: int) -> None:
    pool, tests = unit_rows(20, 0), unit_rows(9, 1)
    offsets = np.linspace(-0.5, 0.5, 9).astype(np.float32)
    value, place = NearestTests(tests, block, offsets=offsets).find(pool)
    exact = pool @ tests.T + offsets
    np.testing.assert_array_equal(place, exact.argmax(axis=1))
    np.testing.assert_allclose(value, exact.max(axis=1), atol=1e-6)


def test_nearest_tests__copies_of_one_test_image_cost_no_more() -> None:
    tests = np.repeat(unit_rows(3, 0), 50, axis=0)
    offsets = np.tile(np.float32([0, 0.25]), 75)  # of equal vectors, one with a larger offset
    value, place = NearestTests(tests, offsets=offsets).find(unit_rows(3, 0))
    assert place.tolist() == [1, 51, 101]
    np.testing.assert_allclose(value, 1.25, atol=1e-6)


@pytest.mark.parametrize("block", [4, 4096])
def test_background_similarity__mean_of_the_nearest(block: int) -> None:
    tests, background = unit_rows(10, 0), unit_rows(33, 1)
    expected = np.sort(tests @ background.T, axis=1)[:, -3:].mean(axis=1)
    np.testing.assert_allclose(background_similarity(tests, background, 3, block=block), expected, atol=1e-6)
    with pytest.raises(ValueError, match="background has 33 images, fewer than the 34 nearest"):
        background_similarity(tests, background, 34)


def test_max_similarity__nan_says_which_row() -> None:
    pool = unit_rows(50, 0)
    pool[33, 2] = np.inf
    with pytest.raises(NotFinite, match="embeddings holds NaN .* in 1 rows, the first is row 33") as told:
        max_similarity(pool, unit_rows(5, 1), block=8)
    assert told.value.row == 33
