"""Pareto fronts of three scores beside moocore, in CPU seconds of the same run; `pytest -m benchmark -s` shows figures.

moocore (extra `bench`) is the fastest library that we know; pymoo from 0.6.2 on calls it for every method name.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pytest

from curation.pareto import pareto_fronts

pytest.importorskip("curation.pareto_kernels", reason="numba is not installed: the fronts are made in plain Python")
pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]


def correlated(rng: np.random.Generator, count: int) -> np.ndarray:
    """Scores that share a factor, as the three of an image do: correlation 0.8."""
    return np.sqrt(0.8) * rng.standard_normal((count, 1)) + np.sqrt(0.2) * rng.standard_normal((count, 3))


def uniform(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.random((count, 3))


def opposed(rng: np.random.Generator, count: int) -> np.ndarray:
    """One front: no row exceeds another, and every row is a stair in random order."""
    plane = rng.random((count, 2))
    return np.column_stack([plane, 2 - plane.sum(axis=1)])


def rising(rng: np.random.Generator, count: int) -> np.ndarray:
    """One front whose second score rises while the third falls: every stair comes after all others."""
    steps = np.sort(rng.random(count))
    return np.column_stack([-np.arange(count), -steps, steps])


def falling(rng: np.random.Generator, count: int) -> np.ndarray:
    """The same the other way round: every stair comes before all others."""
    return rising(rng, count) * [1, -1, -1]


def cpu_seconds(work: Callable[[], Any], times: int = 1) -> float:
    seconds = []
    for _ in range(times):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return median(seconds)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    for dtype in (np.float32, np.float64):
        pareto_fronts(np.eye(3, dtype=dtype))


@pytest.mark.parametrize("make", [uniform, correlated])
@pytest.mark.parametrize(("count", "bound", "times"), [(100_000, 3.0, 5), (1_000_000, 6.0, 1)])
def test_pareto_fronts__times_as_fast_as_moocore(
    make: Callable[..., Any], count: int, bound: float, times: int
) -> None:
    moocore = pytest.importorskip("moocore", reason="moocore is not installed (extra `bench`): nothing is compared")
    scores = make(np.random.default_rng(0), count)
    losses = np.ascontiguousarray(-scores)
    np.testing.assert_array_equal(pareto_fronts(scores[:20_000]), moocore.pareto_rank(losses[:20_000]))
    ours = cpu_seconds(lambda: pareto_fronts(scores), max(3, times))
    peer = cpu_seconds(lambda: moocore.pareto_rank(losses), times)
    print(f"\n{count} rows, {make.__name__}: {ours:.3f} s, moocore {peer:.3f} s: {peer / ours:.1f} times as fast")
    assert peer / ours >= bound


@pytest.mark.parametrize("make", [uniform, correlated, opposed, rising, falling])
def test_pareto_fronts__four_million_rows_within_six_times_a_million(make: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    seconds = {}
    for count in (1_000_000, 4_000_000):
        scores = make(rng, count)
        seconds[count] = cpu_seconds(lambda scores=scores: pareto_fronts(scores), 3)
    one, four = seconds.values()
    print(f"\n{make.__name__}: 1e6 rows {one:.2f} s, 4e6 rows {four:.2f} s: {four / one:.1f} times")
    assert four <= 6 * one


def test_pareto_fronts__stops_early_where_few_rows_go() -> None:
    scores = correlated(np.random.default_rng(0), 1_000_000)
    every = cpu_seconds(lambda: pareto_fronts(scores), 3)
    print(f"\n1e6 rows, all fronts {every:.3f} s")
    for share in (0.5, 0.1, 0.01):
        few = cpu_seconds(lambda share=share: pareto_fronts(scores, enough=int(share * len(scores))), 3)
        print(f"the first {share:.0%}: {few:.3f} s, {few / every:.2f} of it")
    assert few < 0.6 * every
