"""What every pretraining method shares: optimiser, schedules per step, the online k-NN protocol, failure watching."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from pas_train.evaluation.knn import knn_predict
from pas_train.losses import gather_rows
from pas_train.optim import LARS, warmup_cosine

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
COLLAPSED_STD = 0.02  # of 1 for embeddings that use all directions evenly


class PretrainingMethod(LightningModule):
    """Base of the methods. A subclass sets `backbone` and writes `training_step`, ending it with `report`.

    Training batches: {"views": uint8 [2, B, 3, S, S], "index": int64 [B], "replaced": int64 [1]}. Validation loaders:
    the labelled bank, then the labelled queries, of {"image": uint8 [B, 3, S, S], "label": [B], "index": [B]}.
    """

    backbone: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        base_lr: float,
        warmup_epochs: float,
        weight_decay: float,
        optimizer: Literal["adamw", "lars"],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        if optimizer not in ("adamw", "lars"):
            raise ValueError(f"model.optimizer: {optimizer!r} is not known; choices: adamw, lars")
        for name, value in (("base_lr", base_lr), ("warmup_epochs", warmup_epochs), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"model.{name} must not be negative, got {value}")
        self.base_lr = base_lr
        self.warmup_epochs = warmup_epochs
        self.weight_decay = weight_decay
        self.optimizer_name = optimizer
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255, persistent=False)
        self._not_finite: Tensor | None = None  # stays on the device, so that watching it costs no wait per step
        self._replaced: Tensor | int = 0  # likewise
        self._embedded: tuple[list[tuple[Tensor, ...]], list[tuple[Tensor, ...]]] = ([], [])

    # Numbers of the step.

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)

    @property
    def total_epochs(self) -> float:
        """Length of the schedules: what ends first of trainer.max_epochs and what trainer.max_steps amounts to."""
        ends = []
        if self.trainer.max_epochs is not None and self.trainer.max_epochs > 0:
            ends.append(float(self.trainer.max_epochs))
        if self.trainer.max_steps > 0:
            ends.append(self.trainer.max_steps / self.steps_per_epoch)
        if not ends:
            raise ValueError("trainer.max_epochs or trainer.max_steps must be set: the schedules end with the training")
        return min(ends)

    @property
    def fractional_epoch(self) -> float:
        """Epochs done before this step; the place in both schedules, also after a restart."""
        return self.trainer.global_step / self.steps_per_epoch

    def normalise(self, images: Tensor) -> Tensor:
        """The uint8 images [..., 3, S, S] as floats, less the mean and over the standard deviation of the colours."""
        return (images.to(self.std.dtype) - self.mean) / self.std

    # Lightning's hooks.

    def configure_optimizers(self) -> Optimizer:
        """One group with all trainable parameters, biases and norms included, as in MoCo v3."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        if self.optimizer_name == "lars":
            return LARS(trainable, weight_decay=self.weight_decay)
        # Capturable state is not needed; fused is one kernel per step on CPU and GPU.
        return torch.optim.AdamW(trainable, lr=0.0, weight_decay=self.weight_decay, fused=True)

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Sets the learning rate of this step from its fractional epoch and the global batch."""
        global_batch = len(batch["index"]) * self.trainer.world_size * self.trainer.accumulate_grad_batches
        rate = warmup_cosine(self.fractional_epoch, self.base_lr, global_batch, self.warmup_epochs, self.total_epochs)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def report(self, loss: Tensor, embeddings: Tensor, **numbers: float) -> None:
        """Logs a training step and watches for a loss that is not finite.

        embeddings: the backbone's of one view [B, D]. `train/feature_std` is the standard deviation of the
        normalised embeddings per dimension, times sqrt(D): about 1 when all directions are used, 0 after collapse.
        """
        bad = ~torch.isfinite(loss.detach())
        self._not_finite = bad if self._not_finite is None else self._not_finite | bad
        spread = F.normalize(embeddings.detach().float(), dim=1).std(dim=0).mean() * embeddings.shape[1] ** 0.5
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict({"train/lr": rate, "train/feature_std": spread, **numbers})

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Stops a training whose loss is no number; on a GPU at the interval of the log, as looking waits for it."""
        self._replaced = self._replaced + batch["replaced"] if "replaced" in batch else self._replaced
        interval = max(1, self.trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if self.device.type == "cpu" or self.trainer.global_step % interval == 0:
            self._stop_if_not_finite()

    def on_train_epoch_end(self) -> None:
        """Names a collapse, and logs how many images were replaced by the next since the training (re)started."""
        self._stop_if_not_finite()
        replaced = gather_rows(torch.as_tensor(self._replaced, device=self.device).reshape(1)).sum()
        self.log("train/replaced_images", replaced.float(), sync_dist=True)
        spread = self.trainer.callback_metrics.get("train/feature_std")
        if spread is not None and float(spread) < COLLAPSED_STD:
            rank_zero_warn(
                f"The embeddings have collapsed: train/feature_std is {float(spread):.4f} (about 1 is healthy). Lower "
                "model.base_lr, lengthen model.warmup_epochs or raise data.batch_size."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps weights that are no numbers out of checkpoints."""
        self._stop_if_not_finite()

    def _stop_if_not_finite(self) -> None:
        if self._not_finite is not None and bool(self._not_finite):
            self._not_finite = None
            raise ValueError(
                f"The loss is not a finite number at step {self.trainer.global_step}, epoch "
                f"{self.fractional_epoch:.2f}. Lower model.base_lr ({self.base_lr}), lengthen model.warmup_epochs "
                f"({self.warmup_epochs}) or use trainer.precision 32-true; then continue from the last checkpoint."
            )

    # The online k-NN protocol.

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, Tensor]:
        """(int64 [B] rows, float32 [B, D] the query encoder's embeddings, not normalised) of {"image", "row"}."""
        return batch["row"], self.backbone(self.normalise(batch["image"])).float()

    def on_validation_epoch_start(self) -> None:
        """Forgets the embeddings of an earlier validation."""
        self._embedded = ([], [])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Embeds labelled images with the query encoder's backbone: loader 0 is the bank, loader 1 the queries."""
        embeddings = F.normalize(self.backbone(self.normalise(batch["image"])).float(), dim=1)
        self._embedded[dataloader_idx].append((embeddings, batch["label"], batch["index"]))

    def on_validation_epoch_end(self) -> None:
        """Logs val/knn_top1, the share of queries whose most similar bank image has their class (k = 1, cosine)."""
        embedded, self._embedded = self._embedded, ([], [])
        if self.trainer.sanity_checking or not embedded[0] or not embedded[1]:
            return
        bank, bank_labels = self._gather(embedded[0])
        queries, query_labels = self._gather(embedded[1])
        correct = knn_predict(bank, bank_labels, queries) == query_labels
        self.log("val/knn_top1", correct.float().mean(), prog_bar=True, sync_dist=True)

    def _gather(self, batches: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
        """Embeddings and labels of all ranks in order of the images, each image once."""
        embeddings, labels, index = (gather_rows(torch.cat(parts)) for parts in zip(*batches, strict=True))
        # Ranks have equal numbers of images, so some appear twice; the first of each is kept.
        order = torch.argsort(index, stable=True)
        kept = order[torch.cat([order.new_ones(1, dtype=torch.bool), index[order][1:] != index[order][:-1]])]
        return embeddings[kept], labels[kept]
