"""A small training for tests of the methods: tiny backbones, fixed batches, a record of what is logged."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

VIT = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_options": {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8},
}
RESNET = {
    "backbone": "resnet18",
    "backbone_options": {"channels": (4, 4, 8, 8), "layers": (1, 1, 1, 1)},
    "small_images": True,
}
BATCH, STEPS_PER_EPOCH, EPOCHS = 8, 5, 2
# How far ten steps may be from those of a plain loop. In float32 each order of sums rounds in another way, and steps
# make more of it; in float64 only the loss is float32, so that what is left is its rounding.
PRECISIONS = [("32-true", 1e-5), ("64-true", 2e-6)]


def assert_same_ten_steps(method, recipe: dict, reference, precision: str, tolerance: float) -> None:
    """A method's ten steps have the losses of a plain loop, reference(module, recipe, dtype), and move."""
    module = method(**recipe)
    expected = reference(module, recipe, torch.float64 if precision == "64-true" else torch.float32)
    losses = [step["train/loss"] for step in train(module, precision=precision).steps]
    assert losses == pytest.approx(expected, abs=tolerance, rel=0)
    unmoved = train(method(**{**recipe, "base_lr": 0})).steps
    assert abs(losses[-1] - unmoved[-1]["train/loss"]) > 1e-3


def batches(count: int = STEPS_PER_EPOCH, size: int = 16) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, BATCH, 3, size, size)
    return [
        {
            "views": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
            "index": torch.arange(BATCH),
            "replaced": torch.zeros(1, dtype=torch.int64),
        }
        for _ in range(count)
    ]


class Record(Callback):
    """Keeps what a training logs, step by step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.shown: list[list[int]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.shown.append(batch["index"].tolist())
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def train(
    module: LightningModule, data=None, validation=None, ckpt_path=None, callbacks=(), record=True, **settings
) -> Record:
    kept = Record()
    options = {"max_epochs": EPOCHS, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    options |= {"limit_val_batches": 1.0 if validation else 0, "log_every_n_steps": 1}
    trainer = Trainer(**{**options, **settings}, callbacks=[*([kept] if record else []), *callbacks])
    loader = DataLoader(data or batches(), batch_size=None)
    trainer.fit(module, loader, validation or [], ckpt_path=ckpt_path)
    return kept
