from pathlib import Path

import numpy as np
import pytest

from curation.searching import neighbours
from curation.searching.neighbours import top_k


def random_unit(rows: int, width: int = 24, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_sorting(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The plain way: all products in float64, sorted."""
    products = queries.astype(np.float64) @ rows.astype(np.float64).T
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, order, axis=1), order


@pytest.mark.parametrize("devices", [[], ["cpu"], ["cpu", "cpu"]], ids=["faiss", "torch", "two torch devices"])
@pytest.mark.parametrize("k", [1, 7, 150])
def test_top_k__is_all_products_sorted(devices: list[str], k: int) -> None:
    pool, queries = random_unit(1000), random_unit(30, seed=1)
    similarities, rows = top_k(queries, [pool], k, block_bytes=300 * 24 * 4, devices=devices)
    expected, order = by_sorting(queries, pool, k)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(similarities, expected, atol=1e-6)
    assert similarities.dtype == np.float32 and rows.dtype == np.int64


@pytest.mark.parametrize("devices", [[], ["cpu"]], ids=["faiss", "torch"])
@pytest.mark.parametrize("block_rows", [1, 3, 64, 5000])
def test_top_k__does_not_depend_on_how_the_pool_is_cut(devices: list[str], block_rows: int) -> None:
    pool, queries = random_unit(400), random_unit(5, seed=1)
    parts = [part for size in (np.split(pool, [7, 7, 100, 399])) for part in [size]]
    whole = top_k(queries, [pool], 20, devices=devices)
    cut = top_k(queries, iter(parts), 20, block_bytes=block_rows * 24 * 4, devices=devices)
    np.testing.assert_array_equal(cut[1], whole[1])
    np.testing.assert_allclose(cut[0], whole[0], atol=1e-6)


def test_top_k__mapped_half_precision_files_of_any_length(tmp_path: Path) -> None:
    pool, queries = random_unit(300).astype(np.float16), random_unit(4, seed=1)
    scaled = pool * np.linspace(0.1, 8, 300, dtype=np.float16)[:, None]
    np.save(tmp_path / "a.npy", scaled[:120])
    np.save(tmp_path / "b.npy", scaled[120:])
    mapped = [np.load(tmp_path / name, mmap_mode="r") for name in ("a.npy", "b.npy")]
    similarities, rows = top_k(3 * queries, mapped, 10)
    exact = scaled.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(similarities, by_sorting(queries, exact, 10)[0], atol=1e-6)
    np.testing.assert_allclose(similarities, (exact[rows] * queries[:, None]).sum(-1), atol=1e-6)


@pytest.mark.parametrize("devices", [[], ["cpu"]], ids=["faiss", "torch"])
def test_top_k__rows_without_direction_are_never_found(devices: list[str]) -> None:
    pool = random_unit(60)
    pool[[0, 5, 33]] = [[0.0], [np.nan], [np.inf]]
    similarities, rows = top_k(-pool[1:2], [pool], 60, devices=devices, block_bytes=20 * 24 * 4)
    assert set(rows[0].tolist()) == {*range(60), -1} - {0, 5, 33}
    assert (rows[0, -3:] == -1).all() and np.isneginf(similarities[0, -3:]).all()
    assert np.isfinite(similarities[0, :-3]).all()


@pytest.mark.parametrize("devices", [[], ["cpu"]], ids=["faiss", "torch"])
def test_top_k__equal_similarities_in_the_order_of_rows(devices: list[str]) -> None:
    pool = np.repeat(random_unit(3), 10, axis=0)
    rows = top_k(pool[10:11], [pool], 20, block_bytes=7 * 24 * 4, devices=devices)[1]
    assert rows[0, :10].tolist() == list(range(10, 20))


def test_top_k__fewer_rows_than_k_and_none_at_all() -> None:
    queries = random_unit(2)
    assert top_k(queries, [queries[:1]], 4)[1][0].tolist() == [0, -1, -1, -1]
    similarities, rows = top_k(queries, [], 3)
    assert (rows == -1).all() and np.isneginf(similarities).all()


def test_top_k__tells_what_is_wrong() -> None:
    queries = random_unit(2)
    with pytest.raises(ValueError, match="24 dimensions"):
        top_k(queries, [random_unit(3, 8)], 1)
    with pytest.raises(ValueError, match="query 1 has no direction"):
        top_k(queries * [[1], [0]], [queries], 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        top_k(queries, [queries], 0)


def test_top_k__keeps_full_precision_and_the_runs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seen: list[str] = []
    topk = torch.topk
    monkeypatch.setattr(torch, "topk", lambda *a: (seen.append(torch.get_float32_matmul_precision()), topk(*a))[1])
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        top_k(random_unit(2), [random_unit(9)], 1, devices=["cpu"])
        assert torch.get_float32_matmul_precision() == "medium" and seen == ["highest"]
    finally:
        torch.set_float32_matmul_precision(before)


def testread_ahead__an_error_of_the_reader_reaches_the_caller() -> None:
    def blocks():  # noqa: ANN202
        yield random_unit(3)
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        top_k(random_unit(1), blocks(), 1, block_bytes=24 * 4)


def testunit_blocks__two_buffers_for_any_number_of_blocks() -> None:
    blocks = list(neighbours.unit_blocks([random_unit(100)], 24, 10 * 24 * 4))
    assert len(blocks) == 10 and len({vectors.ctypes.data for vectors, _ in blocks}) == 2
