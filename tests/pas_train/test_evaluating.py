"""What fit and evaluate say of a training in results.json, alone and on two ranks."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pas_train.__main__ import main
from pas_train.results import read_results
from tests.pas_train.small_project import last, pas, refused, run_of

STEPS, BATCH = 10, 8  # two epochs of 40 kept images


def test_results__tell_the_training(fitted: Path) -> None:
    results = read_results(run_of(fitted) / "results.json")
    training = {**results["training"]}
    curve = training.pop("curve")
    assert training == {
        "method": "MoCoV3", "backbone": "resnet18", "seed": 0, "batch_size": BATCH, "image_size": 32, "epochs": 2,
        "steps": STEPS, "images_seen": STEPS * BATCH, "forward_passes": 4 * STEPS * BATCH,
    }  # fmt: skip
    assert [point["images_seen"] for point in curve] == [40, 80]
    data = results["data"]
    assert (data["name"], data["images"], data["synthetic"], data["curated"]) == ("ws", 40, 0, True)
    assert results["run"] == run_of(fitted).name and results["labels"]["domain"] == "patterns"
    protocol = results["protocols"]["cells"]
    assert set(protocol["figures"]) == set(results["evaluation"]["cells"]["trained"])
    assert (protocol["train_images"], protocol["test_images"], protocol["classes"]) == (8, 8, 2)
    assert set(results["backbones"]) == set(results["evaluation"]["cells"]) == {"trained", "untrained", "pixels"}


def test_fit__judges_what_the_evaluation_asks_for_now(
    home: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = tmp_path / "ws"
    shutil.copytree(fitted, workspace)
    path = run_of(workspace) / "results.json"
    expected = read_results(path)
    (path.parent / "checkpoints" / "untrained.pt").unlink()  # its weights follow from the seed
    assert pas("fit", home, workspace, "--tracking.enabled", "false", "--evaluation.fewshot", "{shots: [1]}") == 0
    said = capsys.readouterr().out
    assert "training    finished before" in said and "cells trained: read from" in said and "1-shot cells" in said
    found = read_results(path)
    assert found["backbones"] == expected["backbones"] and found["training"] == expected["training"]
    for name, figures in found["evaluation"]["cells"].items():
        assert figures.pop("fewshot1") and figures == expected["evaluation"]["cells"][name]


def test_evaluate__takes_the_model_of_the_checkpoint_s_run(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = read_results(run_of(fitted) / "results.json")["evaluation"]["cells"]
    (tmp_path / "few.yaml").write_text("evaluation: {linear: null}")
    capsys.readouterr()
    assert main(["evaluate", "--config", f"{tmp_path}/few.yaml", "--ckpt_path", str(last(fitted))]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"config      {run_of(fitted) / 'config.yaml'}, as no other tells the model\n")
    path = last(fitted).with_suffix(".evaluation.json")
    found = json.loads(path.read_text())["evaluation"]["cells"]
    path.unlink()
    assert "linear" not in found["trained"] and "linear" in expected["trained"]
    assert found["trained"]["knn"] == expected["trained"]["knn"]


def test_evaluate__two_ranks_find_what_one_finds(home: Path, fitted: Path, tmp_path: Path, two_ranks: Any) -> None:
    expected = read_results(run_of(fitted) / "results.json")
    path = last(fitted).with_suffix(".evaluation.json")
    more = ["--trainer.devices", "auto", "--evaluation.features_folder", str(tmp_path)]
    two_ranks(lambda rank: pas("evaluate", home, fitted, "--ckpt_path", last(fitted), *more))
    found = json.loads(path.read_text())
    path.unlink()
    for part in ("run", "data", "training", "backbones", "protocols", "evaluation"):
        assert found[part] == expected[part], part
    assert list(tmp_path.glob("*/features.npy"))  # both extracted them anew


def test_image_size__that_the_backbone_cannot_take_is_told_at_once(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vit = {"backbone": "vit_tiny_patch16_224", "backbone_options": "{embed_dim: 16, depth: 1, num_heads: 2}"}
    model = [text for name, value in vit.items() for text in (f"--model.{name}", value)]
    said = refused(
        capsys, "fit", home, tmp_path, *model, "--model.small_images", "false", "--evaluation.image_size", 60
    )
    assert "evaluation.image_size is 60, but the model's backbone cannot take such images (Input height (60)" in said
    assert "leave it at null, which takes the model's own 32" in said and not list(tmp_path.iterdir())


def test_evaluate__a_baseline_without_weights_is_told_at_once(
    home: Path, curated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pas("fit", home, curated, "--evaluation.baselines", "[timm:test_vit]", "--tracking.enabled", "false") == 1
    assert "evaluation.baselines: timm:test_vit: timm's weights" in capsys.readouterr().err
    assert not (curated / "training").exists()  # nothing was trained
