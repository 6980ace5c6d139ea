from pathlib import Path

import pyarrow as pa
import pytest

from curation.ledger import STAGES, drop_reasons, funnel, read_ledger
from curation.workspace import Workspace
from tests.curation.small_workspace import KEYS, finish, save_workspace, write_stage


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return save_workspace(tmp_path / "ws")


def test_read_ledger__every_row_with_nulls_where_a_stage_did_not_see_it(space: Workspace) -> None:
    ledger = read_ledger(space)
    assert ledger["key"].to_pylist() == KEYS
    assert ledger["retrieved"].to_pylist() == [None, *[True] * 6, False]
    assert ledger["removal_rank"].to_pylist() == [None, None, None, 2, 1, 3, 0, None]
    assert ledger["ood"][3].as_py() == pytest.approx(0.2) and ledger["ood"][0].as_py() is None
    assert ledger.equals(read_ledger(space.root))  # a path does too
    assert "row" not in ledger.column_names


def test_read_ledger__reason_of_ingest_before_that_of_the_download(space: Workspace) -> None:
    assert read_ledger(space)["reason"].to_pylist() == ["truncated", "HTTP 404", *[None] * 6]


def test_read_ledger__parts_in_any_order(space: Workspace) -> None:
    write_stage(space, "text", [6, 3, 5], text_area=[0.6, 0.3, 0.5])
    assert read_ledger(space, ["text"])["text_area"].to_pylist() == [None, None, None, 0.3, None, 0.5, 0.6, None]


def test_read_ledger__stages_that_the_selection_did_not_read_are_left_out(space: Workspace) -> None:
    write_stage(space, "text", [3], text_area=[0.5])
    assert "text_area" not in read_ledger(space).column_names
    (space.stage_folder("select") / "stage.json").unlink()  # before a selection, all that is finished
    assert "text_area" in read_ledger(space).column_names and "keep" not in read_ledger(space).column_names


def test_read_ledger__unfinished_stages_are_left_out(space: Workspace) -> None:
    (space.stage_folder("ood") / "stage.json").unlink()
    assert "ood" not in read_ledger(space).column_names
    assert "leaks" not in read_ledger(space, ["ingest"]).column_names


def test_read_ledger__columns_of_rows_that_were_replaced_are_left_out(space: Workspace) -> None:
    finish(space, "ood", print={"reads": {"ingest": "print-of-ingest"}})
    finish(space, "select", print={"reads": {"ingest": "print-of-ingest", "ood": "print-of-ood"}})
    assert {"ood", "keep"} <= set(read_ledger(space).column_names)
    finish(space, "ingest", fingerprint="another index")
    assert not {"ood", "keep"} & set(read_ledger(space).column_names)


def test_drop_reasons__first_stage_counts(space: Workspace) -> None:
    reasons = ["unreadable", "leak", "duplicate", None, None, None, None, "not_retrieved"]
    assert drop_reasons(read_ledger(space)).tolist() == reasons
    write_stage(space, "leakage", list(range(1, 7)), leaks=[True] * 6)
    reasons[1:7] = ["leak"] * 6
    assert drop_reasons(read_ledger(space)).tolist() == reasons


def test_drop_reasons__stages_that_did_not_run_drop_nothing(space: Workspace) -> None:
    ledger = read_ledger(space, ["ingest", "duplicates"])
    assert drop_reasons(ledger).tolist() == ["unreadable", None, "duplicate", *[None] * 5]
    assert drop_reasons(read_ledger(space, [])).tolist() == [None] * 8


def test_drop_reasons__identical_files_before_what_later_stages_say(space: Workspace) -> None:
    names = pa.array([None, "d.jpg", None, "d.jpg", None, None, "d.jpg"])
    write_stage(space, "identical", list(range(1, 8)), identical_to=names)
    ledger = read_ledger(space, STAGES)
    reasons = ["unreadable", "leak", "identical", None, "identical", None, None, "identical"]
    assert drop_reasons(ledger).tolist() == reasons
    steps = [(row["stage"], row["real"], row["synthetic"]) for row in funnel(ledger)]
    assert steps[1:4] == [("readable", 5, 2), ("distinct files", 4, 0), ("retrieved", 4, 0)]


def test_funnel__real_and_synthetic_images_left_after_each_step(space: Workspace) -> None:
    steps = [(row["stage"], row["real"], row["synthetic"]) for row in funnel(read_ledger(space))]
    assert steps == [
        ("collected", 6, 2), ("readable", 5, 2), ("retrieved", 4, 2), ("not leaking", 3, 2), ("unique", 3, 1),
        ("kept", 2, 1),
    ]  # fmt: skip
    assert [row["stage"] for row in funnel(read_ledger(space, ["ingest"]))] == ["collected", "readable"]


def test_read_ledger__unfinished_index_is_named(space: Workspace, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no finished index; run `curate`"):
        read_ledger(tmp_path / "nothing")
    finish(space, "index")
    assert read_ledger(space).num_rows == 8
