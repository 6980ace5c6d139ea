import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

from pas_train.methods import NNCLR, MoCoV3
from pas_train.throughput import Throughput, flops_per_image, peak_flops, progress_line
from tests.pas_train.methods.small_training import BATCH, RESNET, VIT, batches, train

SMALL = {"image_size": 16, "projector_hidden": 24, "projector_dim": 8, "base_lr": 0.02, "warmup_epochs": 0}


class Slow:
    """Batches that each take their time to load."""

    def __init__(self, seconds: float, count: int = 30) -> None:
        self.seconds, self.batches = seconds, batches(count)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, place: int) -> dict:
        time.sleep(self.seconds)
        return self.batches[place]


class SlowToJudge(MoCoV3):
    def validation_step(self, batch: dict, batch_idx: int, dataloader_idx: int = 0) -> None:
        time.sleep(2)

    def on_validation_epoch_end(self) -> None:
        self.log("val/knn_top1", 0.5)


def test_flops__of_the_papers_model_are_eight_forwards() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.device("meta"):
                self.backbone = timm.create_model("vit_base_patch16_224", num_classes=0)
                self.momentum_backbone = timm.create_model("vit_base_patch16_224", num_classes=0).requires_grad_(False)
            self.image_size = 224

    # timm's table: 17.58 billion multiply-adds a forward; its count leaves out nothing that is worth mentioning.
    assert flops_per_image(Parts()) == pytest.approx(2 * (3 + 1) * 2 * 17.58e9, rel=2e-3)


def test_flops__of_heads_by_hand() -> None:
    module = NNCLR(**RESNET, image_size=16, projector_hidden=24, projector_dim=8, predictor_hidden=40, support_size=32)
    module.backbone = nn.Sequential(nn.Flatten(), nn.Linear(768, 8))
    multiply_adds = 768 * 8 + 8 * 24 + 24 * 24 + 24 * 8 + 8 * 40 + 40 * 8
    assert flops_per_image(module) == 2 * 3 * 2 * multiply_adds


def test_flops__of_another_module_are_not_counted() -> None:
    assert flops_per_image(nn.Linear(2, 2)) is None


def test_peak__is_not_known_of_a_processor() -> None:
    assert peak_flops(torch.device("cpu"), "32-true") is None


def test_throughput__says_that_the_data_path_is_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    module = MoCoV3(**VIT, **SMALL)
    train(module, Slow(0.08, 25), max_epochs=1, log_every_n_steps=5, callbacks=[Throughput(peak_tflops=1e-3)])
    logged = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
    step, rate = logged["throughput/step_seconds"], logged["throughput/images_per_second"]
    assert step > 0.08 and rate == pytest.approx(BATCH / step, rel=1e-4)
    assert 0.3 < logged["throughput/data_wait"] <= 1 and logged["throughput/peak_memory_gb"] > 0.1
    assert logged["throughput/mfu"] == pytest.approx(flops_per_image(module) * rate / 1e9, rel=1e-4)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("throughput")]
    assert len(said) == 3 and "images/s" in said[1] and said[0].startswith("throughput  The data path is the limit: ")
    assert "To go faster, give the training more cores" in said[2] and "waited for images" in said[2]


def test_throughput__counts_all_ranks_and_the_one_that_waits_most(two_ranks: Callable) -> None:
    def work(rank: int) -> None:
        module = MoCoV3(**VIT, **SMALL)
        train(module, Slow(0.08 * rank, 12), max_epochs=1, log_every_n_steps=6, callbacks=[Throughput()],
              devices=2, strategy="ddp", use_distributed_sampler=False)  # fmt: skip
        logged = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
        step = logged["throughput/step_seconds"]
        assert logged["throughput/images_per_second"] == pytest.approx(2 * BATCH / step, rel=1e-4)
        assert logged["throughput/data_wait"] == pytest.approx(0.08 / step, rel=0.2)

    two_ranks(work)


def test_throughput__leaves_out_validations_and_loaders_that_keep_up(capsys: pytest.CaptureFixture[str]) -> None:
    module = SlowToJudge(**VIT, **SMALL)
    validation = DataLoader([0], batch_size=None)
    train(module, Slow(0, 30), validation, max_epochs=1, val_check_interval=15, log_every_n_steps=30,
          callbacks=[Throughput(data_limit=0.6)])  # fmt: skip
    assert float(module.trainer.callback_metrics["throughput/step_seconds"]) < 4 / 28
    assert "The data path" not in capsys.readouterr().out


def test_throughput__writes_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    train(MoCoV3(**VIT, **SMALL), batches(5), max_epochs=2, log_every_n_steps=5, callbacks=[Throughput()])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("training")]
    assert len(lines) == 1  # the second would come too soon
    assert lines[0].startswith("training    step 5 of 10, epoch 1.0 of 2, loss ") and lines[0].endswith(" left")


def test_progress_line__tells_what_is_left_in_days_too() -> None:
    metrics = {"train/loss": torch.tensor(2.5), "val/knn_top1": torch.tensor(0.612)}
    trainer = SimpleNamespace(
        callback_metrics=metrics, estimated_stepping_batches=100_000, global_step=1000, max_epochs=100,
        num_training_batches=1000,
    )  # fmt: skip
    span = SimpleNamespace(images=51_200, seconds=100.0, steps=50)
    assert progress_line(trainer, span) == (
        "training    step 1,000 of 100,000, epoch 1.0 of 100, loss 2.500, k-NN 61.2 %, 512 images/s, 2 d 7:00:00 left"
    )


@pytest.mark.parametrize("settings", [{"data_limit": 0}, {"data_limit": 2}, {"peak_tflops": -1}])
def test_throughput__wrong_settings_name_their_key(settings: dict) -> None:
    with pytest.raises(ValueError, match=rf"throughput\.{next(iter(settings))}"):
        Throughput(**settings)
