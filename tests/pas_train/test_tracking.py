import builtins
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pas_train.tracking import log_artifact, log_curation, log_results, make_wandb_logger
from tests.pas_train.wandb_file import everything

wandb = pytest.importorskip("wandb")

FUNNEL = [{"stage": "collected", "real": 100, "synthetic": 20}, {"stage": "not leaking", "real": 90, "synthetic": 19},
          {"stage": "kept", "real": 60, "synthetic": 10}]  # fmt: skip
RESULT = {"knees": [40, None, 12], "cut": 40, "kept": 70, "target_size": None, "manifest_sha256": "ab" * 32}
TRAINED = {"knn": {"top1": 0.75, "interval": [0.7, 0.8]}, "linear": {"top1": 0.8, "top5": 0.9, "seeds": [0.7, 0.9]},
           "logme": {"score": 1.25}}  # fmt: skip
SEGMENTED = {"segmentation": {"miou": 0.4, "macc": 0.5, "accuracy": 0.8, "seeds": [0.3, 0.5]}}
DETECTED = {"detection": {"map": 0.3, "map50": 0.6, "map75": 0.25}}
RESULTS = {
    "version": 2,
    "data": {"source": "m.parquet", "identity": "ab", "name": "food mini", "images": 70},
    "training": {"method": "MoCoV3", "seed": 1, "curve": [{"images_seen": 8, "top1": 0.5}]},
    "labels": {"domain": "food", "group": "food", "tags": ["a"]},
    "backbones": {"trained": {"title": "trained"}, "pixels": {"title": "raw pixels"}},
    "evaluation": {
        "plates": {"trained": SEGMENTED},
        "tables": {"trained": DETECTED},
        "fruits": {"trained": TRAINED, "pixels": {"knn": {"top1": 0.5}}},
    },
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No key, no mode, no prompt: nothing of the machine's own W&B reaches the tests."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_BASE_URL", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("a prompt"))
    yield
    wandb.finish()
    wandb.teardown()


def make(folder: Path, **more: Any) -> Any:
    arguments = {"project": "pas", "group": "food", "name": "mocov3-full-01", "config": {"lr": 0.1}, **more}
    return make_wandb_logger(folder=folder, **arguments)


def ended(folder: Path) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any], list[Any]]:
    """What the offline run holds at its end."""
    wandb.finish()
    wandb.teardown()  # the service has written its file when it is gone
    return everything(folder)


def test_make_wandb_logger__offline_run_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = make(tmp_path)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "there is no key" in said
    assert f"wandb sync {tmp_path}/wandb/offline-run-" in said
    logger.log_metrics({"train/loss": 1.5}, step=3)
    image = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    log_curation(logger, FUNNEL, {"kept": [image, image], "leak": [image[:48, :48]], "duplicate": []}, RESULT)
    logger.finalize("success")
    run, config, history, summary, _ = ended(tmp_path)
    assert (run.project, run.run_group, run.run_id, run.job_type) == ("pas", "food", "mocov3-full-01", "pretrain")
    assert config["lr"] == 0.1 and config["curated"]["manifest_sha256"] == "ab" * 32
    assert history["train/loss"] == 1.5
    assert history["curation/funnel._type"] == "table-file" and history["curation/funnel.nrows"] == 3
    assert history["samples/kept.count"] == 2 and history["samples/kept.width"] == 224
    assert history["samples/leak.width"] == 48 and not any("duplicate" in key for key in history)
    expected = {"curation/collected": 120, "curation/not_leaking": 109, "curation/kept": 70, "curation/cut": 40,
                "curation/kept_synthetic": 10, "curation/knee_ood": 40, "curation/knee_text_gap": 12}  # fmt: skip
    assert {key: summary[key] for key in expected} == expected
    assert "curation/knee_ood_general" not in summary


