"""The captions stage with a scripted model behind a real endpoint."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation.concepts.captioning import clip_tokens
from curation.language import LanguageModel
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.captions import Captions
from curation.stages.concepts import Concepts
from curation.workspace import Workspace
from tests.curation.concepts.food_model import TERMS, FoodModel
from tests.curation.language.server import LanguageServer, Reply

Rows = list[dict[str, Any]]


def run(root: Path, words: list[str], captions: Captions) -> Context:
    stages = {"concepts": Concepts(words=words), "captions": captions}
    context = Context(Workspace(root), Session(accelerator="cpu"), "food", "dishes", None, stages=stages)
    for stage in stages.values():
        stage.check(context)
        run_stage(stage, context)
    return context


def rows(root: Path) -> Rows:
    return pq.read_table(root / "captions" / "captions.parquet").to_pylist()


def settings(server: LanguageServer, **changes: Any) -> Captions:
    return Captions(LanguageModel("tiny", endpoint=server.url), **changes)


def test_captions__every_concept_named_and_none_repeated(tmp_path: Path) -> None:
    words = [*TERMS[:12], 'AC/DC "burger" \\ {x}']
    with LanguageServer(FoodModel()) as server:
        run(tmp_path, words, settings(server, per_concept=3))
        asked = len(server.requests)
        run(tmp_path, words, settings(server, per_concept=3))
        assert len(server.requests) == asked
    made = rows(tmp_path)
    assert [(row["concept"], row["number"]) for row in made] == [(word, n) for word in words for n in range(3)]
    assert all(row["valid"] and row["caption"].startswith(f"A photo of {row['concept']} on") for row in made)
    assert len({row["caption"] for row in made}) == len(made)
    assert asked == sum(row["attempts"] for row in made) > len(made)  # 15 captions are known: some came twice


def test_captions__added_concepts_leave_the_others_as_they_were(tmp_path: Path) -> None:
    with LanguageServer(FoodModel()) as server:
        run(tmp_path, TERMS[:5], settings(server))
        before, asked = rows(tmp_path), len(server.requests)
        run(tmp_path, [TERMS[9], *TERMS[:5]], settings(server))
        after = rows(tmp_path)
        assert after[5:] == before and len(server.requests) == asked + sum(row["attempts"] for row in after[:5])


def test_captions__of_no_use_are_asked_again_and_then_told(tmp_path: Path) -> None:
    def script(messages: list[dict[str, str]], body: dict[str, Any]) -> str | Reply:
        prompt = messages[-1]["content"]
        if '"sushi"' in prompt:
            return "木のテーブルの上の寿司の写真。"  # in another script
        if '"ramen"' in prompt:
            return "Ramen " + "noodles in broth " * 600
        if '"udon"' in prompt:
            return Reply("too long", status=400)
        if '"soba"' in prompt:
            return "Soba in the evening light."
        return f"Tofu number {body['seed']} on a plate. It is {'very ' * 90}white."

    words = ["sushi", "ramen", "udon", "soba", "tofu"]
    with LanguageServer(script) as server:
        context = run(tmp_path, words, settings(server, per_concept=2, retries=1))
    made = {(row["concept"], row["number"]): row for row in rows(tmp_path)}
    reasons = {key: (row["reason"] or "").split(":")[0] for key, row in made.items()}
    assert reasons["sushi", 0] == "does not name the concept" and reasons["ramen", 1] == "too long"
    assert reasons["udon", 0] == "no answer" and "400" in made["udon", 0]["reason"]
    assert reasons["soba", 0] == "" and reasons["soba", 1] == "repeated"
    assert made["tofu", 0]["valid"] and made["tofu", 0]["caption"].endswith("on a plate.")
    assert all(clip_tokens(row["caption"]) <= 77 for row in made.values() if row["valid"])
    assert made["sushi", 0]["attempts"] == 2 and len(made["ramen", 0]["caption"]) == 2000
    record = context.workspace.stage_record("captions")
    assert record["summary"].startswith("3 captions of 2 concepts; of no use: 2 ")
    assert record["result"]["concepts_without"] == 3


def test_captions__none_of_use_is_an_error(tmp_path: Path) -> None:
    with LanguageServer(lambda messages: "I'm sorry, I cannot help with that.") as server:
        with pytest.raises(
            ValueError, match=r"curation\.captions: none of 10 .*'apple', a refusal: .*captions\.prompt"
        ):
            run(tmp_path, ["apple", "bun"], settings(server, retries=0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_concept": 0}, r"curation\.captions\.per_concept is 0"),
        ({"max_tokens": 2}, r"curation\.captions\.max_tokens is 2"),
        ({"prompt": "Describe {thing}"}, r"curation\.captions\.prompt.*'thing'.*\{concept\}"),
        ({"prompt": "Describe something"}, r"curation\.captions\.prompt must hold \{concept\}"),
    ],
)
def test_check__wrong_settings_are_named(tmp_path: Path, changes: Any, message: str) -> None:
    stage = Captions(LanguageModel("tiny", endpoint="http://127.0.0.1:9/v1"), **changes)
    with pytest.raises(ValueError, match=message):
        stage.check(Context(Workspace(tmp_path), Session(accelerator="cpu"), "food", "dishes", None))


def test_check__a_model_without_chance_writes_one_caption(tmp_path: Path) -> None:
    stage = Captions(LanguageModel("tiny", endpoint="http://127.0.0.1:9/v1", temperature=0.0))
    with pytest.raises(ValueError, match=r"captions\.model\.temperature is 0: the 5 captions"):
        stage.check(Context(Workspace(tmp_path), Session(accelerator="cpu"), "food", "dishes", None))


def test_captions__killed_and_run_again_asks_nothing_twice(tmp_path: Path) -> None:
    concurrency = 3
    with LanguageServer(FoodModel(), latency_s=0.005) as server:
        model = LanguageModel("tiny", endpoint=server.url, concurrency=concurrency)
        child = os.fork()
        if child == 0:
            run(tmp_path / "ws", TERMS[:20], Captions(model))
            os._exit(0)
        while len(server.requests) < 40:
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        run(tmp_path / "ws", TERMS[:20], Captions(model))
        bodies = [json.dumps(body, sort_keys=True) for body in server.requests]
        assert len(bodies) - len(set(bodies)) <= concurrency
        run(tmp_path / "whole", TERMS[:20], Captions(model))
    name = "captions/captions.parquet"
    assert (tmp_path / "ws" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
