import numpy as np
import pytest
import torch

from curation.leakage import max_similarity


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
    with pytest.raises(ValueError, match="test_embeddings holds NaN or infinite values in 1 rows"):
        max_similarity(good, bad)
    with pytest.raises(ValueError, match=r"embeddings must be \[N, D\], got shape \(8,\)"):
        max_similarity(good[0], good)
