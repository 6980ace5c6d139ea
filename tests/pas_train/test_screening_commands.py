"""An evaluation that was not screened, from the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests.datamodules.datasets import small_trees
from tests.pas_train.small_project import last, pas, refused, run_of, save_classes, settings

Said = pytest.CaptureFixture[str]


def other_set(home: Path, folder: Path) -> Path:
    """small.yaml that judges on a test set that nobody screened."""
    values = settings(home)
    save_classes(folder / "unseen", 2000)
    values["evaluation"]["datasets"][0]["test"] = str(folder / "unseen")
    (folder / "small.yaml").write_text(yaml.safe_dump(values))
    return folder


def test_fit__refuses_before_anything_is_made(home: Path, tmp_path: Path, capsys: Said) -> None:
    said = refused(capsys, "fit", other_set(home, tmp_path), tmp_path / "ws")
    assert "8 of the 8 test images of 'cells' (not among curation.leakage.tests)" in said
    said = refused(capsys, "fit", home, tmp_path / "ws", "--curation.leakage", "null")
    assert "'cells' (curation.leakage is null)" in said and "--evaluation.allow_unscreened true" in said
    assert not (tmp_path / "ws").exists()


def test_fit__results_say_that_the_sets_were_screened(fitted: Path) -> None:
    results = json.loads((run_of(fitted) / "results.json").read_text())
    assert results["screening"] == {"cells": {"screened": True, "images": 8, "unscreened": 0, "why": None}}


def test_evaluate__refuses_or_marks(home: Path, fitted: Path, tmp_path: Path, capsys: Said) -> None:
    folder, checkpoint = other_set(home, tmp_path), tmp_path / "moved.ckpt"  # remembers its data set by itself
    shutil.copy(last(fitted), checkpoint)
    said = refused(capsys, "evaluate", folder, fitted, "--ckpt_path", checkpoint)
    assert "8 of the 8 test images of 'cells' (not among the tests of the leakage gate of" in said
    assert pas("test", folder, fitted, "--ckpt_path", checkpoint, "--evaluation.allow_unscreened", "true") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "cells" in line and " %" in line]
    assert lines and all(line.endswith("  not screened") for line in lines)
    assert json.loads((tmp_path / "moved.evaluation.json").read_text())["screening"]["cells"]["screened"] is False


def test_evaluate__marks_a_backbone_from_outside(home: Path, fitted: Path, tmp_path: Path, capsys: Said) -> None:
    checkpoint = torch.load(last(fitted), weights_only=False)
    del checkpoint["data_set"]
    torch.save(checkpoint, tmp_path / "outside.ckpt")
    assert pas("evaluate", home, fitted, "--ckpt_path", tmp_path / "outside.ckpt") == 0
    assert "not screened" in capsys.readouterr().out
    told = json.loads((tmp_path / "outside.evaluation.json").read_text())["screening"]["cells"]
    assert not told["screened"] and "not trained on a data set that was curated here" in told["why"]


def test_fit_and_evaluate__known_data_set_by_name(home: Path, tmp_path: Path) -> None:
    small_trees.save_food_101(tmp_path)
    values = settings(home)
    values["curation"]["leakage"]["tests"] = {"food101": f"food-101:{tmp_path}/food-101?split=test&partial=true"}
    values["evaluation"] = {"datasets": [{"name": "food-101", "root": f"{tmp_path}?partial=true"}], "linear": None}
    values["trainer"]["max_epochs"] = 1
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(values))
    assert pas("fit", tmp_path, tmp_path / "ws") == 0
    results = json.loads((run_of(tmp_path / "ws") / "results.json").read_text())
    assert results["screening"] == {"food-101": {"screened": True, "images": 2, "unscreened": 0, "why": None}}
    assert pas("evaluate", tmp_path, tmp_path / "ws", "--ckpt_path", last(tmp_path / "ws")) == 0
