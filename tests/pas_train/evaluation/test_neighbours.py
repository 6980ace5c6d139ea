from pathlib import Path

import numpy as np
import pytest
import torch

from pas_train.evaluation import neighbours
from pas_train.evaluation.neighbours import nearest


@pytest.fixture(params=["compiled", "topk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of the search, in small tiles, so that each meets many."""
    if request.param == "topk":
        monkeypatch.setattr(neighbours, "kernels", lambda: None)
    else:
        pytest.importorskip("numba")
    monkeypatch.setattr(neighbours, "TILE", 40)
    monkeypatch.setattr(neighbours, "WIDE_TILE", 90)
    monkeypatch.setattr(neighbours, "QUERIES", 16)


def quarters(rng: np.random.Generator, count: int) -> np.ndarray:
    """Rows of length two with exact cosines: four of sixteen dimensions are 1 or -1. Most cosines occur often."""
    rows = np.zeros((count, 16), np.float32)
    for row in rows:
        row[rng.choice(16, 4, replace=False)] = rng.choice([-1.0, 1.0], 4)
    return rows


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("k", [1, 3, 90, 207])
def test_nearest__as_sorting_all_cosines_stably(k: int) -> None:
    rng = np.random.default_rng(0)
    train, test = quarters(rng, 207), quarters(rng, 37)
    values, rows = nearest(train, test, k)
    cosines = test @ train.T / 4
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(rows.numpy(), order)
    np.testing.assert_array_equal(values.numpy(), np.take_along_axis(cosines, order, axis=1))


@pytest.mark.usefixtures("way")
def test_nearest__rows_in_rising_order_of_similarity() -> None:
    angles = np.linspace(0, 3, 300)
    train = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)  # every row is closer than all before
    assert nearest(train, train[-1:], 5)[1].tolist() == [[299, 298, 297, 296, 295]]


@pytest.mark.usefixtures("way")
def test_nearest__rows_without_a_direction_resemble_none() -> None:
    train = np.array([[0, 0], [np.nan, 1], [-1, 0], [1, 0]], np.float32)
    values, rows = nearest(train, np.array([[1, 0], [np.inf, 0]], np.float32), 4)
    assert rows.tolist() == [[3, 0, 1, 2], [0, 1, 2, 3]]
    assert values.tolist() == [[1, 0, 0, -1], [0, 0, 0, 0]]


@pytest.mark.usefixtures("way")
def test_nearest__of_no_queries() -> None:
    values, rows = nearest(np.ones((5, 2), np.float32), np.ones((0, 2), np.float32), 2)
    assert values.shape == rows.shape == (0, 2)


def test_nearest__both_ways_agree_on_random_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    train, test = (rng.normal(size=(count, 24)).astype(np.float32) for count in (9000, 50))
    values, rows = nearest(train, test, 200)
    monkeypatch.setattr(neighbours, "kernels", lambda: None)
    other, places = nearest(torch.from_numpy(train), torch.from_numpy(test), 200)
    torch.testing.assert_close(values, other, atol=1e-6, rtol=0)
    assert (rows == places).float().mean() > 0.99  # products of other shapes round otherwise


def test_nearest__several_threads_share_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    train, test = quarters(rng, 500), quarters(rng, 70)
    one = nearest(train, test, 9)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(nearest(train, test, 9)[1], one[1])


def test_nearest__of_a_read_only_memory_map(tmp_path: Path) -> None:
    rows = quarters(np.random.default_rng(0), 60)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert torch.equal(nearest(mapped, mapped, 3)[1], nearest(rows, rows, 3)[1])


def test_nearest__leaves_the_precision_of_products_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        nearest(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 1)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
