"""The watch over a training: what is no number, what collapses, what gets worse, what could not be read."""

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from pas_train.checkpoints import restart_points
from pas_train.losses import gather_rows

LEAST_ROWS = 64  # below, neither the spread nor the rank says much


@torch.no_grad()
def rankme(embeddings: Tensor) -> Tensor:
    """Effective rank of embeddings [N, D], a scalar from 1 to min(N, D) (RankMe, Garrido et al. 2023, equation 1).

    The exponential of the entropy of the singular values over their sum; embeddings neither centred nor normalised.
    """
    rows = (embeddings.cpu() if embeddings.device.type == "mps" else embeddings).double()
    # The eigenvalues of the smaller product are the squares: cheaper, and in float64 exact enough.
    product = rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T
    values = torch.linalg.eigvalsh(product).clamp(min=0).sqrt()
    shares = values / values.sum().clamp(min=1e-30) + 1e-7
    return torch.exp(-(shares * shares.log()).sum()).float()


@torch.no_grad()
def feature_std(embeddings: Tensor) -> Tensor:
    """Standard deviation of the normalised embeddings [N, D] per dimension, times sqrt(D), a scalar.

    About 1 when all directions are used, 0 after a collapse.
    """
    return F.normalize(embeddings.float(), dim=1).std(dim=0).mean() * embeddings.shape[1] ** 0.5