def test_log_results__figures_a_table_and_the_whole_file(tmp_path: Path) -> None:
    log_results(make(tmp_path, tags=["a", "b"], notes="why", job_type="probe"), RESULTS)
    run, config, history, summary, _ = ended(tmp_path)
    assert (list(run.tags), run.notes, run.job_type) == (["a", "b"], "why", "probe")
    expected = {"eval/fruits/knn/top1": 0.75, "eval/fruits/knn/top1_low": 0.7, "eval/fruits/knn/top1_high": 0.8,
                "eval/fruits/linear/top5": 0.9, "eval/fruits/logme/score": 1.25,
                "eval/fruits/pixels/knn/top1": 0.5, "eval/plates/segmentation/miou": 0.4,
                "eval/plates/segmentation/macc": 0.5, "eval/tables/detection/map": 0.3,
                "eval/tables/detection/map75": 0.25}  # fmt: skip
    assert {key: summary[key] for key in expected} == expected
    assert json.loads(summary["results"]) == RESULTS
    assert config["data_set"] == RESULTS["data"] and config["training"] == {"method": "MoCoV3", "seed": 1}
    assert history["evaluation.nrows"] == 6
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/evaluation*.json")
    told = json.loads(table.read_text())
    assert told["columns"][:4] == ["data set", "backbone", "protocol", "top1"]
    assert told["data"][-1][:4] == ["fruits", "raw pixels", "knn", 0.5]
    assert told["columns"][-6:] == ["miou", "macc", "accuracy", "map", "map50", "map75"]
    assert told["data"][0] == ["plates", "trained", "segmentation", *[None] * 6, 0.4, 0.5, 0.8, *[None] * 3]


def test_log_results__curve_too_long_for_the_server_is_left_out(tmp_path: Path) -> None:
    training = {"seed": 1, "curve": [{"images_seen": number, "top1": 0.5} for number in range(40_000)]}
    log_results(make(tmp_path), {**RESULTS, "training": training})
    summary = ended(tmp_path)[3]
    assert json.loads(summary["results"]) == {**RESULTS, "training": {"seed": 1, "curve": []}}


def test_log_artifact__names_its_files_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"rows")
    files = {"manifest.parquet": tmp_path / "m.parquet"}
    log_artifact(make(tmp_path), "dataset", "runs/food mini", files, {"images": 70}, ["ab12"], used=True)
    (artifact,) = ended(tmp_path)[4]
    assert (artifact.type, artifact.name, sorted(artifact.aliases)) == ("dataset", "runs-food-mini", ["ab12", "latest"])
    assert json.loads(artifact.metadata) == {"images": 70}
    (entry,) = artifact.manifest.contents
    assert (entry.path, entry.local_path, entry.size) == ("manifest.parquet", str(tmp_path / "m.parquet"), 4)


@pytest.mark.parametrize(("mode", "offline", "why"), [("offline", None, "WANDB_MODE=offline"), ("", None, "no key"),
                                                      ("online", None, "no key"), ("", True, "tracking.offline"),
                                                      ("", False, "no key")])  # fmt: skip
def test_make_wandb_logger__never_asks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: str,
    offline: bool,
    why: str,
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    logger = make(tmp_path, offline=offline)
    assert why in capsys.readouterr().out
    assert logger.experiment.offline


def test_make_wandb_logger__disabled_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = make(tmp_path)
    log_curation(logger, FUNNEL, {"kept": [np.zeros((8, 8, 3), np.uint8)]}, RESULT)
    log_results(logger, RESULTS)
    assert not list((tmp_path / "wandb").iterdir())


class Refusing(BaseHTTPRequestHandler):
    """A server that knows nobody."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_make_wandb_logger__refused_key_goes_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    logger = make(tmp_path)
    server.shutdown()
    server.server_close()
    assert "the server did not take the run" in capsys.readouterr().out
    assert logger.experiment.offline


def test_make_wandb_logger__sweep_keeps_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "swept123")
    assert make(tmp_path).experiment.id == "swept123"


def test_make_wandb_logger__sweep_has_its_parameters_and_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.yaml").write_text("wandb_version: 1\nmodel.lr:\n  desc: null\n  value: 0.3\n")
    for name, value in {"MODE": "offline", "RUN_ID": "swept123", "SWEEP_ID": "sweep1", "PROJECT": "theirs",
                        "SWEEP_PARAM_PATH": str(tmp_path / "sweep.yaml")}.items():  # fmt: skip
        monkeypatch.setenv(f"WANDB_{name}", value)
    make(tmp_path)
    assert "Ignoring" not in capfd.readouterr().err
    run, config, *_ = ended(tmp_path)
    assert (run.run_id, run.sweep_id, run.project) == ("swept123", "sweep1", "theirs")
    assert config["model.lr"] == 0.3 and config["lr"] == 0.1


def test_make_wandb_logger__not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert make(tmp_path) is None
    assert "wandb is not installed" in capsys.readouterr().out
