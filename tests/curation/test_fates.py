from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.fates import tell_fate
from curation.trace import trace_key
from curation.workspace import Workspace, write_table
from datamodules.files import read_json, write_json
from tests.curation.small_workspace import save_workspace, write_stage


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return save_workspace(tmp_path / "ws")


def told(space: Workspace, key: str, **facts: Any) -> dict[str, str]:
    return dict(tell_fate(space, trace_key(space, key) | facts))


def set_settings(space: Workspace, stage: str, **settings: Any) -> None:
    path = space.stage_folder(stage) / "stage.json"
    write_json(path, {**(read_json(path) or {}), "settings": settings})


def test_tell_fate__identical_files_name_the_one_that_stays_and_the_others(space: Workspace) -> None:
    copies = pa.array([None, None, *["b.jpg"] * 6])
    write_stage(space, "identical", list(range(8)), identical_to=copies)
    assert told(space, "d.jpg", identical_to="b.jpg")["identical"] == "the same bytes as b.jpg, which stays"
    text = "stays for c.jpg, d.jpg, e.jpg, f.jpg, g.jpg and 1 more, which have the same bytes"
    assert told(space, "b.jpg", identical_to=None)["identical"] == text
    assert "identical" not in told(space, "a.jpg", identical_to=None) and "identical" not in told(space, "d.jpg")


def test_tell_fate__leak_with_threshold_and_with_normalised_score(space: Workspace) -> None:
    set_settings(space, "leakage", threshold=0.45)
    text = "cosine 0.900 to the test image tests/t.jpg, threshold 0.45: leaks from it"
    assert told(space, "b.jpg")["leakage"] == text
    set_settings(space, "leakage", threshold=0.45, score_normalisation={"threshold": 0.2})
    text = "cosine 0.900 to the test image tests/t.jpg; score 0.100 after normalisation, to u, threshold 0.2: no leak"
    assert told(space, "b.jpg", leak_score=0.1, leak_score_from="u", leaks=False)["leakage"] == text


def test_tell_fate__duplicates_with_the_members_of_the_group(space: Workspace) -> None:
    copy_of = pa.array(["d.jpg", None, "d.jpg", None, None])
    write_stage(space, "duplicates", [2, 3, 4, 5, 6], duplicate_of=copy_of, duplicate_group=[2, 2, 2, 5, 6])
    assert told(space, "c.jpg")["duplicates"] == "a copy of d.jpg, which stays; its group of 3 has also e.jpg"
    assert told(space, "d.jpg")["duplicates"] == "stays for its group of 3, with c.jpg, e.jpg"
    assert told(space, "g.jpg")["duplicates"] == "no copy of it was found"
    assert told(space, "g.jpg", leaks_with_group=True)["duplicates"].endswith("leaks, and all of it goes")


def test_tell_fate__text_boxes(space: Workspace) -> None:
    boxes = [[4, 20, 44, 20, 44, 36, 4, 36]]
    text = "16.0 % of its area in 1 region: x 4-44 y 20-36"
    assert told(space, "d.jpg", text_area=0.16, text_boxes=boxes)["text"] == text
    assert told(space, "d.jpg", text_area=0.9, text_boxes=boxes * 9)["text"].endswith("y 20-36 and 4 more")
    assert told(space, "d.jpg", text_area=0.0, text_boxes=[])["text"] == "none found"


def test_tell_fate__quota_says_which(space: Workspace) -> None:
    set_settings(space, "select", per_concept_max=5, synthetic_share=0.25)
    fate = told(space, "d.jpg", keep=False, drop_reason="quota")["fate"]
    assert fate.startswith("dropped: quota (at most 5 images of a concept, at most 25 % synthetic;")


def test_tell_fate__data_sets_that_hold_it(space: Workspace) -> None:
    assert "data sets" not in told(space, "d.jpg")
    for name, keys in (("full", ["d.jpg", "e.jpg"]), ("mini", ["e.jpg"])):
        write_table(space.manifest(name), pa.table({"key": keys}))
    found = [told(space, key)["data sets"] for key in ("d.jpg", "e.jpg", "g.jpg")]
    assert found == ["in full", "in full, mini", "in none"]
