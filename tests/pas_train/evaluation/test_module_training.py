from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from pas_train.evaluation import module_training
from pas_train.evaluation.module_training import Training, fit_module, new_trainer, once, shared_batch
from pas_train.sharding import FullyShardedStrategy


class Tiny(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.layer(batch["values"]).square().mean() + 1

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def training(folder: Path, **more: Any) -> Training:
    section = {"accelerator": "cpu", "devices": 1, "max_epochs": 99, "precision": None}
    return Training("tried", section | more.pop("section", {}), folder, "food model", **more)


@pytest.mark.parametrize(
    ("length", "steps", "place"),
    [({"steps": 5}, 5, "step 5 of 5"), ({"epochs": 2}, 6, "epoch 2.0 of 2"), ({"epochs": 1}, 3, "epoch 1.0 of 1")],
)
def test_fit_module__is_as_long_as_asked_and_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    length: dict[str, int], steps: int, place: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(module_training, "LINE_S", 0.0)
    loader = DataLoader([{"values": torch.rand(2), "index": n} for n in range(12)], batch_size=4)
    trainer = new_trainer(one := training(tmp_path, **length))
    fit_module(trainer, Tiny(), loader, one, f"{one.length} of it")
    assert trainer.global_step == steps
    said = capsys.readouterr().out.splitlines()
    told = {2: "2 epochs", 1: "1 epoch", 5: "5 steps"}[next(iter(length.values()))]
    assert said[0] == f"tried         food model: {told} of it" and len(said) == steps + 1
    assert said[-1].startswith(f"tried         food model: {place}, loss 1.") and "images/s, 0:00:00 left" in said[-1]


def test_new_trainer__takes_devices_and_precision_and_nothing_else(tmp_path: Path) -> None:
    wanted = {"precision": "bf16-mixed", "strategy": "fsdp2", "accumulate_grad_batches": 4}
    trainer = new_trainer(training(tmp_path, steps=7, clip=0.5, section=wanted))
    assert (trainer.precision, trainer.max_steps, trainer.max_epochs, trainer.gradient_clip_val) == (
        "bf16-mixed", 7, -1, 0.5,
    )  # fmt: skip
    assert trainer.accumulate_grad_batches == 1 and trainer.logger is None
    assert not isinstance(trainer.strategy, FullyShardedStrategy)  # of a module that does not cut itself


def test_once__does_not_do_again_what_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, folder = tmp_path / "figures.json", tmp_path / "figures"
    folder.mkdir()
    done = []

    def work() -> dict[str, Any]:
        done.append(1)
        return {"top1": 0.25}

    for _ in range(2):
        told = once(training(folder), kept, work, lambda found: f"top-1 {found['top1']}")
        assert told == {"top1": 0.25}
    assert len(done) == 1 and not folder.exists()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("tried         food model: top-1 0.25, in 0:00:0")
    assert said[1] == f"tried         food model: top-1 0.25, finished before: {kept}"


def test_shared_batch__is_shared_evenly_or_refused() -> None:
    assert shared_batch("tried", 16, 100, 2, "food") == 16
    assert shared_batch("tried", 16, 11, 2, "food") == 10
    assert shared_batch("tried", 16, 11, 2, "food", pairs=True) == 8
    with pytest.raises(ValueError, match=r"evaluation\.tried\.batch_size 15 cannot be shared among 2 devices; make it"):
        shared_batch("tried", 15, 100, 2, "food")
    with pytest.raises(ValueError, match=r"'food' has 3 training images, too few for evaluation\.tried on 4 devices"):
        shared_batch("tried", 16, 3, 4, "food")
