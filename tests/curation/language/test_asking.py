"""What `ask` asks, and what it does not ask again."""

import os
import signal
import time
from collections import Counter
from pathlib import Path

from curation.language import Answer, LanguageModel, Request, ask, failures
from curation.session import Session
from tests.curation.language.server import LanguageServer

KEY = "curation.concepts.discover.generator"


def shout(messages: list[dict]) -> str:
    return messages[-1]["content"].upper()


def answers_of(
    server: LanguageServer, folder: Path, requests: list[Request], session: Session | None = None,
    **settings: object,
) -> list[Answer]:  # fmt: skip
    model = LanguageModel("tiny", endpoint=server.url, **{"concurrency": 4, **settings})  # type: ignore[arg-type]
    session = session or Session(accelerator="cpu", devices=1)
    return ask(model, requests, folder=folder, session=session, key=KEY, title="test")


def test_ask__equal_requests_once_and_in_order(tmp_path: Path) -> None:
    requests = [Request("a"), Request("b"), Request("a"), Request("a", seed=1)]
    with LanguageServer(shout) as server:
        assert [answer.text for answer in answers_of(server, tmp_path, requests)] == ["A", "B", "A", "A"]
    assert sorted(server.prompts) == ["a", "a", "b"]


def test_ask__only_what_is_missing(tmp_path: Path) -> None:
    with LanguageServer(shout) as server:
        answers_of(server, tmp_path, [Request("a"), Request("b")])
    with LanguageServer(shout) as server:  # another port: the same model
        answers = answers_of(server, tmp_path, [Request("c"), Request("b"), Request("a")])
        assert answers == [Answer("C", "stop"), Answer("B", "stop"), Answer("A", "stop")]
        assert server.prompts == ["c"]
        answers_of(server, tmp_path, [Request("a")], temperature=0.2)
    assert server.prompts == ["c", "a"]


def test_ask__nothing_asks_nobody(tmp_path: Path) -> None:
    with LanguageServer(shout) as server:
        assert answers_of(server, tmp_path, []) == []
    assert server.prompts == []


def test_ask__the_conversation_is_sent_in_order(tmp_path: Path) -> None:
    history = (("user", "Name foods."), ("assistant", '1. "Shepherd\'s" / pie'))
    with LanguageServer(shout) as server:
        answers_of(server, tmp_path, [Request("More?", history=history)], system="Be brief.")
    (body,) = server.requests
    assert [(turn["role"], turn["content"]) for turn in body["messages"]] == [
        ("system", "Be brief."), *history, ("user", "More?"),
    ]  # fmt: skip


def test_ask__after_a_kill_asks_what_was_in_flight(tmp_path: Path) -> None:
    requests = [Request(f"prompt {number}") for number in range(60)]
    with LanguageServer(shout, latency_s=0.03) as server:
        child = os.fork()
        if child == 0:
            answers_of(server, tmp_path, requests)
            os._exit(1)
        while len(server.requests) < 25:
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        time.sleep(0.05)
        answers = answers_of(server, tmp_path, requests)
        assert answers == [Answer(request.prompt.upper(), "stop") for request in requests]
        asked = Counter(server.prompts)
        assert len(asked) == 60 and sum(asked.values()) <= 64  # four were in flight
        answers_of(server, tmp_path, requests)
        assert sum(asked.values()) == len(server.requests)


def test_ask__two_ranks_get_what_one_asked(tmp_path: Path, two_ranks) -> None:
    requests = [Request(f"prompt {number}") for number in range(9)]
    with LanguageServer(shout) as server:

        def work(rank: int) -> None:
            session = Session(accelerator="cpu")
            session.start()
            answers = answers_of(server, tmp_path, requests, session)
            assert [answer.text for answer in answers] == [request.prompt.upper() for request in requests]

        two_ranks(work)
        assert len(server.requests) == 9


def test_failures__are_counted_by_reason() -> None:
    failed = [Answer("", "failed", error=error) for error in ("HTTP 400: long", "HTTP 500: x", "HTTP 400: long")]
    assert failures([*failed, Answer("a", "stop")]) == "3 of 4 answers failed: HTTP 400: long (2); HTTP 500: x (1)"
    assert failures([Answer("a", "stop")]) == ""
