"""kill -9, SIGTERM and Ctrl-C in the middle of an epoch of the command line, and the same command again."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer

from pas_train.checkpoints import restart_points
from pas_train.history import read_history
from tests.pas_train.small_project import pas, run_of, save_training

STEPS = 8  # two epochs of 35 images, eight a batch


class Signal(Callback):
    """Gets a signal in the middle of a step, before the weights change."""

    def __init__(self, step: int, name: str) -> None:
        self.step, self.name = step, name

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.Signals[self.name])


def at(step: int, name: str) -> list[object]:
    place = "--trainer.callbacks.init_args"
    return ["--trainer.callbacks", "tests.pas_train.test_restart.Signal", f"{place}.step", step, f"{place}.name", name]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and a yaml for each method; dropped paths draw numbers in every step."""
    home = tmp_path_factory.mktemp("home")
    config = save_training(home)
    config["checkpoint"] = {"every_n_train_steps": 3}
    heads = {"image_size": 32, "projector_hidden": 16, "projector_dim": 8, "warmup_epochs": 1}
    vit = {"depth": 1, "embed_dim": 16, "num_heads": 1, "patch_size": 16, "drop_path_rate": 0.5}
    arguments = {
        "MoCoV3": heads | {"backbone": "vit_tiny_patch16_224", "backbone_options": vit},
        "NNCLR": config["model"]["init_args"] | heads | {"support_size": 20, "predictor_hidden": 16},
    }
    for method, init_args in arguments.items():
        (home / method).mkdir()
        config["model"] = {"class_path": f"pas_train.methods.{method}", "init_args": init_args}
        (home / method / "small.yaml").write_text(yaml.safe_dump(config))
    return home


def fit(home: Path, workspace: Path, *more: object) -> tuple[int, str]:
    """Runs the command in a forked process; its exit status, negative for a signal, and what it printed."""
    said = workspace.parent / "said.txt"
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = open(said, "w", buffering=1)
        os._exit(pas("fit", home, workspace, *more))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read_text()


def history(workspace: Path) -> list[dict[str, str]]:
    """What was logged, but the speed, and the rank of embeddings that are remembered in memory only."""
    rows = [
        {name: value for name, value in row.items() if not name.startswith(("throughput/", "train/rankme"))}
        for row in read_history(run_of(workspace) / "metrics.csv")
    ]
    return [row for row in rows if set(row) - {"epoch", "step"}]


def check_same(ours: Path, theirs: Path) -> None:
    """Every logged number, every weight and the optimiser's whole state are equal."""
    rows = [history(space) for space in (ours, theirs)]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0] if "train/loss" in row] == [*map(str, range(STEPS))]
    ends = [torch.load(run_of(space) / "checkpoints" / "last.ckpt", weights_only=False) for space in (ours, theirs)]
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ends[0][key], ends[1][key], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("method", "ends", "kept"),
    [("MoCoV3", [("SIGTERM", 4)], {5}), ("NNCLR", [("SIGINT", 1), ("SIGKILL", 7)], {3, 4, 6})],
)
def test_fit__stopped_and_killed_in_the_middle_of_steps_comes_to_the_same_end(
    home: Path, tmp_path: Path, method: str, ends: list[tuple[str, int]], kept: set[int]
) -> None:
    # In this process, so that those that are forked have everything imported.
    assert pas("fit", home / method, tmp_path / "unbroken") == 0
    space, known = tmp_path / "ws", "starts"
    for number, (name, step) in enumerate(ends):
        code, said = fit(home / method, space, "--data.init_args.num_workers", 2 * (1 - number), *at(step, name))
        place = run_of(space) / "checkpoints"
        assert known in said and "Traceback" not in said
        if name == "SIGKILL":
            assert code == -signal.SIGKILL
        else:
            assert code == 128 + signal.Signals[name]
            end = f"stopped by {name} after {step + 1} steps. Run again: it goes on from {place}/step={step + 1}.ckpt"
            assert end in said
        known = f"goes on from {place}/last.ckpt"
    assert kept <= set(restart_points(place))
    code, said = fit(home / method, space)
    assert code == 0 and known in said
    check_same(space, tmp_path / "unbroken")
