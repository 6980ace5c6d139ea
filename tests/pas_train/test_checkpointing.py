import os
import resource
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from pas_train.checkpoint_io import AtomicCheckpointIO, save_whole
from pas_train.checkpointing import Checkpoints
from pas_train.checkpoints import load, newest_good
from pas_train.stopping import StopSignals

EPOCH = 4  # steps


class Line(LightningModule):
    """The smallest training: lines through four points, with weights that fill a disk if need be."""

    def __init__(self, numbers: int = 1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, numbers)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = (torch.dropout(self.layer(batch[0]), 0.5, train=True) - batch[1]).square().mean()
        self.log("loss", loss)
        self.log("score", float(self.trainer.current_epoch == 1))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class At(Callback):
    """Does something at the end of a step."""

    def __init__(self, step: int, what: Callable[[Trainer], Any]) -> None:
        self.step, self.what = step, what

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.what(trainer)


def train(folder: Path, *others: Callback, epochs: int = 3, start: Path | None = None, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    module = Line(settings.pop("numbers", 1))
    signals = settings.pop("signals", None)
    saving = Checkpoints(**({"every_n_minutes": None, "dirpath": str(folder)} | settings))
    saving.signals = signals
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[*others, saving], plugins=[AtomicCheckpointIO()], log_every_n_steps=1,
    )  # fmt: skip
    points = [(torch.tensor([float(x)]), torch.tensor([2.0 * x])) for x in range(EPOCH)]
    trainer.fit(module, DataLoader(points), ckpt_path=start, weights_only=False)
    return trainer


def steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step=")) for path in folder.glob("step=*.ckpt"))


