"""The second round: concepts of which few images were kept."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.concepts.settings import Discover
from curation.language import LanguageModel
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.concepts import Concepts
from curation.stages.gaps import Gaps, find_gaps
from tests.curation.language.server import LanguageServer
from tests.curation.small_workspace import save_workspace, write_stage

Body = dict[str, Any]


def test_find_gaps__counts_kept_images_of_every_concept_that_found_them() -> None:
    lists = [["ale", "bun"], ["bun"], ["cod", "ale"], None, ["gone", "bun"]]
    ledger = pa.table({"keep": [True, True, False, None, True], "concepts": pa.array(lists, pa.list_(pa.string()))})
    assert find_gaps(ledger, ["ale", "bun", "cod", "dip"], 3) == [("cod", 0), ("dip", 0), ("ale", 1)]


def test_find_gaps__without_retrieval_the_nearest_concept_counts() -> None:
    ledger = pa.table({"keep": [True, True, False], "concept": ["ale", "ale", "bun"]})
    assert find_gaps(ledger, ["ale", "bun"], 2) == [("bun", 0)]
    with pytest.raises(ValueError, match=r"curation\.gaps counts the images that were kept"):
        find_gaps(ledger.drop_columns("keep"), ["ale"], 2)


def script(messages: list[Body], body: Body) -> str:
    prompt = messages[-1]["content"]
    if "Few photos" in prompt:
        return "1. craft beer\n2. Ales\n3. bicycle\n4. bun\n5. linux"
    if "Yes or No" in prompt:
        return "No" if "bicycle" in prompt or "linux" in prompt else "Yes"
    return "1. ale\n2. bun\n3. linux"


def context_of(root: Path, server: LanguageServer, **changes: Any) -> Context:
    model = LanguageModel("tiny", endpoint=server.url)
    discover = Discover(model, checker=model, max_rounds=0, wider=False, **changes)
    stages = {"concepts": Concepts(discover=discover), "gaps": Gaps(min_images=2)}
    context = Context(save_workspace(root), Session(accelerator="cpu"), "food", "dishes", None, stages=stages)
    found = pa.array([[]] + [["bun", "ale"], ["bun"], ["bun"], *[["ale"]] * 3], pa.list_(pa.string()))
    write_stage(context.workspace, "retrieve", list(range(1, 8)), retrieved=[True] * 6 + [False], concepts=found)
    return context


def run(context: Context) -> list[bool]:
    for stage in context.stages.values():
        stage.check(context)
    return [run_stage(stage, context) for stage in context.stages.values()]


def bank(context: Context) -> list[str]:
    concepts = context.stages["concepts"]
    assert isinstance(concepts, Concepts)
    return concepts.bank(context)


def test_gaps__what_they_find_joins_the_bank_once(tmp_path: Path) -> None:
    with LanguageServer(script) as server:
        context = context_of(tmp_path, server)
        assert run(context) == [True, True]  # of the kept d, e and f, one has no bun and one alone an ale
        record = json.loads((tmp_path / "concepts" / "gaps.json").read_text())
        assert record["gaps"] == [{"concept": "ale", "images": 1}]
        assert [(entry["concept"], entry["valid"]) for entry in record["entries"]] == [
            ("craft beer", True), ("bicycle", False),
        ]  # fmt: skip
        assert bank(context) == ["ale", "bun"]
        assert run(context) == [True, False] and bank(context) == ["ale", "bun", "craft beer"]
        assert run(context) == [False, False]
        asked = len(server.requests)
        (tmp_path / "columns" / "gaps" / "stage.json").unlink()  # as a kill leaves it after gaps.json
        assert run(context) == [False, True] and len(server.requests) == asked
        context.stages.pop("gaps")
        assert run(context) == [True] and bank(context) == ["ale", "bun"]


def test_gaps__belong_to_their_first_round_and_survive_an_edit(tmp_path: Path) -> None:
    with LanguageServer(script) as server:
        context = context_of(tmp_path, server)
        run(context)
        run(context)
        path = tmp_path / "concepts" / "bank.csv"
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        path.write_text("\n".join(line for line in lines if not line.startswith("craft")))
        assert run(context) == [True, False] and bank(context) == ["ale", "bun"]  # taken out by hand
        path.unlink()
        assert run(context) == [True, False] and bank(context) == ["ale", "bun", "craft beer"]
        other = context_of(tmp_path, server, seed=1)
        assert run(other)[0] and bank(other) == ["ale", "bun"]


def test_gaps__need_models(tmp_path: Path) -> None:
    context = Context(save_workspace(tmp_path), Session(accelerator="cpu"), "food", "dishes", None)
    context.stages = {"concepts": Concepts(words=["ale"]), "gaps": Gaps()}
    with pytest.raises(ValueError, match=r"curation\.gaps asks the models of curation\.concepts\.discover, .*null"):
        context.stages["gaps"].check(context)
    with pytest.raises(ValueError, match=r"curation\.gaps\.min_images is 0"):
        Gaps(min_images=0).check(context)
