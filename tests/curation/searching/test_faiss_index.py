from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from curation.searching import faiss_index
from curation.searching.faiss_index import (
    Approximate,
    Plan,
    build_index,
    compare,
    find_neighbours,
    plan_index,
    recall_of,
)
from curation.searching.neighbours import top_k

GB = 10**9


def clustered(rows: int, width: int = 32, seed: int = 0) -> np.ndarray:
    """Vectors around 50 centres, as images of the web are around subjects."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((50, width))
    vectors = centres[rng.integers(0, 50, rows)] + 0.7 * rng.standard_normal((rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def in_blocks(pool: np.ndarray) -> Callable[[], Iterable[np.ndarray]]:
    def blocks() -> Iterator[np.ndarray]:
        yield from np.array_split(pool.astype(np.float16), 7)

    return blocks


@pytest.mark.parametrize(
    "rows, k, budget, factory",
    [
        (10_000_000, 10, 64, "IVF6324,SQfp16"), (10_000_000, 10, 8, "HNSW32_PQ384"),
        (10_000_000, 10, 4, "HNSW32_PQ96"), (10_000_000, 10, 2.5, "IVF6324,PQ192"),
        (10_000_000, 500, 4, "IVF6324,PQ384"), (100_000_000, 10, 16, "IVF20000,PQ96"),
    ],
)  # fmt: skip
def test_plan_index__the_best_that_fits(rows: int, k: int, budget: float, factory: str) -> None:
    plan = plan_index(rows, 768, budget * GB, k)
    assert plan.factory == factory and plan.size <= budget * GB


def test_plan_index__tells_the_least_budget() -> None:
    with pytest.raises(ValueError, match="takes at least 0.34 GB, not 0.1"):
        plan_index(10_000_000, 768, 0.1 * GB, 500)


@pytest.mark.parametrize("number", [0, 2, 6], ids=["IVF-Flat", "HNSW-PQ", "IVF-PQ"])
def test_plan_index__the_file_is_as_large_as_planned(tmp_path: Path, number: int) -> None:
    plan = faiss_index._plans(3000, 64, 10)[number]
    build_index(plan, in_blocks(clustered(3000, 64)), 3000, 64, tmp_path)
    assert next(tmp_path.glob("*.faiss")).stat().st_size == pytest.approx(plan.size, rel=0.1)


@pytest.mark.parametrize("gigabytes, kind", [(1.0, "SQfp16"), (0.001, "HNSW32_PQ64"), (0.0006, ",PQ64")])
def test_find_neighbours__the_recall_that_is_asked_for(tmp_path: Path, gigabytes: float, kind: str) -> None:
    pool, queries = clustered(2000, 256).astype(np.float16), clustered(40, 256, seed=1)
    settings = Approximate(exact_below=1000, index_gb=gigabytes, recall=0.9, sample=20)
    (similarities, rows), report = find_neighbours(queries, in_blocks(pool), 2000, 10, settings, tmp_path, "key")
    exact = top_k(queries, [pool], 10)
    assert kind in report["index"] and report["recall"] >= 0.9
    assert recall_of(rows, exact[1]) >= 0.85
    norms = np.linalg.norm(pool.astype(np.float32), axis=1)
    products = (pool.astype(np.float32) @ queries.T / norms[:, None]).T
    np.testing.assert_allclose(similarities, np.take_along_axis(products, rows, axis=1), atol=1e-5)


def test_find_neighbours__few_rows_are_searched_exactly(tmp_path: Path) -> None:
    pool, queries = clustered(300), clustered(5, seed=1)
    (_, rows), report = find_neighbours(queries, in_blocks(pool), 300, 10, Approximate(), tmp_path, "key")
    np.testing.assert_array_equal(rows, top_k(queries, in_blocks(pool)(), 10)[1])
    assert report == {"index": None} and not list(tmp_path.iterdir())


def test_find_neighbours__rows_without_direction_keep_their_numbers(tmp_path: Path) -> None:
    pool = clustered(3000)
    pool[[0, 700, 701]] = [[0.0], [np.nan], [0.0]]
    settings = Approximate(exact_below=1, recall=1.0)
    (_, rows), _ = find_neighbours(pool[[5, 2000]], in_blocks(pool), 3000, 3, settings, tmp_path, "key")
    assert rows[:, 0].tolist() == [5, 2000] and not np.isin(rows, [0, 700, 701]).any()


def test_find_neighbours__names_the_key_where_nothing_fits(tmp_path: Path) -> None:
    settings = Approximate(exact_below=1, index_gb=1e-6)
    with pytest.raises(ValueError, match="curation.retrieve.approximate.index_gb is 1e-06: an index of 3000 x 32"):
        find_neighbours(
            clustered(2), in_blocks(clustered(3000)), 3000, 3, settings, tmp_path, "curation.retrieve.approximate"
        )


def test_build_index__is_made_once_and_trains_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, plan = clustered(2000), Plan("IVF20,SQfp16", 20, 0)
    write = faiss_index._write

    def stopped(index: object, path: Path) -> None:
        if path.suffix == ".faiss":
            raise KeyboardInterrupt
        write(index, path)

    monkeypatch.setattr(faiss_index, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_index(plan, in_blocks(pool), 2000, 32, tmp_path)
    monkeypatch.setattr(faiss_index, "_write", write)
    monkeypatch.setattr(faiss_index, "_sample", None)  # would be called to train
    first = build_index(plan, in_blocks(pool), 2000, 32, tmp_path)

    def no_blocks() -> Iterable[np.ndarray]:
        raise AssertionError("the pool is read again")

    again = build_index(plan, no_blocks, 2000, 32, tmp_path)
    np.testing.assert_array_equal(first.propose(pool[:5], 4), again.propose(pool[:5], 4))
    assert not list(tmp_path.glob("*.trained"))


def test_compare__the_best_of_the_proposals_only() -> None:
    pool, queries = clustered(100), clustered(2, seed=1)
    proposed = np.array([[50, 3, 99, -1], [7, 7, -1, -1]])[:, [0, 1, 2, 3]]
    proposed[1, 1] = 8
    similarities, rows = compare(queries, in_blocks(pool), proposed, 3)
    expected = (pool.astype(np.float16).astype(np.float32) @ queries.T).T
    assert rows[0].tolist() == [50, 3, 99][:0] + sorted([50, 3, 99], key=lambda row: -expected[0, row])
    assert rows[1, 2] == -1 and np.isneginf(similarities[1, 2])


def test_approximate__wrong_settings_name_the_key() -> None:
    with pytest.raises(ValueError, match=r"retrieve.approximate.recall must be in \(0, 1\], got 2"):
        Approximate(recall=2).check("curation.retrieve.approximate")