def in_child(work: Callable[[], None]) -> int:
    """The exit status of a forked process, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [4, 8, 12]),
        ({"keep": 1}, [12]),
        ({"every_n_epochs": 2, "keep": -1}, [8, 12]),
        ({"every_n_epochs": 0, "every_n_train_steps": 5, "keep": -1}, [5, 10, 12]),
        ({"every_n_train_steps": 3, "keep": 4}, [6, 8, 9, 12]),
        ({"every_n_minutes": 1e-9, "keep": -1}, list(range(1, 13))),
        ({"every_n_minutes": 60.0, "every_n_epochs": 0, "keep": -1}, [12]),
    ],
)
def test_checkpoints__the_last_ones_are_kept(tmp_path: Path, settings: dict[str, Any], expected: list[int]) -> None:
    train(tmp_path, **settings)
    assert steps(tmp_path) == expected
    assert (tmp_path / "last.ckpt").readlink() == Path("step=12.ckpt") and newest_good(tmp_path).name == "last.ckpt"
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt"} | {f"step={step}.ckpt" for step in expected}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep": 0}, "checkpoint.keep must be at least 1, or -1 for all, got 0"),
        ({"every_n_minutes": 0.0}, "checkpoint.every_n_minutes must be positive, or null for none, got 0.0"),
        ({"every_n_train_steps": -2}, "checkpoint.every_n_train_steps must be positive"),
    ],
)
def test_checkpoints__settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Checkpoints(**settings)


def test_checkpoints__go_on_from_the_last_and_not_from_the_best(tmp_path: Path) -> None:
    train(tmp_path, monitor="score", mode="max", every_n_train_steps=1)
    assert [path.name for path in tmp_path.glob("best-*.ckpt")] == ["best-epoch=1-step=8.ckpt"]
    assert newest_good(tmp_path) == tmp_path / "last.ckpt"
    assert load(tmp_path / "last.ckpt")["global_step"] == 12


def test_checkpoints__the_best_are_remembered_when_a_run_goes_on(tmp_path: Path) -> None:
    train(tmp_path, monitor="score", mode="max", epochs=2)
    trainer = train(tmp_path, monitor="score", mode="max", start=tmp_path / "last.ckpt", every_n_minutes=5.0)
    assert [path.name for path in tmp_path.glob("best-*.ckpt")] == ["best-epoch=1-step=8.ckpt"]
    assert trainer.checkpoint_callback.best_model_path == str(tmp_path / "best-epoch=1-step=8.ckpt")


def test_checkpoints__weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    spoil = At(5, lambda trainer: trainer.lightning_module.layer.weight.data.fill_(torch.nan))
    with pytest.raises(ValueError, match=r"no finite numbers after 5 steps, .* it goes on from .*step=4\.ckpt"):
        train(tmp_path, spoil, every_n_train_steps=1)
    assert steps(tmp_path) == [2, 3, 4]


def test_checkpoints__those_of_an_abandoned_future_are_removed(tmp_path: Path) -> None:
    train(tmp_path, keep=-1)
    train(tmp_path, keep=-1, start=tmp_path / "step=4.ckpt", epochs=2)
    assert steps(tmp_path) == [4, 8]


def test_checkpoints__a_kill_while_writing_leaves_the_older_ones(tmp_path: Path) -> None:
    class Killed(dict):
        def __reduce__(self) -> tuple[Any, ...]:
            os.kill(os.getpid(), signal.SIGKILL)
            return dict, ()

    def work() -> None:
        train(tmp_path, epochs=1)
        AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(1000), "end": Killed()}, tmp_path / "step=5.ckpt")

    assert in_child(work) == -signal.SIGKILL
    assert newest_good(tmp_path) == tmp_path / "last.ckpt" and steps(tmp_path) == [4]
    assert len(list(tmp_path.glob(".step=5.ckpt.*.tmp"))) == 1
    train(tmp_path, epochs=2, start=newest_good(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"step=4.ckpt", "step=8.ckpt", "last.ckpt"}


def test_checkpoints__what_a_step_draws_is_the_same_in_a_run_that_goes_on(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", numbers=100)
    rest = train(tmp_path / "rest", numbers=100, start=tmp_path / "whole" / "step=8.ckpt")
    weights = [trainer.lightning_module.layer.weight for trainer in (whole, rest)]
    assert torch.equal(weights[0], weights[1])


def test_checkpoints__a_signal_in_the_last_step_ends_the_program(tmp_path: Path) -> None:
    def work() -> None:
        with StopSignals() as signals, pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
            train(tmp_path, At(12, lambda _: signal.raise_signal(signal.SIGTERM)), signals=signals)

    assert in_child(work) == 0
    assert steps(tmp_path) == [4, 8, 12]


def test_save_whole__keeps_an_error_that_is_not_the_disks(tmp_path: Path) -> None:
    class Stubborn:
        def __reduce__(self) -> tuple[Any, ...]:
            raise RuntimeError("cannot be kept")

    with pytest.raises(RuntimeError, match="cannot be kept"):
        save_whole({"state": Stubborn()}, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def limit(size: int) -> None:
    """From now on, a file of this process cannot grow beyond so many bytes: the disk's refusal by other means."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_checkpoints__a_full_disk_is_named_and_the_training_goes_on(tmp_path: Path) -> None:
    full, room = At(5, lambda _: limit(100_000)), At(8, lambda _: limit(resource.RLIM_INFINITY))

    def work() -> None:
        said = r"step=6\.ckpt could not be written \(File too large\): it needs 0\.2 MB, and its disk has .* free"
        with pytest.warns(UserWarning, match=said + ".*The training goes on, and tries again"):
            train(tmp_path, full, room, numbers=10_000, every_n_train_steps=2, keep=-1, monitor="score", mode="max")

    assert in_child(work) == 0
    assert steps(tmp_path) == [2, 4, 8, 10, 12]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith("tmp")]


def test_checkpoints__the_best_so_far_stays_on_a_full_disk(tmp_path: Path) -> None:
    def work() -> None:
        with pytest.warns(UserWarning, match=r"best-epoch=1-step=8\.ckpt could not be .* best checkpoints so far stay"):
            train(
                tmp_path, At(6, lambda _: limit(100_000)), At(9, lambda _: limit(resource.RLIM_INFINITY)), keep=1,
                numbers=10_000, monitor="score", mode="max", every_n_epochs=0,
            )  # fmt: skip

    assert in_child(work) == 0
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [
        "best-epoch=0-step=4.ckpt", "last.ckpt", "step=12.ckpt"
    ]  # fmt: skip


def test_checkpoints__an_end_that_cannot_be_saved_is_an_error(tmp_path: Path) -> None:
    def work() -> None:
        said = r"step=8\.ckpt could not be .* The training is over, but .* goes on from .*step=4\.ckpt"
        with pytest.raises(OSError, match=said):
            train(tmp_path, At(5, lambda _: limit(100_000)), numbers=10_000, epochs=2)
        limit(resource.RLIM_INFINITY)
        train(tmp_path, numbers=10_000, epochs=2, start=newest_good(tmp_path))

    assert in_child(work) == 0
    assert steps(tmp_path) == [4, 8]
