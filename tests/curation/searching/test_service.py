"""The client of a clip-retrieval service, against a local one with bad days."""

import json
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.language import pacing
from curation.searching import service as module
from curation.searching.service import ANSWER, Service, ask_service, read_answer
from tests.curation.searching.sources import KnnServer, unit


def embed(text: str) -> np.ndarray:
    return unit(1, seed=len(text))[0]


def ask(service: Service, queries: list[str], k: int = 5) -> dict[int, pa.Table | str]:
    answers: dict[int, pa.Table | str] = {}
    ask_service(service.check(), iter(enumerate(queries)), k, answers.__setitem__)
    return answers


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FIRST_PAUSE_S", 0.01)


def test_ask_service__keeps_the_configured_number_in_flight() -> None:
    with KnnServer(unit(50), embed, latency_s=0.1) as server:
        answers = ask(Service(server.url, concurrency=8), ["x" * n for n in range(1, 41)])
    assert len(answers) == 40 and server.most_in_flight == 8


@pytest.mark.parametrize("status", [429, 500, 503])
def test_ask_service__tries_again_what_waiting_may_change(status: int) -> None:
    def script(body: dict[str, Any], number: int) -> int | None:
        return status if number % 2 else None

    with KnnServer(unit(50), embed, script=script) as server:
        answers = ask(Service(server.url, concurrency=1), ["a", "bb"])
    assert len(server.requests) == 4 and len(answers) == 2
    assert all(isinstance(answer, pa.Table) and answer.num_rows for answer in answers.values())


def test_ask_service__another_4xx_ends_the_run_at_once() -> None:
    with (
        KnnServer(unit(50), embed, script=lambda body, number: 400) as server,
        pytest.raises(ValueError, match=r"curation.search.service.url .* refuses \(HTTP 400: .*a bad day"),
    ):
        ask(Service(server.url, concurrency=1), ["a", "bb"])
    assert len(server.requests) == 1


def test_ask_service__one_query_that_always_fails_is_told_and_the_others_go_on() -> None:
    def script(body: dict[str, Any], number: int) -> int | None:
        return 500 if body["text"] == "bb" else None

    with KnnServer(unit(50), embed, script=script) as server:
        answers = ask(Service(server.url, retries=1), ["a", "bb", "ccc"])
    assert str(answers[1]).startswith("HTTP 500") and isinstance(answers[0], pa.Table) and len(answers) == 3


def test_ask_service__all_failing_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_A_ROW", 3)
    with (
        KnnServer(unit(50), embed, script=lambda body, number: b"<html>") as server,
        pytest.raises(ConnectionError, match="failed 3 queries one after the other, the last with HTTP 200 with what"),
    ):
        ask(Service(server.url, retries=0, concurrency=1), list("abcdef"))


def test_ask_service__a_service_that_is_gone() -> None:
    with KnnServer(unit(50), embed) as server:
        service = Service(server.url, retries=1).check()
    with pytest.raises(ConnectionError, match=r"service.url http://127.0.0.1:\d+ does not answer .* 2 times"):
        ask_service(service, iter([(0, "a")]), 5, lambda number, answer: None)


def test_ask_service__a_slow_answer_is_a_failure() -> None:
    def script(body: dict[str, Any], number: int) -> None:
        time.sleep(0.5 if number == 1 else 0)

    with KnnServer(unit(50), embed, script=script) as server:
        answers = ask(Service(server.url, timeout_s=0.2), ["a"])
    assert isinstance(answers[0], pa.Table) and len(server.requests) == 2


def test_check__a_wrong_index_and_what_is_no_service() -> None:
    with KnnServer(unit(5), embed) as server:
        assert Service(server.url).check().indice_name == "laion5B"
        with pytest.raises(
            ValueError, match="indice_name is 'laion400m', but http://.* has laion5B; name one of these"
        ):
            Service(server.url, "laion400m").check()
        with pytest.raises(ConnectionError, match=r"/nowhere/indices-list gives no list of indexes \(HTTP 404\)"):
            Service(server.url.replace("knn-service", "nowhere")).check()


def test_read_answer__lenient_with_entries_strict_with_the_whole() -> None:
    entries = [
        {"id": 3, "similarity": 0.5, "url": "http://a", "caption": "ü\ud800", "LICENSE": "CC0", "image": "x" * 100},
        {"id": "4", "similarity": "0.25", "url": None}, {"id": 5}, "no entry", {"id": None, "similarity": 1},
        {"id": 2**63, "similarity": 1}, {"id": 1e999, "similarity": 1}, {"id": 6, "similarity": float("nan")},
    ]  # fmt: skip
    table = read_answer(json.dumps(entries).encode())
    assert isinstance(table, pa.Table) and table.schema == ANSWER
    assert table["row"].to_pylist() == [3, 4] and table["url"].to_pylist() == ["http://a", None]
    assert table["licence"].to_pylist() == ["CC0", None] and table["caption"].to_pylist() == ["ü?", None]
    assert isinstance(read_answer(b'{"message": "no"}'), str) and isinstance(read_answer(b"["), str)
