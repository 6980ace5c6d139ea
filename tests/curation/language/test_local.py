"""A real small model in Lightning's prediction loop."""

import os
import signal
import time
from pathlib import Path

import pytest

from curation.language import Answer, LanguageModel, Request, ask, release
from curation.session import Session
from tests.curation.language.tiny_lm import build_tiny_lm

KEY = "curation.concepts.discover.generator"
TAUGHT = {"Name foods.": "1. pizza\n2. sushi\n3. salad", "Is pizza food?": "Yes", "Is a car food?": "No"}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_lm(tmp_path_factory.mktemp("taught"), TAUGHT)


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_lm(tmp_path_factory.mktemp("wild"))


@pytest.fixture(autouse=True)
def forget() -> None:
    release()


def answers_of(
    model: Path, folder: Path, requests: list[Request], session: Session | None = None, **settings: object
) -> list[Answer]:
    options = {"max_tokens": 40, "dtype": "float32", "batch_size": 2, **settings}
    language = LanguageModel(str(model), **options)  # type: ignore[arg-type]
    session = session or Session(accelerator="cpu", devices=1)
    return ask(language, requests, folder=folder, session=session, key=KEY, title="test")


def many(count: int) -> list[Request]:
    return [Request("word " * (number % 5 + 1) + str(number), seed=number) for number in range(count)]


def test_local__answers_what_it_was_taught(taught: Path, tmp_path: Path) -> None:
    answers = answers_of(taught, tmp_path, [Request(prompt) for prompt in TAUGHT], temperature=0.0)
    assert answers == [Answer(text, "stop") for text in TAUGHT.values()]


def test_local__probability_of_yes_against_no(taught: Path, tmp_path: Path) -> None:
    requests = [Request(prompt, choices=("yes", "no")) for prompt in list(TAUGHT)[1:]]
    yes, no = answers_of(taught, tmp_path, requests, temperature=0.0, max_tokens=1)
    assert yes.probability is not None and no.probability is not None
    assert yes.probability > 0.95 and no.probability < 0.05
    assert yes.text == "Y" and yes.finish == "length"


def test_local__a_system_message_is_part_of_the_conversation(taught: Path, tmp_path: Path) -> None:
    request = [Request("Name foods.")]
    with_system = answers_of(taught, tmp_path, request, temperature=0.0, system="Name foods. " * 5)
    assert with_system != answers_of(taught, tmp_path, request, temperature=0.0)


def test_local__a_row_depends_neither_on_its_batch_nor_on_its_company(wild: Path, tmp_path: Path) -> None:
    requests = many(6)
    whole = answers_of(wild, tmp_path / "whole", requests, batch_size=6, top_p=0.9)
    alone = [answers_of(wild, tmp_path / "alone", [request], batch_size=1, top_p=0.9)[0] for request in requests]
    assert whole == alone and len({answer.text for answer in whole}) == 6


def test_local__another_seed_is_another_answer(wild: Path, tmp_path: Path) -> None:
    first, second = answers_of(wild, tmp_path, [Request("a", seed=1), Request("a", seed=2)])
    assert first.text != second.text
    assert answers_of(wild, tmp_path / "again", [Request("a", seed=2)]) == [second]


def test_local__a_prompt_beyond_the_context_is_a_failed_answer(taught: Path, tmp_path: Path) -> None:
    requests = [Request("x" * 600), Request("Is pizza food?"), Request("y" * 600)]
    for _ in range(2):  # also when asked again, in a batch with nothing to do
        long, fine, other = answers_of(taught, tmp_path, requests, temperature=0.0)
        assert fine == Answer("Yes", "stop") and other.finish == "failed"
        assert long.error == f"the prompt's 603 tokens and {KEY}.max_tokens 40 exceed the model's context of 512"


def test_local__two_ranks_answer_what_one_answers(wild: Path, tmp_path: Path, two_ranks) -> None:
    requests = many(9)
    one = answers_of(wild, tmp_path / "one", requests)

    def work(rank: int) -> None:
        session = Session(accelerator="cpu")
        session.start()
        assert answers_of(wild, tmp_path / "two", requests, session) == one

    two_ranks(work)
    files = sorted((tmp_path / "two").glob("answers-*.jsonl"))
    assert [len(path.read_text().splitlines()) for path in files] == [5, 4]  # batches 0, 2 and 4, and 1 and 3
    files[1].write_text("".join(files[1].read_text().splitlines(keepends=True)[:3]))  # as a kill may leave it
    assert answers_of(wild, tmp_path / "two", requests) == one
    assert len(files[0].read_text().splitlines()) == 5 + 2  # batch 3, whole


def test_local__a_kill_changes_nothing(wild: Path, tmp_path: Path) -> None:
    requests = many(20)
    whole = answers_of(wild, tmp_path / "whole", requests, max_tokens=25)
    file = tmp_path / "killed" / "answers-0.jsonl"
    child = os.fork()
    if child == 0:
        answers_of(wild, tmp_path / "killed", requests, max_tokens=25)
        os._exit(1)
    while not file.exists() or file.read_bytes().count(b"\n") < 6:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    before = file.read_bytes()
    assert 6 <= before.count(b"\n") < 20
    assert answers_of(wild, tmp_path / "killed", requests, max_tokens=25) == whole
    after = file.read_bytes()
    assert after.startswith(before) and after.count(b"\n") <= 20 + 1  # nothing asked twice; half a line may stay


def test_local__one_model_over_many_processes_is_refused(wild: Path, tmp_path: Path, two_ranks) -> None:
    def work(rank: int) -> None:
        session = Session(accelerator="cpu")
        session.start()
        with pytest.raises(ValueError, match=rf"{KEY}\.device_map is 'auto', .* this run has 2 processes"):
            answers_of(wild, tmp_path, many(2), session, device_map="auto")

    two_ranks(work)


def test_local__a_device_map_keeps_the_weights_where_it_says(taught: Path, tmp_path: Path) -> None:
    answers = answers_of(taught, tmp_path, [Request("Name foods.")], temperature=0.0, device_map="cpu")
    assert answers == [Answer(TAUGHT["Name foods."], "stop")]


def test_local__bfloat16_is_the_weights_own_precision(taught: Path, tmp_path: Path) -> None:
    answers = answers_of(taught, tmp_path, [Request("Name foods.")], temperature=0.0, dtype="bfloat16")
    assert answers == [Answer(TAUGHT["Name foods."], "stop")]
