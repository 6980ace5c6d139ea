from pathlib import Path

import pyarrow as pa
import pytest

from curation.fates import Facts
from curation.trace import tell_story, trace_key
from curation.workspace import Workspace, write_table
from tests.curation.small_workspace import save_workspace


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return save_workspace(tmp_path / "ws")


def test_trace_key__all_columns_of_one_image(space: Workspace) -> None:
    facts = trace_key(space, "c.jpg")
    assert facts["duplicate_of"] == "d.jpg" and facts["drop_reason"] == "duplicate" and facts["front"] is None
    with pytest.raises(ValueError, match=r"'zzz' is not in the workspace, which has 8 images$"):
        trace_key(space, "zzz")


def test_trace_key__names_a_key_that_begins_alike(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.trace.LOOKED_AT", 1)
    with pytest.raises(ValueError, match=r"8 images; did you mean c\.jpg, d\.jpg\?$"):
        trace_key(space, "c.jpgs")


def story(space: Workspace, facts: Facts) -> dict[str, str]:
    return dict(tell_story(space, facts))


def test_tell_story__of_an_image_of_the_pool(space: Workspace) -> None:
    told = story(space, trace_key(space, "d.jpg"))
    assert told["stored"] == f"{space.root}/pool/d.jpg, 10 bytes at 0"
    assert told["leakage"] == "cosine 0.100 to the test image tests/t.jpg: no leak" and told["fate"] == "kept"
    assert (
        told["order"] == "number 3 of 4 in the order of removal, in front 3 (1 goes first); the cut is after number 1"
    )
    assert story(space, trace_key(space, "a.jpg"))["readable"] == "no: truncated"
    assert story(space, trace_key(space, "c.jpg"))["fate"] == "dropped: duplicate"


def bank(space: Workspace) -> None:
    rows = {
        "concept": ["soup", "ramen"], "general": [False, False], "origin": ["given", "expanded"], "round": [None, 2],
        "parent": [None, "soup"], "model": [None, "a-model"], "seed": [None, 7],
    }  # fmt: skip
    write_table(space.stage_folder("concepts") / "bank.parquet", pa.table(rows))


def test_tell_story__of_a_generated_image_from_its_concept_on(space: Workspace) -> None:
    bank(space)
    facts = trace_key(space, "e.jpg") | {
        "made_for": "ramen", "caption": "a bowl of ramen", "model": "sd", "revision": "1a", "seed": 5, "unsafe": False,
    }  # fmt: skip
    told = story(space, facts)
    assert told["concept"] == "ramen: expanded in round 2 from soup by a-model with seed 7"
    assert (
        told["made"] == "by sd@1a with seed 5 from the caption 'a bowl of ramen'; its safety checker has no objection"
    )


def test_tell_story__of_a_fetched_image_with_all_that_found_it(space: Workspace) -> None:
    bank(space)
    facts = trace_key(space, "f.jpg") | {
        "url": "http://a.example/1.jpg", "licence": "CC BY", "opt_out": False,
        "concepts": ["ramen", "soup", "gone", "x", "y", "z"], "similarities": [0.5, 0.4, 0.3, 0.2, 0.1, 0.05],
    }  # fmt: skip
    told = tell_story(space, facts)
    assert told[:3] == [
        ("concept", "ramen: expanded in round 2 from soup by a-model with seed 7"), ("concept", "soup: given"),
        ("concept", "gone: no longer in the bank"),
    ]  # fmt: skip
    assert dict(told)["found"] == (
        "at http://a.example/1.jpg, licence CC BY, opt-out none; by ramen (0.500), soup (0.400), gone (0.300), "
        "x (0.200), y (0.100) and 1 more"
    )


def test_tell_story__of_a_download_that_failed(space: Workspace) -> None:
    facts = trace_key(space, "b.jpg") | {"size": None, "status": "failed_to_download", "readable": None}
    assert story(space, facts)["stored"] == "no image: failed_to_download (HTTP 404)"
