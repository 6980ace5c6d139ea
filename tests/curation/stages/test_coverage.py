from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curation.encoders import embed_words
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.concepts import Concepts
from curation.stages.coverage import Coverage
from curation.stages.embed import Copy, Embed, ImageText
from curation.workspace import Workspace
from tests.tiny import save_clip


@pytest.fixture
def context(tmp_path: Path) -> Context:
    embed = Embed(image_text=ImageText(str(save_clip(tmp_path / "clip")), None), copy=Copy("none.pt"))
    stages = {"concepts": Concepts(words=["apple pie", "goose", "violin"]), "embed": embed}
    context = Context(Workspace(tmp_path / "ws"), Session(accelerator="cpu"), "things", "", None, stages=stages)
    run_stage(stages["concepts"], context)
    return context


def test_coverage__distance_to_the_nearest_concept(
    context: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.txt").write_text("apple_pie\nswan\nGoose\n")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "cello").mkdir()
    stage = Coverage({"one": str(tmp_path / "one.txt"), "two": str(tmp_path / "two")})
    stage.check(context)
    assert run_stage(stage, context)
    rows = pq.read_table(tmp_path / "ws/columns/coverage/coverage.parquet").to_pylist()
    assert [(row["data_set"], row["label"]) for row in rows] == [
        ("one", "Goose"), ("one", "apple_pie"), ("one", "swan"), ("two", "cello"),
    ]  # fmt: skip
    assert rows[0]["distance"] < 1e-6 and rows[0]["concept"] == "goose" and rows[1]["distance"] < 1e-6
    encoder = context.stages["embed"].image_text.load()  # type: ignore[attr-defined]
    bank = embed_words(encoder, ["apple pie", "goose", "violin"], ["{}"])
    expected = 1 - (embed_words(encoder, ["swan"], ["{}"]) @ bank.T)[0]
    assert np.isclose(rows[2]["distance"], expected.min(), atol=1e-5)
    assert rows[2]["concept"] == ["apple pie", "goose", "violin"][expected.argmin()]
    assert "one: 3 labels, median distance 0.000" in capsys.readouterr().out
    assert not run_stage(stage, context)
    (tmp_path / "one.txt").write_text("apple_pie\n")
    assert run_stage(stage, context)


def test_check__labels_that_are_not_there(context: Context) -> None:
    with pytest.raises(ValueError, match=r"curation\.coverage\.labels is empty.*null"):
        Coverage().check(context)
    with pytest.raises(FileNotFoundError, match=r"curation\.coverage\.labels\.food: nowhere does not exist"):
        Coverage({"food": "nowhere"}).check(context)
    with pytest.raises(ValueError, match=r"curation\.coverage\.templates: 'a photo' must hold exactly one"):
        Coverage({"food": "nowhere"}, ["a photo"]).check(context)
