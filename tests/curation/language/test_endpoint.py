"""Asking an endpoint, over real HTTP, when it is well and when it is not."""

import time
from collections import Counter
from pathlib import Path

import pytest

from curation.language import Answer, LanguageModel, Request, ask, pacing
from curation.session import Session
from tests.conftest import free_port
from tests.curation.language.server import LanguageServer, Reply, Script

KEY = "curation.captions.model"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FIRST_PAUSE_S", 0.01)


def ask_all(server: LanguageServer, folder: Path, prompts: list[str], **settings: object) -> list[Answer]:
    model = LanguageModel(**{"model": "tiny", "endpoint": server.url, "retries": 3, "timeout_s": 5.0, **settings})  # type: ignore[arg-type]
    session = Session(accelerator="cpu", devices=1)
    return ask(model, [Request(prompt) for prompt in prompts], folder=folder, session=session, key=KEY, title="test")


def first_then(count: int, first: Reply, then: str = "fine") -> Script:
    """A script that gives `first` to the first `count` requests of each prompt."""
    seen: Counter[str] = Counter()

    def script(messages: list[dict]) -> Reply:
        seen[messages[-1]["content"]] += 1
        return first if seen[messages[-1]["content"]] <= count else Reply(then)

    return script


def test_endpoint__keeps_exactly_so_many_in_flight(tmp_path: Path) -> None:
    with LanguageServer(lambda messages: messages[-1]["content"].upper(), latency_s=0.02) as server:
        prompts = [f"prompt {number}" for number in range(60)]
        answers = ask_all(server, tmp_path, prompts, concurrency=7)
    assert [answer.text for answer in answers] == [prompt.upper() for prompt in prompts]
    assert server.most_in_flight == 7 and len(server.requests) == 60


@pytest.mark.parametrize(
    "trouble",
    [Reply(status=500), Reply(status=429), Reply(status=503), Reply(drop=True), Reply(raw=b"<html>"), Reply(hang_s=9)],
    ids=["500", "429", "503", "dropped", "no-json", "time-out"],
)
def test_endpoint__asks_again_after_trouble_that_passes(tmp_path: Path, trouble: Reply) -> None:
    with LanguageServer(first_then(2, trouble)) as server:
        answers = ask_all(server, tmp_path, ["a", "b"], timeout_s=0.3)
    assert answers == [Answer("fine", "stop")] * 2
    assert Counter(server.prompts) == {"a": 3, "b": 3}


def test_endpoint__waits_as_long_as_the_server_says(tmp_path: Path) -> None:
    with LanguageServer(first_then(1, Reply(status=429, headers={"Retry-After": "1"}))) as server:
        began = time.monotonic()
        ask_all(server, tmp_path, ["a", "b", "c"], concurrency=3)
    assert 1.0 <= time.monotonic() - began < 3.0 and len(server.prompts) == 6


def test_endpoint__a_limit_of_the_rate_is_no_failure(tmp_path: Path) -> None:
    times: list[float] = []

    def one_each_10_ms(messages: list[dict]) -> Reply:
        with server.lock:
            if times and time.monotonic() - times[-1] < 0.01:
                return Reply(status=429)
            times.append(time.monotonic())
        return Reply("fine")

    with LanguageServer(one_each_10_ms) as server:
        answers = ask_all(server, tmp_path, [str(number) for number in range(40)], concurrency=16, retries=2)
    assert answers == [Answer("fine", "stop")] * 40


@pytest.mark.parametrize("status", [400, 413, 422])
def test_endpoint__one_refused_prompt_is_a_failed_answer(tmp_path: Path, status: int) -> None:
    def script(messages: list[dict]) -> Reply:
        return Reply("context too long", status=status) if messages[-1]["content"] == "b" else Reply("fine")

    with LanguageServer(script) as server:
        answers = ask_all(server, tmp_path, ["a", "b", "c"])
    assert [answer.finish for answer in answers] == ["stop", "failed", "stop"]
    assert answers[1].error == f"HTTP {status}: context too long" and len(server.requests) == 3


def test_endpoint__one_prompt_that_breaks_the_server_is_a_failed_answer(tmp_path: Path) -> None:
    with LanguageServer(lambda messages: Reply(status=500) if messages[-1]["content"] == "b" else "fine") as server:
        answers = ask_all(server, tmp_path, ["a", "b"], retries=1)
        assert ask_all(server, tmp_path, ["b"], retries=1)[0].finish == "failed"
    assert [answer.finish for answer in answers] == ["stop", "failed"]
    assert Counter(server.prompts) == {"a": 1, "b": 4}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_endpoint__an_unknown_parameter_is_left_out(tmp_path: Path, concurrency: int) -> None:
    def script(messages: list[dict], body: dict) -> Reply:
        if "max_tokens" in body:
            return Reply("Unsupported parameter: use 'max_completion_tokens' instead.", status=400)
        return Reply("fine")

    prompts = [f"prompt {number}" for number in range(16)]
    with LanguageServer(script, latency_s=0.05) as server:
        assert ask_all(server, tmp_path, prompts, concurrency=concurrency) == [Answer("fine", "stop")] * 16
    assert len(server.requests) == 16 + concurrency  # those in flight at first are sent twice


