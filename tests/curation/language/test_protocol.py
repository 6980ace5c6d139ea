"""What requests say and answers mean."""

import json
import math
from email.utils import formatdate
from typing import Any

import pytest

from curation.language import Answer, LanguageModel, Request
from curation.language.protocol import LONGEST_TEXT, Dialect, read_answer, read_retry_after

ASKED = Request("Is it?", seed=7, history=(("user", "a"), ("assistant", "b")), choices=("Yes", "No"))


def body(content: Any = "pizza", finish: str = "stop", tokens: list | None = None) -> bytes:
    choice = {"message": {"content": content}, "finish_reason": finish}
    if tokens is not None:
        choice["logprobs"] = {"content": tokens}
    return json.dumps({"choices": [choice]}).encode()


def test_dialect__says_all_that_decides() -> None:
    model = LanguageModel("m", endpoint="http://x", system="Be brief.", temperature=0.5, top_p=0.9, max_tokens=64)
    assert Dialect(model).body(ASKED) == {
        "model": "m", "temperature": 0.5, "top_p": 0.9, "max_tokens": 64, "seed": 7, "logprobs": True,
        "top_logprobs": 20,
        "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}, {"role": "user", "content": "Is it?"},
        ],
    }  # fmt: skip


def test_dialect__changes_once_for_each_word_of_the_server() -> None:
    dialect = Dialect(LanguageModel("m", endpoint="http://x"))
    first = dialect.body(ASKED)
    assert not dialect.adapt(b"prompt too long", first)
    assert dialect.adapt(b"use 'max_completion_tokens' instead", first)
    assert dialect.adapt(b"logprobs is not supported", dialect.body(ASKED))
    sent = dialect.body(ASKED)
    assert not dialect.adapt(b"logprobs is not supported, max_completion_tokens", sent)
    assert sent["max_completion_tokens"] == 1024 and "max_tokens" not in sent and "logprobs" not in sent


@pytest.mark.parametrize(
    ("content", "finish", "expected"),
    [
        (" pizza\n", "stop", Answer("pizza", "stop")),
        ("pizz", "length", Answer("pizz", "length")),
        (None, "stop", Answer("", "stop")),
        ([{"type": "text", "text": "piz"}, {"type": "text", "text": "za"}, 3], "stop", Answer("pizza", "stop")),
        ("half \ud83c", "stop", Answer("half ?", "stop")),
    ],
)
def test_read_answer__forms(content: Any, finish: str, expected: Answer) -> None:
    assert read_answer(body(content, finish), Request("a")) == expected


def test_read_answer__a_filter_is_a_failure() -> None:
    answer = read_answer(body("", "content_filter"), Request("a"))
    assert isinstance(answer, Answer) and answer.finish == "failed" and "content filter" in str(answer.error)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{}]}', b"[" * 100_000])
def test_read_answer__what_is_none(raw: bytes) -> None:
    assert "what is no answer" in str(read_answer(raw, Request("a")))


def test_read_answer__is_cut_at_a_size_in_bytes() -> None:
    answer = read_answer(body("寿" * 100_000), Request("a"))
    assert isinstance(answer, Answer) and answer.finish == "length"
    assert len(answer.text.encode()) == LONGEST_TEXT // 3 * 3 and set(answer.text) == {"寿"}


def token(word: str, **shares: float) -> dict:
    return {"token": word, "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in shares.items()]}


def test_read_answer__probability_of_the_first_choice() -> None:
    tokens = [token("\n", x=0.9), token("Yes", **{"Yes": 0.5, " yes": 0.1, "No": 0.15, "Maybe": 0.2})]
    answer = read_answer(body("Yes", tokens=tokens), ASKED)
    assert isinstance(answer, Answer) and answer.probability == pytest.approx(0.8)


@pytest.mark.parametrize("tokens", [None, [], [token("Maybe", Maybe=0.9)], [{"token": "Yes"}], [{"token": None}], [{}]])
def test_read_answer__no_probability_without_log_probabilities(tokens: list | None) -> None:
    assert read_answer(body("Yes", tokens=tokens), ASKED) == Answer("Yes", "stop", None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 0), ("2", 2), ("1.5", 1.5), ("-3", 0), ("soon", 0), ("nan", 0), ("1e9", 600), (formatdate(0), 0)],
)
def test_read_retry_after__numbers(value: str | None, seconds: float) -> None:
    assert read_retry_after(value) == seconds


def test_read_retry_after__date() -> None:
    import time

    assert 28 <= read_retry_after(formatdate(time.time() + 30)) <= 30
