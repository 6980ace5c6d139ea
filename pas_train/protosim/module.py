"""ProtoSim's training (van Noord 2023, "Prototype-based Dataset Comparison"), with DINO's loss and schedules."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from pas_train.losses import world
from pas_train.methods.base import IMAGENET_MEAN, IMAGENET_STD
from pas_train.optim import momentum_cosine, warmup_cosine
from pas_train.protosim.model import FrozenTransformer, PrototypeHead, load_dino_heads


class ProtoSim(LightningModule):
    """Learns prototypes of what the patches of two data sets show; both are trained on together.

    `data.source` is a list of the two, and `data` a `datamodules.multi_crop.MultiCropDataModule`. The transformer is
    frozen: its tokens give way to the prototypes that they draw, and one more block and DINO's head are trained with
    the prototypes so that crops of an image agree. At the end each token of each image is given to its closest
    prototype, and the run's folder gets `protosim/`: which prototypes both sets use, and which only one.

    Defaults are the published run's (20 epochs, batch 128 a GPU). The Gumbel noise is drawn on each rank, so that runs
    on other numbers of processes differ in it; a run that goes on draws what it would have drawn.

    Args:
        backbone: name of one of timm's vision transformers with a class token.
        weights: of the transformer: "timm" or "timm:TAG", "hf:NAME", a folder or a file; null leaves it at random
            weights, for trials.
        heads: DINO's full checkpoint, whose heads student and teacher begin with, as the published run's did; null
            begins at random.
        prototypes: how many.
        temperature: of the Gumbel softmax.
        hard_from: epoch from which each token draws one prototype instead of a mixture.
        base_lr: learning rate at a global batch of 256; scaled linearly with the batch.
        min_lr: at the end of the cosine, not scaled.
        warmup_epochs: epochs of linear warm-up.
        weight_decay: at the start and at the end of a cosine; biases and norms have none.
        momentum: of the teacher at the start; it rises to 1 along a cosine.
        clip: the gradient of each tensor is scaled down to this norm at most; 0 leaves them.
        freeze_last_layer: epochs in which the head's last layer does not learn.
        drop_path: of the added block.
        output_dim: of DINO's head.
        hidden_dim: of its hidden layers.
        bottleneck_dim: of its normalised layer.
        teacher_temperature: of the teacher's softmax.
        analysed: whose prototypes the comparison takes.
        image_size: side of the large crops in pixels.
        seed: of initial weights and noise.
        backbone_options: further arguments of the timm model.
        mean: of the colours in [0, 1], taken off on the device.
        std: of the colours.
    """

    def __init__(
        self,
        backbone: str = "vit_small_patch16_224",
        weights: str | None = "timm:dino",
        heads: str | None = None,
        prototypes: int = 8192,
        temperature: float = 1.0,
        hard_from: int = 15,
        base_lr: float = 5e-4,
        min_lr: float = 5e-5,
        warmup_epochs: float = 10,
        weight_decay: tuple[float, float] = (0.04, 0.4),
        momentum: float = 0.996,
        clip: float = 3.0,
        freeze_last_layer: int = 1,
        drop_path: float = 0.1,
        output_dim: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        teacher_temperature: float = 0.04,
        analysed: Literal["teacher", "student"] = "teacher",
        image_size: int = 224,
        seed: int = 0,
        backbone_options: Mapping[str, Any] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        for name, value in (("prototypes", prototypes), ("output_dim", output_dim), ("image_size", image_size)):
            if value < 2:
                raise ValueError(f"model.{name} must be at least 2, got {value}")
        if temperature <= 0 or teacher_temperature <= 0:
            raise ValueError(
                "model.temperature and model.teacher_temperature must be positive, got "
                f"{temperature} and {teacher_temperature}"
            )
        if min(base_lr, min_lr, warmup_epochs, *weight_decay, clip) < 0 or not 0 <= momentum <= 1:
            raise ValueError(
                "model.base_lr, min_lr, warmup_epochs, weight_decay and clip must not be negative, and momentum lie "
                f"between 0 and 1, got {base_lr}, {min_lr}, {warmup_epochs}, {weight_decay}, {clip} and {momentum}"
            )
        self.save_hyperparameters()
        self.temperature, self.hard_from, self.clip = temperature, hard_from, clip
        self.base_lr, self.min_lr, self.warmup_epochs = base_lr, min_lr, warmup_epochs
        self.weight_decay, self.base_momentum = weight_decay, momentum
        self.freeze_last_layer, self.analysed, self.image_size, self.seed = (
            freeze_last_layer,
            analysed,
            image_size,
            seed,
        )
        options = dict(backbone_options or {})
        with self.drawing(-1):
            self.vit = FrozenTransformer(backbone, weights, image_size, options, tuple(mean), tuple(std))
            sizes = (self.vit.width, prototypes, output_dim, hidden_dim, bottleneck_dim)
            self.student = PrototypeHead(*sizes, drop_path)
            self.teacher = PrototypeHead(*sizes, 0.0)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.told = [f"weights     {self.vit.told}"]
        if heads is not None:
            self.told.append(f"weights     {load_dino_heads(heads, self.student, self.teacher)}")
        from lightly.loss.dino_loss import DINOLoss

        self.loss = DINOLoss(output_dim, teacher_temp=teacher_temperature)

    @contextmanager
    def drawing(self, step: int) -> Iterator[None]:
        """Random numbers inside are those of a step (-1: the initial weights) on this rank, and leave others alone."""
        # Mixed into 32 bits: torch's generator on the CPU ignores a seed's upper half.
        seed = int(np.random.SeedSequence((self.seed, step + 1, world()[0] if step >= 0 else 0)).generate_state(1)[0])
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield

    # Numbers of the step.

    @property
    def total_epochs(self) -> float:
        """Length of the schedules: trainer.max_epochs, or what trainer.max_steps amounts to if that is shorter."""
        return self.trainer.estimated_stepping_batches / self.trainer.num_training_batches

    @property
    def fractional_epoch(self) -> float:
        """Epochs done before this step."""
        return self.trainer.global_step / self.trainer.num_training_batches

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Sets rate and weight decay of this step."""
        epoch, epochs = self.fractional_epoch, self.total_epochs
        size = len(batch["index"]) * self.trainer.world_size
        rate = warmup_cosine(epoch, self.base_lr, size, self.warmup_epochs, epochs)
        if epoch >= self.warmup_epochs:  # the cosine ends at min_lr
            peak = self.base_lr * size / 256
            rate = self.min_lr + (peak - self.min_lr) * rate / peak if peak else 0.0
        first, last = self.weight_decay
        decay = last + (first - last) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
                group["weight_decay"] = decay if group["decays"] else 0.0

    # The method.

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """The whole method: tokens of the frozen transformer, student on all crops, teacher on the large ones, loss."""
        large, small = batch["views"], batch.get("small_views")
        with self.drawing(self.global_step):
            tokens = self.vit(large.flatten(0, 1))
            hard = self.current_epoch >= self.hard_from
            students = list(self.student(tokens, self.vit, self.temperature, hard).chunk(len(large)))
            if small is not None:
                crops = self.student(self.vit(small.flatten(0, 1)), self.vit, self.temperature, hard)
                students += crops.chunk(len(small))
            with torch.no_grad():
                teachers = self.teacher(tokens, self.vit, self.temperature, hard).chunk(len(large))
        with torch.autocast(self.device.type, enabled=False):
            loss = self.loss([one.float() for one in teachers], [one.float() for one in students])
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return {"loss": loss}

    def on_after_backward(self) -> None:
        """The head's last layer does not learn in the first epochs."""
        if self.current_epoch < self.freeze_last_layer:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Scales the gradient of each tensor down to the norm `clip`, as DINO does, not that of all together."""
        if not self.clip:
            return
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        factors = (self.clip / (norms + 1e-6)).clamp(max=1)
        torch._foreach_mul_(gradients, list(factors.unbind()))

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """One step of the student, then of the teacher towards it: before any callback saves a checkpoint."""
        momentum = momentum_cosine(self.fractional_epoch, self.base_momentum, self.total_epochs)
        super().optimizer_step(*arguments, **options)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)

    def configure_optimizers(self) -> Optimizer:
        """AdamW; the schedules set rate and decay."""
        trained = [p for p in self.student.parameters() if p.requires_grad]
        matrices, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        groups = [{"params": matrices, "decays": True}, {"params": others, "decays": False}]
        return torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, fused=True)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Nothing: a comparison has no labelled images."""

    def assign(self, images: Tensor) -> Tensor:
        """int64 [N, T]: the prototype of each token of uint8 images [N, 3, S, S]; token 0 is the class token."""
        head = self.teacher if self.analysed == "teacher" else self.student
        return head.assign(self.vit(images))

    # Lightning's hooks around a run.

    def on_fit_start(self) -> None:
        """Says what the transformer is."""
        if self.trainer.is_global_zero:
            print("\n".join(self.told), flush=True)

    def on_fit_end(self) -> None:
        """Compares the data sets, on all ranks together."""
        data: Any = getattr(self.trainer, "datamodule", None)
        folder = self._run_folder()
        if data is None or data.rows is None or folder is None:
            return
        from pas_train.protosim.comparing import compare_trained

        compare_trained(self, data, folder / "protosim")

    def _run_folder(self) -> Path | None:
        """training/<run>, whose checkpoints the trainer writes."""
        folders = [getattr(callback, "dirpath", None) for callback in self.trainer.checkpoint_callbacks]
        return next((Path(folder).parent for folder in folders if folder is not None), None)
