from pathlib import Path

import numpy as np
import pytest

import curation.similar_pairs as similar_pairs
from curation import approximate_pairs
from curation.duplicate_graph import find_groups, read_groups, run_tasks, task_file
from curation.duplicates import NoDirection, duplicate_groups
from curation.embeddings import Embeddings
from curation.searching.faiss_index import Approximate
from curation.session import Session

SESSION = Session(accelerator="cpu")


def rows(count: int = 400, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float16)


@pytest.mark.parametrize("k", [None, 5])
def test_find_groups__as_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int | None) -> None:
    monkeypatch.setattr(similar_pairs, "BLOCK_ROWS", 50)
    monkeypatch.setattr(similar_pairs, "BLOCK_BYTES", 1)
    vectors = Embeddings([rows()[:90], rows()[90:]])
    groups, how = find_groups(SESSION, tmp_path, vectors, 0.95, k, Approximate(), "duplicates")
    np.testing.assert_array_equal(groups, duplicate_groups(vectors, 0.95, k))
    assert 1 < len(set(groups.tolist())) < 390 and how == {}
    assert len(list(tmp_path.iterdir())) == (36 if k is None else 1)


def test_find_groups__a_row_without_direction(tmp_path: Path) -> None:
    damaged = rows()
    damaged[33, 2] = np.inf
    with pytest.raises(NoDirection) as caught:
        find_groups(SESSION, tmp_path, Embeddings([damaged]), 0.9, None, Approximate(), "duplicates")
    assert caught.value.row == 33 and not list(tmp_path.iterdir())


def test_find_groups__too_little_memory_for_an_index_is_named(tmp_path: Path) -> None:
    settings = Approximate(exact_below=10, index_gb=1e-9)
    with pytest.raises(ValueError, match=r"curation.duplicates.approximate.index_gb is 1e-09: .* at least"):
        find_groups(SESSION, tmp_path, Embeddings([rows()]), 0.9, None, settings, "duplicates")


def test_find_groups__an_exact_search_takes_over_nothing_of_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximate_pairs, "QUERIES", 8)
    vectors = Embeddings([rows()])
    find_groups(SESSION, tmp_path, vectors, 0.95, None, Approximate(exact_below=10), "duplicates")
    # As on a machine with a GPU, where what a CPU had begun goes on: the search is exact for any number.
    groups, how = find_groups(SESSION, tmp_path, vectors, 0.95, None, Approximate(), "duplicates")
    assert how == {}
    np.testing.assert_array_equal(groups, duplicate_groups(vectors, 0.95))


def test_run_tasks__only_what_is_missing(tmp_path: Path) -> None:
    done: list[int] = []

    def work(number: int) -> np.ndarray:
        done.append(number)
        return np.array([[number, number + 1]])

    def before() -> None:
        done.append(-1)

    run_tasks(SESSION, tmp_path, 3, work, "x", before)
    assert done == [-1, 0, 1, 2] and read_groups(tmp_path, 3, 6).tolist() == [0, 0, 0, 0, 4, 5]
    task_file(tmp_path, 1).unlink()
    run_tasks(SESSION, tmp_path, 3, work, "x", before)
    run_tasks(SESSION, tmp_path, 3, work, "x", before)
    assert done == [-1, 0, 1, 2, -1, 1]


def test_run_tasks__rows_beyond_four_billion(tmp_path: Path) -> None:
    run_tasks(SESSION, tmp_path, 1, lambda number: np.array([[3, 2**33]]), "x", lambda: None)
    assert np.load(task_file(tmp_path, 0)).tolist() == [[3, 2**33]]
