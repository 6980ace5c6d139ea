"""Fronts by the compiled sweep, its twin and comparison of all pairs, against peeling by the definition."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import curation.pareto
from curation.pareto import EVERY, lexicographic_order, pareto_fronts, sweep


@pytest.fixture(params=["compiled", "python"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = pytest.importorskip("curation.pareto_kernels") if request.param == "compiled" else curation.pareto
    monkeypatch.setattr(curation.pareto, "_fastest_sweep", lambda: kernels.sweep)


def peel(scores: np.ndarray) -> np.ndarray:
    """Fronts by the definition: what nothing left dominates goes, again and again."""
    at_least = (scores[:, None] >= scores[None]).all(axis=2)
    dominates = at_least & (scores[:, None] > scores[None]).any(axis=2)
    fronts = np.full(len(scores), -1, np.int32)
    front = 0
    while (left := fronts < 0).any():
        fronts[left & ~dominates[left].any(axis=0)] = front
        front += 1
    return fronts


MAKERS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "uniform": lambda rng, width: rng.random((200, width)),
    "float32": lambda rng, width: rng.random((200, width)).astype(np.float32),
    "ties": lambda rng, width: rng.integers(0, 4, (200, width)).astype(float),
    "integers": lambda rng, width: rng.integers(-9, 9, (200, width)),
    "last_mostly_zero": lambda rng, width: (
        rng.normal(size=(200, width)) * ((np.arange(width) < width - 1) | (rng.random((200, 1)) < 0.2))
    ),
    "one_chain": lambda rng, width: rng.permutation(200)[:, None] + np.zeros(width),
    "opposed": lambda rng, width: rng.random((200, 1)) * np.where(np.arange(width) % 2, -1, 1),
    "infinite": lambda rng, width: rng.choice([-np.inf, 0.0, -0.0, 1.0, np.inf], (200, width)),
    "equal": lambda rng, width: np.full((200, width), 0.5),
}  # fmt: skip


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("name", MAKERS)
def test_pareto_fronts__definition(twin: None, name: str, width: int) -> None:
    scores = MAKERS[name](np.random.default_rng(width), width)
    fronts = pareto_fronts(scores)
    assert fronts.dtype == np.int32
    np.testing.assert_array_equal(fronts, peel(scores))


@pytest.mark.parametrize("seed", range(300))
def test_pareto_fronts__random_cases_of_three_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(1 if seed < 10 else int(rng.integers(2, 60)), 3)).round(int(rng.integers(0, 3)))
    scores[:, rng.random(3) < 0.2] = rng.choice([0.0, 0.5])  # constant columns
    scores = scores.astype(rng.choice(["f4", "f8"]))
    np.testing.assert_array_equal(pareto_fronts(scores), peel(scores))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("max_rank", [1, 3, 1000])
def test_pareto_fronts__max_rank_gathers_the_later_fronts(twin: None, max_rank: int, width: int) -> None:
    scores = np.random.default_rng(0).integers(0, 20, (300, width)).astype(float)
    np.testing.assert_array_equal(pareto_fronts(scores, max_rank), np.minimum(pareto_fronts(scores), max_rank))


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("enough", [1, 7, 50, 150, 299, 300, 301])
def test_pareto_fronts__enough_stops_before_the_first_front_that_is_not_needed(
    twin: None, enough: int, width: int
) -> None:
    scores = np.random.default_rng(width).integers(0, 20, (300, width)).astype(float)
    every = pareto_fronts(scores)
    last = next((front for front in range(every.max() + 1) if (every < front).sum() >= enough), every.max())
    np.testing.assert_array_equal(pareto_fronts(scores, enough=enough), np.minimum(every, last))
    np.testing.assert_array_equal(pareto_fronts(scores, 2, enough), np.minimum(every, min(last, 2)))


def test_pareto_fronts__direction_and_equal_rows(twin: None) -> None:
    scores = np.array([[0.1, 0.1, 0.0], [0.9, 0.2, 0.0], [0.9, 0.2, 0.0], [0.2, 0.9, 0.0], [0.9, 0.1, 0.0]])
    assert pareto_fronts(scores).tolist() == [2, 0, 0, 0, 1]


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (0, 5), (1, 1)])
def test_pareto_fronts__none_and_one_row(twin: None, shape: tuple[int, int]) -> None:
    assert pareto_fronts(np.zeros(shape)).tolist() == [0] * shape[0]


def test_pareto_fronts__order_of_rows_does_not_matter(twin: None) -> None:
    rng = np.random.default_rng(0)
    scores, order = rng.integers(0, 6, (300, 3)).astype(float), rng.permutation(300)
    np.testing.assert_array_equal(pareto_fronts(scores[order]), pareto_fronts(scores)[order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pareto_fronts__tensor_in_tensor_out(dtype: torch.dtype) -> None:
    fronts = pareto_fronts(torch.tensor([[0.5, 0.5, 0.5], [0.25, 0.5, 0.5]], dtype=dtype))
    assert isinstance(fronts, torch.Tensor) and fronts.dtype == torch.int32
    assert fronts.tolist() == [0, 1]


def test_pareto_fronts__wrong_input_is_named() -> None:
    scores = np.zeros((5, 3))
    scores[[2, 4], 1] = np.nan
    with pytest.raises(ValueError, match="NaN in 2 rows, first row 2"):
        pareto_fronts(scores)
    for shape in [(5,), (5, 0), (5, 3, 1)]:
        with pytest.raises(ValueError, match=r"must be \[N, M\] with M >= 1"):
            pareto_fronts(np.zeros(shape))
    with pytest.raises(ValueError, match="max_rank must be at least 1.*got 0"):
        pareto_fronts(np.zeros((5, 3)), max_rank=0)
    with pytest.raises(ValueError, match="enough must be at least 1.*got 0"):
        pareto_fronts(np.zeros((5, 3)), enough=0)
    for count in (1, 400):
        with pytest.raises(ValueError, match=f"NaN in {count} rows, first row 0"):
            pareto_fronts(np.full((count, 3), np.nan))


def long_staircases(count: int = 20_000) -> np.ndarray:
    """Scores of few fronts whose last two scores hardly ever exceed each other, so that stairs stay."""
    rng = np.random.default_rng(0)
    scores = rng.random((count, 3)).round(4)  # with ties
    scores[:, 2] = -scores[:, 1] - 1e-4 * rng.integers(0, 3, count)
    return scores


@pytest.mark.parametrize(("limit", "enough"), [(EVERY, EVERY), (5, EVERY), (EVERY, 9000)])
def test_sweep__twins_agree_on_long_staircases(limit: int, enough: int) -> None:
    kernels = pytest.importorskip("curation.pareto_kernels")
    columns = -long_staircases().T
    columns = columns[:, lexicographic_order(*columns)]
    ranks = sweep(*columns, limit, enough)
    assert np.bincount(ranks).max() > 2 * kernels.LIVE
    np.testing.assert_array_equal(kernels.sweep(*columns, limit, enough), ranks)


@pytest.mark.parametrize("direction", [1, -1])
def test_sweep__one_front_of_many_settled_levels(direction: int) -> None:
    kernels = pytest.importorskip("curation.pareto_kernels")
    count = 2 * kernels.LIVE * kernels.RATIO  # one front, every row a stair; then each of them once more, worse
    rising = direction * np.arange(count, dtype=float)
    columns = np.concatenate([[rising * direction, rising, -rising], [rising * direction + count, rising, -rising]], 1)
    expected = np.repeat([0, 1], count)
    np.testing.assert_array_equal(kernels.sweep(*columns, EVERY, EVERY), expected)


def test_sweep__twins_agree_on_many_fronts() -> None:
    kernels = pytest.importorskip("curation.pareto_kernels")
    columns = np.sort(np.random.default_rng(0).random(3000))[:, None] + 1e-3 * np.random.default_rng(1).random(
        (3000, 3)
    )
    columns = columns.T[:, lexicographic_order(*columns.T)]
    ranks = sweep(*columns, EVERY, EVERY)
    assert ranks.max() > 1024  # the table of blocks grows
    np.testing.assert_array_equal(kernels.sweep(*columns, EVERY, EVERY), ranks)
    np.testing.assert_array_equal(
        kernels.sweep(*columns, EVERY, 2000), np.minimum(ranks, sweep(*columns, EVERY, 2000).max())
    )


def test_lexicographic_order__sorts_as_lexsort() -> None:
    columns = np.random.default_rng(0).integers(0, 5, (3, 400)).astype(float)
    np.testing.assert_array_equal(
        columns[:, lexicographic_order(*columns)], columns[:, np.lexsort((columns[2], columns[1], columns[0]))]
    )
    assert lexicographic_order(*np.empty((3, 0))).tolist() == []
