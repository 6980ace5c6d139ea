"""The store of answers: what a kill and a full disk leave."""

import json
from pathlib import Path

import pytest

from curation.language import Answer, LanguageModel, Request
from curation.language.answers import AnswerStore, AnswerWriter, Naming, to_answer

MODEL = LanguageModel("tiny", endpoint="http://localhost:1/v1")
ANSWER = Answer("1. pizza", "stop")


def naming(model: LanguageModel = MODEL) -> Naming:
    return Naming(model, model.identity())


def store(folder: Path) -> AnswerStore:
    opened = AnswerStore(folder)
    opened.refresh()
    return opened


def write(folder: Path, *requests: Request, rank: int = 0) -> list[str]:
    with AnswerWriter(folder, rank) as writer:
        writer.append([naming().record(request, ANSWER, 0.5) for request in requests])
    return [naming().id(request) for request in requests]


@pytest.mark.parametrize(
    "other",
    [Request("b"), Request("a", seed=1), Request("a", history=(("user", "x"),)), Request("a", choices=("yes", "no"))],
)
def test_naming__all_of_a_request_decides(other: Request) -> None:
    assert naming().id(other) != naming().id(Request("a"))


@pytest.mark.parametrize("setting", [{"temperature": 0.5}, {"top_p": 0.9}, {"max_tokens": 9}, {"system": "Be brief."}])
def test_naming__parameters_decide(setting: dict) -> None:
    other = LanguageModel("tiny", endpoint=MODEL.endpoint, **setting)
    assert naming(other).id(Request("a")) != naming().id(Request("a"))


@pytest.mark.parametrize("setting", [{"endpoint": "http://node7:9/v1"}, {"concurrency": 1}, {"temperature": 1}])
def test_naming__where_and_how_fast_do_not(setting: dict) -> None:
    other = LanguageModel(**{"model": "tiny", "endpoint": MODEL.endpoint, **setting})
    assert naming(other).id(Request("a")) == naming().id(Request("a"))


def test_store__holds_all_that_an_answer_came_from(tmp_path: Path) -> None:
    request = Request('a "quoted" / slashed ümlaut 寿司\n', seed=3, choices=("yes", "no"))
    (name,) = write(tmp_path, request)
    record = store(tmp_path).read([name])[name]
    expected = {"text": "1. pizza", "finish": "stop", "prompt": request.prompt, "seed": 3, "choices": ["yes", "no"]}
    expected |= {"model": "tiny", "endpoint": MODEL.endpoint, "parameters": MODEL.parameters(), "seconds": 0.5}
    assert {key: record[key] for key in expected} == expected
    assert to_answer(record) == ANSWER


def test_store__finds_what_every_rank_wrote_and_what_is_new(tmp_path: Path) -> None:
    names = write(tmp_path, Request("a")) + write(tmp_path, Request("b"), rank=1)
    opened = store(tmp_path)
    names += write(tmp_path, Request("c"))
    assert [opened.has(name) for name in names] == [True, True, False]
    opened.refresh()
    assert set(opened.read([*names, "unknown"])) == set(names)


@pytest.mark.parametrize("lost", [1, 60])
def test_store__a_torn_line_is_lost_alone(tmp_path: Path, lost: int) -> None:
    names = write(tmp_path, Request("a")) + write(tmp_path, Request("b"))
    path = tmp_path / "answers-0.jsonl"
    path.write_bytes(path.read_bytes()[: -lost - 1])
    names += write(tmp_path, Request("c"))
    assert [store(tmp_path).has(name) for name in names] == [True, False, True]


def test_store__a_torn_batch_is_lost_whole(tmp_path: Path) -> None:
    whole = write(tmp_path, Request("a"), Request("b"))
    torn = write(tmp_path, Request("c"), Request("d"), Request("e"))
    path = tmp_path / "answers-0.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    later = write(tmp_path, Request("f"), Request("g"), Request("h"))
    assert [store(tmp_path).has(name) for name in whole + torn + later] == [True] * 2 + [False] * 3 + [True] * 3


def test_store__is_read_anew_after_its_files_went(tmp_path: Path) -> None:
    (name,) = write(tmp_path, Request("a"))
    opened = store(tmp_path)
    (tmp_path / "answers-0.jsonl").unlink()
    opened.refresh()
    assert not opened.has(name)
    write(tmp_path, Request("a"))
    opened.refresh()
    assert opened.has(name)


def test_store__a_later_answer_replaces_a_failed_one(tmp_path: Path) -> None:
    request, failed = Request("a"), Answer("", "failed", error="HTTP 500")
    with AnswerWriter(tmp_path) as writer:
        writer.append([naming().record(request, failed, 0.1)])
        name = naming().id(request)
        assert not store(tmp_path).has(name) and to_answer(store(tmp_path).read([name])[name]) == failed
        writer.append([naming().record(request, ANSWER, 0.1)])
    assert store(tmp_path).has(name) and to_answer(store(tmp_path).read([name])[name]) == ANSWER


def test_store__a_history_stands_once(tmp_path: Path) -> None:
    history = (("user", "Name foods."), ("assistant", "pizza " * 1000))
    requests = [Request(word, history=history) for word in "abc"]
    store(tmp_path).add_histories(naming(), requests)
    store(tmp_path).add_histories(naming(), requests)
    write(tmp_path, *requests)
    (line,) = (tmp_path / "histories-0.jsonl").read_text().splitlines()
    assert json.loads(line)["turns"] == [list(turn) for turn in history]
    answers = [json.loads(line) for line in (tmp_path / "answers-0.jsonl").read_text().splitlines()]
    assert {answer["history"] for answer in answers} == {json.loads(line)["id"]}
    assert "pizza pizza" not in (tmp_path / "answers-0.jsonl").read_text()


def test_writer__a_full_disk_is_said_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "answers-0.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device: make room and run again") as caught:
        write(tmp_path, Request("a"))
    assert caught.value.filename == str(tmp_path / "answers-0.jsonl")
