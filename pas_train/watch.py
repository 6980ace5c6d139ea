"""The watch over a training: what is no number, what collapses, what could not be read."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from pas_train.losses import gather_rows

COLLAPSED_STD = 0.02  # of 1 for embeddings that use all directions evenly


class Watch(Callback):
    """Stops a training whose loss is no number, names a collapse, counts replaced images.

    `train/feature_std` is the standard deviation of the normalised embeddings per dimension, times sqrt(D): about 1
    when all directions are used, 0 after collapse.
    """

    def __init__(self) -> None:
        self._not_finite: Tensor | None = None  # stays on the device, so that watching it costs no wait per step
        self._replaced: Tensor | int = 0  # likewise

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops a training whose loss is no number; on a GPU at the interval of the log, as looking waits for it."""
        bad = ~torch.isfinite(outputs["loss"].detach())
        self._not_finite = bad if self._not_finite is None else self._not_finite | bad
        self._replaced = self._replaced + batch["replaced"] if "replaced" in batch else self._replaced
        if "embeddings" in outputs:
            embeddings = outputs["embeddings"]
            spread = F.normalize(embeddings.float(), dim=1).std(dim=0).mean() * embeddings.shape[1] ** 0.5
            pl_module.log("train/feature_std", spread)
        interval = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if pl_module.device.type == "cpu" or trainer.global_step % interval == 0:
            self._stop_if_not_finite(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Names a collapse, and logs how many images were replaced by the next since the training (re)started."""
        self._stop_if_not_finite(trainer, pl_module)
        replaced = gather_rows(torch.as_tensor(self._replaced, device=pl_module.device).reshape(1)).sum()
        pl_module.log("train/replaced_images", replaced.float(), sync_dist=True)
        spread = trainer.callback_metrics.get("train/feature_std")
        if spread is not None and float(spread) < COLLAPSED_STD:
            rank_zero_warn(
                f"The embeddings have collapsed: train/feature_std is {float(spread):.4f} (about 1 is healthy). Lower "
                "model.base_lr, lengthen model.warmup_epochs or raise data.batch_size."
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps weights that are no numbers out of checkpoints."""
        self._stop_if_not_finite(trainer, pl_module)

    def _stop_if_not_finite(self, trainer: Trainer, module: Any) -> None:
        if self._not_finite is not None and bool(self._not_finite):
            self._not_finite = None
            raise ValueError(
                f"The loss is not a finite number at step {trainer.global_step}, epoch {module.fractional_epoch:.2f}. "
                f"Lower model.base_lr ({module.base_lr}), lengthen model.warmup_epochs ({module.warmup_epochs}) or use "
                "trainer.precision 32-true; then continue from the last checkpoint."
            )
