import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.files import write_json
from datamodules.sources import SourceItem
from pas_train.runs import Run

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "model": {"class_path": "pas_train.methods.MoCoV3", "init_args": {"temperature": 0.2}},
    "data": {"class_path": "a.Data", "init_args": {"batch_size": 8, "num_workers": 2, "source": None}},
    "trainer": {"max_epochs": 2, "devices": 1, "accelerator": "cpu", "log_every_n_steps": 50},
    "tracking": {"enabled": True},
}


def changed(section: str, key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    part = config[section].get("init_args", config[section])
    part[key] = value
    return config


def test_run__is_named_by_method_and_data_set(tmp_path: Path) -> None:
    manifest = tmp_path / "dataset" / "full" / "manifest.parquet"
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(b"one")
    run = Run(tmp_path, CONFIG, str(manifest))
    assert run.name.startswith("mocov3-full-") and run.folder == tmp_path / "training" / run.name
    assert Run(tmp_path, CONFIG, str(manifest)).name == run.name
    assert Run(tmp_path, CONFIG, str(tmp_path / "photos")).name.startswith("mocov3-data-")
    manifest.write_bytes(b"two")  # another data set at the same place
    assert Run(tmp_path, CONFIG, str(manifest)).name != run.name


def test_judged__by_version_and_settings_but_not_how_fast(tmp_path: Path) -> None:
    run = Run(tmp_path, CONFIG, None)
    settings = {"knn": {"k": 1}, "num_workers": 2, "baselines": ["pixels"]}
    assert not run.judged(settings)
    results = run.write_results({}, settings=settings)
    assert run.judged(settings) and run.judged({**settings, "num_workers": 0})
    assert not run.judged({**settings, "knn": {"k": 2}}) and not run.judged({**settings, "baselines": []})
    write_json(run.folder / "results.json", {**results, "version": 1})
    assert not run.judged(settings)


def test_run__of_several_data_sets(tmp_path: Path) -> None:
    manifests = [tmp_path / "dataset" / name / "manifest.parquet" for name in ("full", "mini")]
    for number, manifest in enumerate(manifests):
        manifest.parent.mkdir(parents=True)
        manifest.write_bytes(bytes([number]))
    full, mini = map(str, manifests)
    run = Run(tmp_path, CONFIG, [full, mini])
    assert run.name.startswith("mocov3-full-mini-")
    others: list[Any] = [
        full, [mini, full], [full, "hf:x"], [SourceItem(full, 1), SourceItem(mini, 2)],
        [full, SourceItem(mini, synthetic=True)],
    ]  # fmt: skip
    assert len({Run(tmp_path, CONFIG, other).name for other in others} | {run.name}) == 6
    assert Run(tmp_path, CONFIG, [SourceItem(full, 3.0)]).name == Run(tmp_path, CONFIG, full).name
    manifests[1].write_bytes(b"other images")
    assert Run(tmp_path, CONFIG, [full, mini]).name != run.name
    results = Run(tmp_path, CONFIG, [full, SourceItem(mini, synthetic=True)]).write_results({})
    assert results["data"]["source"] == [full, {"source": mini, "weight": None, "synthetic": True}]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("trainer", "devices", 4), ("trainer", "accelerator", "gpu"), ("trainer", "log_every_n_steps", 1),
        ("trainer", "callbacks", ["a.Callback"]), ("data", "num_workers", 8), ("tracking", "enabled", False),
    ],
)  # fmt: skip
def test_run__where_and_how_fast_is_the_same_run(tmp_path: Path, section: str, key: str, value: Any) -> None:
    assert Run(tmp_path, changed(section, key, value), None).name == Run(tmp_path, CONFIG, None).name


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("trainer", "max_epochs", 3), ("model", "temperature", 0.1), ("data", "batch_size", 16)],
)
def test_run__what_is_learnt_is_another_run(tmp_path: Path, section: str, key: str, value: Any) -> None:
    assert Run(tmp_path, changed(section, key, value), None).name != Run(tmp_path, CONFIG, None).name
    assert Run(tmp_path, {**CONFIG, "seed_everything": 1}, None).name != Run(tmp_path, CONFIG, None).name


def test_run__leaves_the_config_as_it_was(tmp_path: Path) -> None:
    before = copy.deepcopy(CONFIG)
    Run(tmp_path, CONFIG, None)
    assert CONFIG == before


def test_run__knows_how_far_it_is(tmp_path: Path) -> None:
    run = Run(tmp_path, CONFIG, None)
    assert (run.last, run.trained, run.results) == (None, False, None)
    run.checkpoints.mkdir(parents=True)
    torch.save({"global_step": 4}, run.checkpoints / "last.ckpt")
    assert run.last == run.checkpoints / "last.ckpt" and not run.trained
    run.mark_trained(10, 2)
    run.write_results({"cells": {"trained": {"knn": {"top1": 0.5}}}}, settings={"knn": {"k": 1}})
    run.save_config("seed_everything: 0\n")
    again = Run(tmp_path, CONFIG, None)
    assert again.trained and again.results is not None
    assert again.results["run"] == run.name and again.results["evaluation"]["cells"]["trained"]["knn"]["top1"] == 0.5
    assert (run.folder / "config.yaml").read_text() == "seed_everything: 0\n"
