import builtins
import json
import struct
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pas_train.tracking import log_curation, log_results, make_wandb_logger

wandb = pytest.importorskip("wandb")

FUNNEL = [{"stage": "collected", "real": 100, "synthetic": 20}, {"stage": "not leaking", "real": 90, "synthetic": 19},
          {"stage": "kept", "real": 60, "synthetic": 10}]  # fmt: skip
RESULT = {"knees": [40, None, 12], "cut": 40, "kept": 70, "target_size": None, "manifest_sha256": "ab" * 32}
EVALUATION = {"fruits": {"trained": {"knn": {"top1": 0.75}, "linear": {"top1": 0.8, "top5": 0.9}},
                         "untrained": {"knn": {"top1": 0.5}}}}  # fmt: skip


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


def records(folder: Path) -> Iterator[Any]:
    """The records of the offline run, from its LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, whole = 7, b""
    while place + 7 <= len(data):
        rest = 32768 - place % 32768  # blocks are counted from the start of the file
        if rest < 7:
            place += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def items(updates: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in updates}


def test_make_wandb_logger__offline_run_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = make(tmp_path)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "there is no key" in said
    assert f"wandb sync {tmp_path}/wandb/offline-run-" in said
    logger.log_metrics({"train/loss": 1.5}, step=3)
    image = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    log_curation(logger, FUNNEL, {"kept": [image, image], "leak": [image[:48, :48]], "duplicate": []}, RESULT)
    log_results(logger, EVALUATION)
    logger.finalize("success")
    wandb.finish()
    wandb.teardown()  # the service has written its file when it is gone

    config, history, summary, runs = {}, {}, {}, []
    for record in records(tmp_path):
        if record.HasField("run"):
            runs.append(record.run)
            config |= items(record.run.config.update)
        config |= items(record.config.update)
        history |= items(record.history.item)
        summary |= items(record.summary.update)
    assert (runs[0].project, runs[0].run_group, runs[0].run_id) == ("pas", "food", "mocov3-full-01")
    assert config["lr"] == 0.1 and config["curated"]["manifest_sha256"] == "ab" * 32
    assert history["train/loss"] == 1.5
    assert history["curation/funnel._type"] == "table-file" and history["curation/funnel.nrows"] == 3
    assert history["samples/kept.count"] == 2 and history["samples/kept.width"] == 224
    assert history["samples/leak.width"] == 48 and not any("duplicate" in key for key in history)
    expected = {"curation/collected": 120, "curation/not_leaking": 109, "curation/kept": 70, "curation/cut": 40,
                "curation/kept_synthetic": 10, "curation/knee_ood": 40, "curation/knee_text_gap": 12,
                "eval/fruits/knn/top1": 0.75, "eval/fruits/linear/top1": 0.8, "eval/fruits/linear/top5": 0.9,
                "eval/fruits/untrained/knn/top1": 0.5}  # fmt: skip
    assert {key: summary[key] for key in expected} == expected
    assert "curation/knee_ood_general" not in summary


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
    log_results(logger, EVALUATION)
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


def test_make_wandb_logger__not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert make(tmp_path) is None
    assert "wandb is not installed" in capsys.readouterr().out
