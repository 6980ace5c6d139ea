from pathlib import Path
from typing import Any

import pytest

from curation.report.leaks import certificate
from curation.report.view import ReportSettings, View
from datamodules.files import write_json
from tests.curation.small_workspace import finish, save_workspace

CONTENT: dict[str, Any] = {
    "threshold": 0.45, "whole_groups": False, "score_normalisation": None, "images": 6, "removed": 1,
    "descriptor": {"name": "models/sscd.pt", "files": {"sscd.pt": "0123456789abcdef"}},
    "tests": [{"name": "food", "path": "data/food", "images": 7, "unreadable": 2, "removed": 1, "sha256": "ab"}],
    "removals": [[0.3, 4], [0.45, 1]], "closest": {"removed": [], "kept": []},
}  # fmt: skip


def view_with(root: Path, **changes: Any) -> View:
    space = save_workspace(root)
    write_json(space.stage_folder("leakage") / "certificate.json", {**CONTENT, **changes})
    return View(root, ReportSettings())


def test_certificate__tells_sets_thresholds_and_what_was_not_compared(tmp_path: Path) -> None:
    shown = certificate(view_with(tmp_path))
    assert shown is not None and shown.thresholds == [(0.3, 4), (0.45, 1)] and shown.removed == 1
    assert (shown.sets[0].name, shown.sets[0].images, shown.sets[0].removed) == ("food", 7, 1)
    assert shown.descriptor == "sscd.pt (SHA-256 0123456789ab)" and shown.normalisation is None
    assert shown.note == "2 test images could not be decoded and were not compared."


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"whole_groups": True}, "dropped with it"),
        ({"descriptor": {"name": "a.pt", "files": None, "stand_in": True}}, "a.pt, a stand-in"),
        (
            {"score_normalisation": {"threshold": 0.2, "beta": 1, "neighbours": 3, "background": None, "sample": 9}},
            "score above 0.2: cosine less 1 times the mean cosine of the test image to its 3 nearest of up to 9",
        ),
    ],
)
def test_certificate__tells_how(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    shown = certificate(view_with(tmp_path, **changes))
    assert shown is not None and told in f"{shown.descriptor} {shown.normalisation} {shown.note}"


def test_certificate__none_before_the_gate_or_without_it(tmp_path: Path) -> None:
    space = view_with(tmp_path).space
    finish(space, "select", print={"reads": {"ingest": "print-of-ingest"}})  # a selection made without the gate
    assert certificate(View(tmp_path, ReportSettings())) is None
    (space.stage_folder("leakage") / "stage.json").unlink()
    assert certificate(View(tmp_path, ReportSettings())) is None
