"""The concepts stage: given lists, a scripted model behind a real endpoint, a person's edits, kills."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation.concepts.names import merge_key
from curation.concepts.prompts import Prompts
from curation.concepts.settings import Discover
from curation.language import LanguageModel
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.concepts import Concepts
from curation.workspace import Workspace
from tests.curation.concepts.food_model import KEYS, OUTSIDERS, FoodModel
from tests.curation.language.server import LanguageServer, Reply
from tests.curation.language.tiny_lm import build_tiny_lm


def context_of(root: Path, stage: Concepts, **options: Any) -> Context:
    settings = {"domain": "food", "description": "dishes", **options}
    return Context(Workspace(root), Session(accelerator="cpu"), pool=None, stages={"concepts": stage}, **settings)


def run(root: Path, stage: Concepts, **options: Any) -> Context:
    context = context_of(root, stage, **options)
    stage.check(context)
    run_stage(stage, context)
    return context


@pytest.fixture
def server() -> Iterator[LanguageServer]:
    with LanguageServer(FoodModel(terms=40, per_draw=15)) as server:
        yield server


def discover(server: LanguageServer, **changes: Any) -> Concepts:
    model = LanguageModel("tiny", endpoint=server.url)
    settings = {"checker": model, "only_new": True, "per_expansion": 10, **changes}
    return Concepts(discover=Discover(model, **settings))


def test_concepts__given_ones_need_no_model(tmp_path: Path) -> None:
    context = run(tmp_path, Concepts(words=["Apple", "bun", "apple"]))
    stage = context.stages["concepts"]
    assert isinstance(stage, Concepts)
    assert stage.bank(context) == ["Apple", "bun"] and stage.general_bank(context) == ["food", "dishes"]
    assert sorted(path.name for path in (tmp_path / "concepts").iterdir()) == [
        "bank.csv", "bank.parquet", "stage.json", "written.json",
    ]  # fmt: skip


def test_concepts__blanks_around_a_word_are_none_of_it(tmp_path: Path) -> None:
    stage = Concepts(words=["fried  egg", " Fried egg", "bun "], general=["a  b"])
    context = run(tmp_path, stage)
    run(tmp_path, stage)  # reads the table that it wrote
    assert stage.bank(context) == ["fried egg", "bun"] and stage.general_bank(context) == ["a b"]
    with pytest.raises(ValueError, match=r"curation\.concepts\.words holds an empty entry"):
        Concepts(words=["bun", " "]).given()
    with pytest.raises(ValueError, match=r"curation\.concepts\.general holds an empty entry"):
        Concepts(words=["bun"], general=[""]).check(context)


def test_concepts__a_model_of_400_terms_gives_them_all_and_no_outsider(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LanguageServer(FoodModel()) as server:
        stage = discover(server)
        context = run(tmp_path, stage)
        asked = len(server.requests)
        run(tmp_path, stage)
        assert len(server.requests) == asked
    assert {merge_key(concept) for concept in stage.bank(context)} == KEYS
    assert stage.general_bank(context) == ["food", "dishes", "meal", "ingredient"]
    bank = pq.read_table(tmp_path / "concepts" / "bank.parquet").to_pylist()
    refused = {row["concept"].casefold().rstrip("s") for row in bank if not row["valid"]}
    assert refused == {name.casefold() for name in OUTSIDERS}
    origins = {row["origin"] for row in bank}
    assert origins == {"generated", "expanded", "given", "wider"}
    assert all(row["parent"] for row in bank if row["origin"] == "expanded")
    result = context.workspace.stage_record("concepts")["result"]
    assert result["generation_stopped_by"] == result["expansion_stopped_by"] == "growth"
    said = capsys.readouterr().out
    assert "warning: curation.concepts.discover.checker is the generator, tiny" in said
    assert f"{len(KEYS)} concepts, 4 general; {result['draws']} draws (ended by growth)" in said
    assert asked == result["calls"] + len(bank) - 4 and "finished before" in said


def test_concepts__changed_settings_ask_only_what_is_new(tmp_path: Path, server: LanguageServer) -> None:
    run(tmp_path, discover(server, max_rounds=1))
    asked = len(server.requests)
    run(tmp_path, discover(server, max_rounds=2))
    second = server.prompts[asked:]
    assert second and not set(second) & set(server.prompts[:asked])
    asked = len(server.requests)
    context = run(tmp_path, discover(server, max_rounds=1))
    assert len(server.requests) == asked
    assert len(context.workspace.stage_record("concepts")["result"]["sizes"]) == 2


def test_concepts__an_edited_table_is_the_bank_and_asks_nobody(
    tmp_path: Path, server: LanguageServer, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = discover(server, max_rounds=1)
    before = stage.bank(run(tmp_path, stage))
    asked = len(server.requests)
    path = tmp_path / "concepts" / "bank.csv"
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    path.write_text("\n".join([*lines[:3], "paella,,,,,,,,,"]), encoding="utf-8-sig")
    dead = Concepts(discover=Discover(LanguageModel("tiny", endpoint="http://127.0.0.1:9/v1"), max_rounds=1))
    context = run(tmp_path, dead)  # not even whether the model is there
    assert stage.bank(context) == [*before[:2], "paella"]
    assert stage.general_bank(context) == ["food", "dishes"]
    assert "takes" in (said := capsys.readouterr().out) and "3 concepts, 2 general, from the edited bank.csv" in said
    run(tmp_path, dead)
    assert "finished before" in capsys.readouterr().out
    path.unlink()
    context = run(tmp_path, stage)
    assert stage.bank(context) == before and path.exists() and len(server.requests) == asked


def test_concepts__a_deleted_table_is_written_again(tmp_path: Path) -> None:
    run(tmp_path, Concepts(words=["apple"]))
    (tmp_path / "concepts" / "bank.csv").unlink()
    run(tmp_path, Concepts(words=["apple"]))
    assert (tmp_path / "concepts" / "bank.csv").exists()


def test_concepts__a_broken_table_is_named_before_any_work(tmp_path: Path) -> None:
    stage = Concepts(words=["apple"])
    run(tmp_path, stage)
    (tmp_path / "concepts" / "bank.csv").write_text("concept,valid\napple,perhaps\n")
    with pytest.raises(ValueError, match=r"bank\.csv, line 2: valid is 'perhaps'.*or delete the file"):
        run(tmp_path, stage)
    (tmp_path / "concepts" / "bank.csv").write_text("concept,valid\napple,no\n")
    with pytest.raises(ValueError, match=r"bank\.csv has no valid concept; add some, or delete the file"):
        run(tmp_path, stage)


def test_concepts__given_ones_stay_whatever_the_checker_says(tmp_path: Path, server: LanguageServer) -> None:
    model = LanguageModel("tiny", endpoint=server.url)
    odd = ['AC/DC "burger" \\ {x}', "寿司セット", "Bicycle"]
    stage = Concepts(words=odd, general=["things"], discover=Discover(model, checker=model, max_rounds=1))
    context = run(tmp_path, stage)
    assert stage.bank(context)[:3] == odd and stage.general_bank(context) == ["things"]
    assert not any("wider categories" in prompt for prompt in server.prompts)
    assert any('similar to "AC/DC "burger" \\ {x}"' in prompt for prompt in server.prompts)


def test_concepts__rude_answers_are_counted_and_kept(tmp_path: Path) -> None:
    def script(messages: list[dict[str, str]], body: dict[str, Any]) -> str | Reply:
        prompt = messages[-1]["content"]
        if "Yes or No" in prompt:
            return "Hm. " + "Who knows? " * 1000 if "ramen" in prompt else "yes"
        if "wider" in prompt:
            return Reply("no \ud83d", status=400)
        if "ramen" in prompt:
            return Reply("1. udon\n2. somen\n3. sob", finish="length")
        if "similar" in prompt:
            return '["https://food.example/\\ud83d"]'
        return "1. ramen\n2. 寿司\n3. " + "very " * 2000 + "long\n4. https://food.example"

    with LanguageServer(script) as server:
        stage = discover(server, max_rounds=1)
        context = run(tmp_path, stage)
    assert stage.bank(context) == ["寿司", "udon", "somen"]
    lines = (tmp_path / "concepts" / "unparsed.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert max(map(len, lines)) < 5000
    assert {line["role"] for line in kept} == {"generator", "expander", "checker"}
    result = context.workspace.stage_record("concepts")["result"]
    assert (result["failed"], result["without_items"], result["unparsed"]) == (1, 1, len(kept))
    assert kept[0]["error"] and kept[0]["finish"] == "failed"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("I cannot help with that.", r"no answer held a list.*generator said 'I cannot help with that\.'.*generate"),
        ("1. Linux kernel", r"the checker refused all 1 .*'Linux kernel' \(the checker says no\).*prompts\.check"),
    ],
)
def test_concepts__an_empty_bank_says_what_the_models_answered(tmp_path: Path, answer: str, message: str) -> None:
    script = FoodModel()

    def only(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        return script(messages, body) if "Yes or No" in messages[-1]["content"] else answer

    with LanguageServer(only) as server, pytest.raises(ValueError, match=message):
        run(tmp_path, discover(server))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"growth_expand": 1.5}, r"curation\.concepts\.discover\.growth_expand is 1\.5; use a share"),
        ({"max_draws": 1}, r"discover\.max_draws is 1; use a number from 2 up"),
        ({"history": "all"}, r"discover\.history is 'all'; use draws, list or none"),
        ({"check_by": "logits"}, r"discover\.check_by is 'logits'; use answer or probability"),
        ({"checker": LanguageModel("other", endpoint="http://127.0.0.1:9/v1")}, r"concepts\.discover\.checker"),
    ],
)
def test_check__wrong_settings_are_named(tmp_path: Path, server: LanguageServer, changes: Any, message: str) -> None:
    stage = discover(server, **changes)
    with pytest.raises((ValueError, OSError), match=message):
        stage.check(context_of(tmp_path, stage))


def test_check__the_prompts_need_a_description(tmp_path: Path, server: LanguageServer) -> None:
    stage = discover(server)
    with pytest.raises(ValueError, match=r"curation\.description is empty.*such as 'bird species'"):
        stage.check(context_of(tmp_path, stage, description=""))


def test_concepts__speed_and_address_of_a_model_change_nothing(
    tmp_path: Path, server: LanguageServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, discover(server, max_rounds=0))
    capsys.readouterr()
    with LanguageServer(FoodModel(terms=40, per_draw=15)) as other:
        model = LanguageModel("tiny", endpoint=other.url, concurrency=2, api_key_variable="OTHER")
        settings: dict[str, Any] = {"checker": model, "only_new": True, "per_expansion": 10, "max_rounds": 0}
        run(tmp_path, Concepts(discover=Discover(model, **settings)))
    assert "finished before" in capsys.readouterr().out and not other.requests


def test_concepts__killed_and_run_again_asks_nothing_twice(tmp_path: Path) -> None:
    concurrency = 4
    with LanguageServer(FoodModel(terms=80, per_draw=30), latency_s=0.005) as server:
        model = LanguageModel("tiny", endpoint=server.url, concurrency=concurrency)
        stage = Concepts(discover=Discover(model, checker=model, only_new=True, max_rounds=1))
        kills = 0
        for wait_for in (4, 30, 110):
            child = os.fork()
            if child == 0:
                run(tmp_path / "ws", stage)
                os._exit(0)
            while len(server.requests) < wait_for and os.waitpid(child, os.WNOHANG) == (0, 0):
                time.sleep(0.005)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        context = run(tmp_path / "ws", stage)
        bodies = [json.dumps(body, sort_keys=True) for body in server.requests]
        repeated = len(bodies) - len(set(bodies))
        assert repeated <= kills * concurrency
        whole = run(tmp_path / "other", stage)
    assert stage.bank(context) == stage.bank(whole)
    for name in ("concepts/bank.csv", "concepts/bank.parquet"):
        assert (tmp_path / "ws" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_concepts__two_ranks_make_the_same_bank(tmp_path: Path, server: LanguageServer, two_ranks: Any) -> None:
    stage = discover(server, max_rounds=1)

    def work(rank: int) -> None:
        context = context_of(tmp_path / "two", stage)
        context.session.start()
        run_stage(stage, context)

    two_ranks(work)
    asked = len(server.requests)
    run(tmp_path / "one", stage)
    assert len(server.requests) == 2 * asked
    name = "concepts/bank.parquet"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_concepts__a_real_small_model_finds_and_weighs_them(tmp_path: Path) -> None:
    answers = {
        "List food": "1. pie\n2. rock\n3. bun",
        "Is pie food?": "Yes",
        "Is rock food?": "No",
        "Is bun food?": "Yes",
    }
    folder = build_tiny_lm(tmp_path / "lm", answers, steps=200)
    model = LanguageModel(str(folder), max_tokens=24, temperature=0.2, dtype="float32")
    stage = Concepts(
        discover=Discover(model, checker=model, max_rounds=0, check_by="probability", wider=False),
        prompts=Prompts(generate="List {domain}", check="Is {concept} {domain}?"),
    )
    context = run(tmp_path / "ws", stage)
    assert stage.bank(context) == ["pie", "bun"]
    probabilities = {entry.concept: entry.probability for entry in stage.files(context).entries() if not entry.general}
    assert probabilities["pie"] > 0.9 and probabilities["rock"] < 0.1  # type: ignore[operator]
