from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.language import pacing
from curation.searching import answers
from curation.searching.answers import search_service
from curation.searching.service import Service
from curation.session import Session
from tests.curation.searching.sources import KnnServer, unit

SESSION = Session(accelerator="cpu")
WORDS = ["a", "bb", "ccc", "dddd", "eeeee"]


def embed(text: str) -> np.ndarray:
    return unit(1, seed=len(text))[0]


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "QUERIES_PER_FILE", 2)
    monkeypatch.setattr(pacing, "FIRST_PAUSE_S", 0.01)


def search(
    server: KnnServer, words: list[str], folder: Path, k: int = 4
) -> tuple[dict[str, list[int]], dict[int, str]]:
    """word -> the rows that answer it, most similar first; and what failed."""
    hits, rows, failed = search_service(
        SESSION, Service(server.url, deduplicate=False, retries=0).check(), words, k, folder
    )
    assert set(hits["row"].to_pylist()) == set(rows["row"].to_pylist())
    found: dict[str, list[int]] = {}
    for hit in hits.to_pylist():
        found.setdefault(words[hit["query"]], []).append(hit["row"])
    return found, failed


def test_search_service__later_queries_are_all_that_is_asked(tmp_path: Path) -> None:
    with KnnServer(unit(50), embed) as server:
        first, _ = search(server, WORDS[:3], tmp_path)
        both, _ = search(server, [WORDS[4], *WORDS[:2], WORDS[3]], tmp_path)
    assert sorted(body["text"] for body in server.requests) == WORDS
    assert both.keys() == {"a", "bb", "dddd", "eeeee"} and both["a"] == first["a"]
    for word, rows in both.items():
        assert rows == np.argsort(-server.vectors @ embed(word))[:4].tolist()


def test_search_service__other_settings_are_other_questions(tmp_path: Path) -> None:
    with KnnServer(unit(50), embed) as server:
        search(server, WORDS[:1], tmp_path, k=4)
        found, _ = search(server, WORDS[:1], tmp_path, k=6)
    assert len(server.requests) == 2 and len(found["a"]) == 6


def test_search_service__what_failed_is_asked_again(tmp_path: Path) -> None:
    broken = {"bb"}

    def script(body: dict[str, Any], number: int) -> int | None:
        return 500 if body["text"] in broken else None

    with KnnServer(unit(50), embed, script=script) as server:
        found, failed = search(server, WORDS[:3], tmp_path)
        assert found.keys() == {"a", "ccc"} and failed.keys() == {1} and "HTTP 500" in failed[1]
        broken.clear()
        found, failed = search(server, WORDS[:3], tmp_path)
    assert found.keys() == {"a", "bb", "ccc"} and not failed and len(server.requests) == 4


def test_search_service__two_concepts_of_one_query(tmp_path: Path) -> None:
    with KnnServer(unit(50), embed) as server:
        hits, _, _ = search_service(SESSION, Service(server.url).check(), ["a", "a"], 4, tmp_path)
        assert set(hits["query"].to_pylist()) == {0, 1}


def test_search_service__files_that_a_kill_left_with_gaps_are_not_overwritten(tmp_path: Path) -> None:
    with KnnServer(unit(50), embed) as server:
        search(server, WORDS[:4], tmp_path)
        (tmp_path / "answers-00000.parquet").unlink()  # its queries took longer than those of the next file
        found, failed = search(server, WORDS[:4], tmp_path)
        assert found.keys() == set(WORDS[:4]) and not failed
        search(server, WORDS[:4], tmp_path)
    assert len(server.requests) == 6
