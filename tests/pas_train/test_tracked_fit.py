"""What W&B is given of a whole `fit`, read back from an offline run."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import wandb

from datamodules.files import read_json, sha256_file
from pas_train.artifacts import write_backbone
from pas_train.methods import MoCoV3
from tests.pas_train.small_project import BACKBONE, pas, run_of
from tests.pas_train.wandb_file import everything

LABELS = ("--tracking.group", "mine", "--tracking.tags", "[a, b]")


@pytest.fixture(scope="module")
def swept(fitted: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace after a fit as `wandb agent` starts one. Whoever changes it brings it back."""
    folder = tmp_path_factory.mktemp("swept")
    shutil.copytree(fitted, folder / "ws", ignore=shutil.ignore_patterns("training"))
    end()  # of a fit before, in this process
    with agents("swept123", folder):
        arguments = ("--model.init_args.temperature=0.3", "--tracking.notes=None")
        assert pas("fit", home, folder / "ws", *LABELS, *arguments) == 0
        end()
    return folder / "ws"


@contextmanager
def agents(run: str, folder: Path) -> Iterator[None]:
    """The environment that an agent gives a run."""
    (folder / "parameters.yaml").write_text("wandb_version: 1\nmodel.init_args.temperature:\n  value: 0.3\n")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RUN_ID": run, "SWEEP_ID": "sweep1", "PROJECT": "theirs",
                            "SWEEP_PARAM_PATH": str(folder / "parameters.yaml")}.items():  # fmt: skip
            patch.setenv(f"WANDB_{name}", value)
        yield


def end() -> None:
    wandb.finish()
    wandb.teardown()


def artifacts_of(found: list[Any]) -> dict[str, Any]:
    """Those that are ours; W&B makes one of every table."""
    return {artifact.type: artifact for artifact in found if artifact.type != "run_table"}


def test_fit__offline_run_of_a_sweep_is_complete(swept: Path) -> None:
    folder = run_of(swept)
    results = read_json(folder / "results.json")
    run, config, history, summary, found = everything(folder)
    assert (run.run_id, run.sweep_id, run.project, run.run_group) == ("swept123", "sweep1", "theirs", "mine")
    assert (run.job_type, sorted(run.tags), run.notes) == ("pretrain", ["a", "b"], "")
    assert config["model.init_args.temperature"] == 0.3 and config["model"]["init_args"]["temperature"] == 0.3
    assert config["data_set"] == results["data"] and config["data_set"]["images"] > 0
    assert {"train/loss", "val/knn_top1", "trainer/global_step"} <= set(history)
    assert history["evaluation.nrows"] == sum(len(one) for one in results["evaluation"]["cells"].values())
    (table,) = (folder / "wandb").glob("offline-run-*/files/media/table/evaluation*.json")
    assert json.loads(table.read_text())["data"][0][:3] == ["cells", "trained", "knn"]
    assert summary["eval/cells/knn/top1"] == results["evaluation"]["cells"]["trained"]["knn"]["top1"]
    assert json.loads(summary["results"]) == results
    assert results["labels"] == {"domain": "patterns", "group": "mine", "tags": ["a", "b"]}
    artifacts = artifacts_of(found)
    assert set(artifacts) == {"dataset", "model", "results"}
    manifest = swept / "dataset" / "full" / "manifest.parquet"
    assert sha256_file(manifest)[:12] in artifacts["dataset"].aliases
    names = {kind: sorted(entry.path for entry in one.manifest.contents) for kind, one in artifacts.items()}
    assert names == {
        "dataset": ["README.md", "manifest.parquet", "selection.json"], "model": ["config.json", "model.safetensors"],
        "results": ["results.json"],
    }  # fmt: skip
    for entry in (entry for one in artifacts.values() for entry in one.manifest.contents):
        assert Path(entry.local_path).is_relative_to(folder.resolve()) and Path(entry.local_path).is_file()
    kept = Path(next(e.local_path for e in artifacts["dataset"].manifest.contents if e.path.endswith("parquet")))
    assert sha256_file(kept) == sha256_file(manifest)


def test_fit__finished_before_still_fills_an_agents_run(
    swept: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_of(swept) / "wandb"
    first = next(iter(folder.glob("offline-run-*")))
    aside = first.rename(tmp_path / first.name)
    with agents("again456", tmp_path):
        assert pas("fit", home, swept, "--model.init_args.temperature=0.3", *LABELS) == 0
        assert "finished before" in capsys.readouterr().out
        end()
    run, _, _, summary, found = everything(run_of(swept))
    assert run.run_id == "again456" and json.loads(summary["results"])["run"] == run_of(swept).name
    assert set(artifacts_of(found)) == {"dataset", "results"}
    for second in folder.glob("offline-run-*"):
        shutil.rmtree(second)
    aside.rename(first)


@pytest.mark.parametrize(("backbone", "options"), [("resnet18", BACKBONE), ("vit_tiny_patch16_224", {"depth": 1})])
def test_write_backbone__timm_builds_it(tmp_path: Path, backbone: str, options: dict[str, Any]) -> None:
    settings = {"backbone": backbone, "backbone_options": options, "image_size": 32}
    model = MoCoV3(**settings, projector_hidden=8, projector_dim=4).eval()
    assert set(write_backbone(tmp_path, model, {"init_args": settings})) == {"model.safetensors", "config.json"}
    built = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(built(images), model.backbone(images))
    assert built.pretrained_cfg["mean"] == pytest.approx((0.485, 0.456, 0.406))


def test_tracking__refuses_tags_that_the_server_would(home: Path, tmp_path: Path, capsys) -> None:
    assert pas("fit", home, tmp_path / "ws", "--tracking.tags", f"[{'x' * 65}]") != 0
    assert "tracking.tags: W&B takes tags of 1 to 64 characters" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "ws").exists()
