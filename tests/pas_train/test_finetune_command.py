"""Fine-tuning by the commands: in results.json and the table, and again by `evaluate`."""

import json
from pathlib import Path

import pytest
import yaml

from tests.pas_train.small_project import last, pas, run_of, save_training

SETTINGS = {"epochs": 2, "batch_size": 4, "lr": 0.01}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    config = save_training(home)
    sets = [{"name": "cells", "train": str(home / "train"), "test": str(home / "test")}]
    config["evaluation"] = {"datasets": sets, "knn": None, "linear": None, "finetune": SETTINGS, "linear_images": {}}
    config["evaluation"]["linear_images"] = {**SETTINGS, "seeds": [0, 1]}
    config["trainer"]["max_epochs"] = 1
    (home / "small.yaml").write_text(yaml.safe_dump(config))
    return home


def test_fit__judges_on_images_once(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pas("fit", home, tmp_path) == 0
    results = json.loads((run_of(tmp_path) / "results.json").read_text())
    found = results["evaluation"]["cells"]
    assert {name: sorted(figures) for name, figures in found.items()} == {
        "trained": ["finetune", "linear_images"], "untrained": ["finetune", "linear_images"], "pixels": [],
    }  # fmt: skip
    assert len(found["trained"]["linear_images"]["seeds"]) == 2
    assert results["protocols"]["cells"]["figures"]["finetune"]["epochs"] == 2
    said = capsys.readouterr().out
    assert all(f"finetune      cells {name}: top-1 " in said for name in ("trained", "untrained"))
    assert "fine-tuned" in said and "linear, augmented" in said
    assert pas("evaluate", home, tmp_path, "--ckpt_path", last(tmp_path), "--evaluation.baselines", "[]") == 0
    assert "finetune      cells" not in capsys.readouterr().out  # kept from before