class Watch(Callback):
    """Stops a training whose loss is no number or whose embeddings have collapsed; names what else goes wrong.

    Of the backbone's embeddings of all ranks it logs `train/feature_std` (about 1 when all directions are used, 0 after
    a collapse; at the log interval, of a step) and `train/rankme` (their effective rank; at a look, of the last rows).
    Where there are real and synthetic images, also of each: `train/rankme/real`, `train/rankme/synthetic`. Between two
    logs it neither computes nor waits for the device.

    Args:
        every_n_steps: Steps between two looks at the last embeddings.
        rows: Embeddings of a look.
        min_feature_std: A lower one is a collapse.
        min_rankme: A lower one is a collapse to a few directions.
        looks: Looks in a row at a collapse before it is taken for one; an untrained backbone's is none.
        stop_on_collapse: False only warns.
        knn_fall: Share of its best that the online k-NN accuracy may lose before it is named; null for never.
    """

    def __init__(
        self,
        every_n_steps: int = 200,
        rows: int = 2048,
        min_feature_std: float = 0.02,
        min_rankme: float = 1.5,
        looks: int = 3,
        stop_on_collapse: bool = True,
        knn_fall: float | None = 0.25,
    ) -> None:
        for name, value, least in (("every_n_steps", every_n_steps, 1), ("rows", rows, LEAST_ROWS), ("looks", looks, 1),
                                   ("min_feature_std", min_feature_std, 0), ("min_rankme", min_rankme, 0)):  # fmt: skip
            if value < least:
                raise ValueError(f"watch.{name} must be at least {least}, got {value}")
        if knn_fall is not None and not 0 < knn_fall < 1:
            raise ValueError(f"watch.knn_fall must be between 0 and 1, or null for never, got {knn_fall}")
        self.every_n_steps = every_n_steps
        self.rows = rows
        self.min_feature_std = min_feature_std
        self.min_rankme = min_rankme
        self.looks = looks
        self.stop_on_collapse = stop_on_collapse
        self.knn_fall = knn_fall
        # What stays on the device until somebody looks, so that watching costs no wait per step.
        self._losses: list[Tensor] = []
        self._replaced: list[Tensor] = []
        self._held: deque[tuple[Tensor, Tensor | None]] = deque()
        self._held_rows = 0
        # What a run that goes on must know.
        self._bad_looks = 0
        self._healthy_step: int | None = None  # of the last look that was no collapse
        self._best_knn: float | None = None
        self._fallen = False

    def state_dict(self) -> dict[str, Any]:
        """What has been seen so far."""
        return {"bad_looks": self._bad_looks, "healthy_step": self._healthy_step, "best_knn": self._best_knn,
                "fallen": self._fallen}  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what had been seen."""
        self._bad_looks, self._healthy_step = state_dict["bad_looks"], state_dict["healthy_step"]
        self._best_knn, self._fallen = state_dict["best_knn"], state_dict["fallen"]

    # The hooks.

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps what is to be looked at, and looks at it at the intervals."""
        step = trainer.global_step
        self._losses.append(outputs["loss"].detach())
        if isinstance(batch, dict) and "replaced" in batch:
            self._replaced.append(batch["replaced"])
        if isinstance(batch, dict) and "embeddings" in outputs:
            self._hold(outputs["embeddings"], batch.get("synthetic"), trainer.world_size)
        if step % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self._stop_if_not_finite(trainer, pl_module)
            trainer.progress_bar_metrics["loss"] = round(float(outputs["loss"]), 4)
            if self._held:
                for name, rows in _by_source(*_gathered([self._held[-1]])):
                    pl_module.log(f"train/feature_std{name}", feature_std(rows))
        if step % self.every_n_steps == 0:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs how many images were replaced by the next since the training (re)started."""
        self._stop_if_not_finite(trainer, pl_module)
        if self._replaced:
            self._replaced = [torch.stack([count.sum() for count in self._replaced]).sum()]
            total = gather_rows(self._replaced[0].to(pl_module.device).reshape(1)).sum()
            pl_module.log("train/replaced_images", total.float(), sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A last look, where there was none just before."""
        if trainer.global_step % self.every_n_steps:
            self._look(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Names a k-NN accuracy that falls."""
        value = trainer.callback_metrics.get("val/knn_top1")
        if value is None or self.knn_fall is None or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        now, best = float(value), self._best_knn or 0.0
        fallen = now < (1 - self.knn_fall) * best
        if fallen and not self._fallen:
            rank_zero_warn(
                f"The online k-NN accuracy fell to {100 * now:.1f} % at step {trainer.global_step}, from "
                f"{100 * best:.1f} % at its best. Look at train/loss and train/rankme; where they jump, "
                f"{remedy(pl_module)[0].lower()}{remedy(pl_module)[1:]}. checkpoint.monitor val/knn_top1 with "
                "checkpoint.mode max keeps the best"
            )
        self._fallen, self._best_knn = fallen, max(now, best)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps a training whose loss is no number out of checkpoints, which Lightning saves on all ranks together."""
        self._stop_if_not_finite(trainer, pl_module)

    # The parts.

    def _hold(self, embeddings: Tensor, synthetic: Tensor | None, world_size: int) -> None:
        """Keeps references to the last embeddings: of this rank its share of `rows`."""
        self._held.append((embeddings.detach(), synthetic))
        self._held_rows += len(embeddings)
        while self._held_rows - len(self._held[0][0]) >= math.ceil(self.rows / world_size):
            self._held_rows -= len(self._held.popleft()[0])

    def _look(self, trainer: Trainer, module: Any) -> None:
        """Logs the rank of the last embeddings; names a collapse, and stops the training where it stays."""
        if self._held_rows * trainer.world_size < LEAST_ROWS:
            return
        self._stop_if_not_finite(trainer, module)
        embeddings, synthetic = _gathered(self._held)
        spread = float(feature_std(embeddings))
        ranks = {f"train/rankme{name}": float(rankme(rows)) for name, rows in _by_source(embeddings, synthetic)}
        log_now(trainer, ranks)
        trainer.progress_bar_metrics["rankme"] = round(ranks["train/rankme"], 1)
        rank, step = ranks["train/rankme"], trainer.global_step
        if spread >= self.min_feature_std and rank >= self.min_rankme:
            self._bad_looks, self._healthy_step = 0, step
            return
        # Untrained backbones may map all images to nearly one place: that is a start, not a collapse.
        if self._healthy_step is None and module.fractional_epoch < module.warmup_epochs:
            return
        self._bad_looks += 1
        stopping = self.stop_on_collapse and self._bad_looks >= self.looks
        if not stopping and self._bad_looks > 1:
            return
        text = (
            f"The embeddings have collapsed at step {step}, epoch {module.fractional_epoch:.2f}: their features' "
            f"standard deviation is {spread:.4f} (about 1 is healthy, below {self.min_feature_std} a collapse) and "
            f"their effective rank {rank:.1f} of {embeddings.shape[1]} (below {self.min_rankme} a collapse). "
            f"{remedy(module)}, or raise data.batch_size"
        )
        if stopping:
            raise ValueError(f"{text}. {goes_on(trainer, self._healthy_step)}. watch.stop_on_collapse false only warns")
        left = f" It stops after {self.looks} such looks in a row." if self.stop_on_collapse else ""
        rank_zero_warn(f"{text}.{left}")

    def _stop_if_not_finite(self, trainer: Trainer, module: Any) -> None:
        """Raises ValueError, on all ranks, where a loss of any since the last time was no number."""
        if not self._losses:
            return
        finite = gather_rows(torch.isfinite(torch.stack(self._losses)).view(1, -1).int()).bool().all(dim=0)
        count = len(finite)
        self._losses = []
        if bool(finite.all()):
            return
        # The loss of step n is that of the weights after n - 1 steps: what was saved then is no good either.
        first = trainer.global_step - count + int((~finite).int().argmax()) + 1
        raise ValueError(
            f"The loss is not a finite number at step {first}, epoch {first / trainer.num_training_batches:.2f}. "
            f"{remedy(module)}, or use trainer.precision 32-true. {goes_on(trainer, first - 2)}"
        )


def remedy(module: Any) -> str:
    """The settings that a training which went wrong needs changed, with their values."""
    if not hasattr(module, "base_lr"):  # no method of ours
        return "Lower the learning rate"
    return f"Lower model.base_lr ({module.base_lr}), lengthen model.warmup_epochs ({module.warmup_epochs})"


def goes_on(trainer: Trainer, step: int | None) -> str:
    """How to go on from the last good checkpoint: the newest that was saved up to this step."""
    points: dict[int, Path] = {}
    for callback in trainer.checkpoint_callbacks:
        folder = getattr(callback, "dirpath", None)
        points |= restart_points(Path(folder)) if folder is not None and Path(folder).is_dir() else {}
    good = [number for number in points if step is not None and number <= step]
    if not good:
        return "No good checkpoint was saved before, so the training has to start again"
    return (
        f"The last good checkpoint is {points[max(good)]}: `fit` with changed settings and --ckpt_path goes on from it"
    )


def log_now(trainer: Trainer, numbers: dict[str, float]) -> None:
    """Sends numbers that belong to this step alone to the loggers; Lightning's log repeats the last ones all epoch."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in numbers.items()})
    for logger in trainer.loggers:
        logger.log_metrics({**numbers, "epoch": trainer.current_epoch}, step=trainer.global_step - 1)


def _gathered(held: Any) -> tuple[Tensor, Tensor | None]:
    """(embeddings [N, D], bool [N] or None) of all ranks."""
    embeddings, synthetic = zip(*held, strict=True)
    sources = None if synthetic[0] is None else gather_rows(torch.cat(synthetic))
    return gather_rows(torch.cat(embeddings)), sources


def _by_source(embeddings: Tensor, synthetic: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    """("", all rows), and those of either source where there are enough of both."""
    yield "", embeddings
    if synthetic is not None:
        real, made = embeddings[~synthetic], embeddings[synthetic]
        if len(real) > 1 and len(made) > 1:
            yield "/real", real
            yield "/synthetic", made