@pytest.mark.parametrize("secret", [None, "sk-wrong-7Qx"])
def test_endpoint__the_wrong_key_ends_the_run_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str | None
) -> None:
    monkeypatch.delenv("PAS_TEST_KEY", raising=False)
    if secret:
        monkeypatch.setenv("PAS_TEST_KEY", secret)
    with LanguageServer(lambda messages: "fine", api_key="sk-right") as server:
        with pytest.raises(PermissionError) as caught:
            ask_all(server, tmp_path, ["a", "b"], api_key_variable="PAS_TEST_KEY")
        said = str(caught.value)
        assert KEY in said and "HTTP 401" in said and "PAS_TEST_KEY" in said
        assert ("holds no key that it takes" if secret else "is not set") in said and "7Qx" not in said
        monkeypatch.setenv("PAS_TEST_KEY", "sk-right")
        assert ask_all(server, tmp_path, ["a"], api_key_variable="PAS_TEST_KEY") == [Answer("fine", "stop")]
    assert not any("sk-" in path.read_text() for path in tmp_path.iterdir())


def test_endpoint__an_unknown_model_ends_the_run(tmp_path: Path) -> None:
    with LanguageServer(lambda messages: "fine") as server:
        with pytest.raises(ValueError, match=rf"{KEY}\.model is 'huge', but .*: The model `huge` does not exist"):
            ask_all(server, tmp_path, ["a"], model="huge")


def test_endpoint__a_dead_one_is_said_after_the_retries(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    model = LanguageModel("tiny", endpoint=url, retries=2)
    session = Session(accelerator="cpu", devices=1)
    with pytest.raises(ConnectionError, match=rf"{KEY}\.endpoint {url} does not answer \(.*, 3 times\); start the ser"):
        ask(model, [Request("a")], folder=tmp_path, session=session, key=KEY, title="test")


def test_endpoint__one_that_dies_keeps_what_it_answered(tmp_path: Path) -> None:
    prompts = [f"prompt {number}" for number in range(12)]

    def die_after_8(messages: list[dict]) -> Reply:
        if len(server.requests) > 8:
            server.http.socket.close()  # takes no more connections
            return Reply(drop=True)
        return Reply("fine")

    with LanguageServer(die_after_8) as server:
        with pytest.raises(ConnectionError, match="does not answer"):
            ask_all(server, tmp_path, prompts, concurrency=2, retries=1)
    with LanguageServer(lambda messages: "fine") as server:
        assert ask_all(server, tmp_path, prompts) == [Answer("fine", "stop")] * 12
    assert 4 <= len(server.requests) <= 5


def test_endpoint__refusing_everything_ends_the_run(tmp_path: Path) -> None:
    with LanguageServer(lambda messages: Reply("unknown field seed", status=400)) as server:
        with pytest.raises(ConnectionError, match="failed 64 requests one after the other, .* unknown field seed"):
            ask_all(server, tmp_path, [f"prompt {number}" for number in range(500)], concurrency=4)
    assert len(server.requests) < 80


def test_endpoint__long_and_foreign_answers_come_whole(tmp_path: Path) -> None:
    texts = {"long": "1. pizza, " * 1000, "script": "1. 寿司\n2. борщ\n3. 🍕", "huge": "x" * 3_000_000}
    with LanguageServer(lambda messages: texts[messages[-1]["content"]]) as server:
        long, script, huge = ask_all(server, tmp_path, list(texts))
    assert long == Answer(texts["long"].strip(), "stop") and script == Answer(texts["script"], "stop")
    assert huge == Answer("x" * 200_000, "length")


def test_endpoint__cut_off_and_probability(tmp_path: Path) -> None:
    with LanguageServer(lambda messages: Reply("Yes", finish="length", probability=0.75)) as server:
        model = LanguageModel("tiny", endpoint=server.url)
        requests = [Request("a"), Request("a", choices=("yes", "no"))]
        session = Session(accelerator="cpu", devices=1)
        plain, chosen = ask(model, requests, folder=tmp_path, session=session, key=KEY, title="test")
    assert plain == Answer("Yes", "length") and chosen.probability == pytest.approx(0.75)
