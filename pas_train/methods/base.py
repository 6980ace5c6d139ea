"""What every pretraining method shares: backbone, optimiser, learning rate per step, the online k-NN protocol."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from pas_train.backbones import build_backbone, has_batch_norm, is_transformer
from pas_train.evaluation.knn import knn_predict
from pas_train.losses import gather_rows
from pas_train.optim import OptimizerName, build_optimizer, check_optimizer, warmup_cosine
from pas_train.ranks import prepare_ranks
from pas_train.sharding import FullyShardedStrategy, is_sharded, shard
from pas_train.speed import compile_options, in_channels_last, not_compiled, prepare
from pas_train.watch import Watch
from pas_train.weights import load_start

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PretrainingMethod(LightningModule):
    """Base of the methods. A subclass adds its heads (inside `seeded`) and writes `training_step`.

    Training batches: those of `datamodules.two_views.TwoViewDataset`, whose "views" are uint8 [2, B, 3, S, S].
    `training_step` ends with `report`. Validation loaders: the labelled bank, then the labelled queries, of
    {"image": uint8 [B, 3, S, S], "label": [B], "index": [B]}.

    Args:
        backbone: name of a timm model.
        base_lr: learning rate at a global batch of 256; scaled linearly with the batch.
        warmup_epochs: epochs of linear warm-up; a cosine to 0 follows.
        weight_decay: of all parameters with adamw, of weights only with lars.
        optimizer: adamw, lars (MoCo v3's) or lars_timm (the form of timm and lightly).
        image_size: side of the views in pixels.
        seed: of the initial weights.
        fixed_position: MoCo v3's sine-cosine position embedding (vision transformers only).
        frozen_patches: a random patch projection that is never trained (vision transformers only).
        paper_init: MoCo v3's initial weights (vision transformers only).
        small_images: a 3x3 stem without pooling (ResNets only).
        backbone_options: further arguments of the timm model; {"num_heads": 12} makes timm's ViT-S the paper's.
        mean: of the colours in [0, 1], taken off on the device.
        std: of the colours.
        sync_batchnorm: batch norms take mean and variance over the batches of all processes, as in the papers; false
            makes them, and with them the training, depend on how many processes there are.
        weights: what a training starts from instead of random weights: "timm" or "timm:TAG" (timm's own of the
            backbone), "hf:NAME" (a repository of the Hugging Face hub) or a folder of transformers or timm, or a file:
            official MoCo v3, a .ckpt of a training, torchvision, timm. What fixed_position and
            frozen_patches name then stays as it came. A training that goes on needs the file no more.
        compile: true has torch.compile make the backbones faster, a string names its mode or its backend. It costs
            minutes at the start, and a compiler must be there; the numbers differ by rounding.
        channels_last: memory order of the convolutions' images; null has the channels last for ResNets on a GPU.
        float32_matmul: of float32 products on a GPU; "high" takes TF32, which is more exact than the papers' 16 bits,
            "highest" does not. Under trainer.precision bf16-mixed the losses and NNCLR's look-up are
            such products; on a CPU it does nothing.
    """

    mean: Tensor
    std: Tensor
    passes_per_image = 2  # of its views through encoders, a momentum encoder's too

    def __init__(
        self,
        backbone: str,
        base_lr: float,
        warmup_epochs: float,
        weight_decay: float,
        optimizer: OptimizerName,
        image_size: int = 224,
        seed: int = 0,
        fixed_position: bool = True,
        frozen_patches: bool = True,
        paper_init: bool = True,
        small_images: bool = False,
        backbone_options: Mapping[str, Any] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        sync_batchnorm: bool = True,
        weights: str | None = None,
        compile: bool | str = False,
        channels_last: bool | None = None,
        float32_matmul: Literal["highest", "high", "medium"] = "high",
    ) -> None:
        super().__init__()
        compile_options(compile)
        check_optimizer(optimizer)
        for name, value in (("base_lr", base_lr), ("warmup_epochs", warmup_epochs), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"model.{name} must not be negative, got {value}")
        self.image_size = image_size
        self.base_lr = base_lr
        self.warmup_epochs = warmup_epochs
        self.weight_decay = weight_decay
        self.sync_batchnorm = sync_batchnorm
        self.compile_setting, self.channels_last = compile, channels_last
        self.float32_matmul = float32_matmul
        self.backbone_name = backbone
        self.weights = weights
        self.started = False  # whether `weights` are in, or a checkpoint of a training that started from them
        self.optimizer_name: OptimizerName = optimizer
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255, persistent=False)
        self._stream = torch.Generator().manual_seed(seed).get_state()
        with self.seeded():
            self.backbone = build_backbone(
                backbone, image_size, fixed_position, frozen_patches, paper_init, small_images, backbone_options
            )
        self.transformer = is_transformer(self.backbone)
        self.width = int(self.backbone.num_features)  # type: ignore[arg-type]
        # With BatchNorm each view keeps its own statistics, so the views go through the backbone one by one.
        self.separate_views = has_batch_norm(self.backbone)
        self._embedded: tuple[list[tuple[Tensor, ...]], list[tuple[Tensor, ...]]] = ([], [])

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Initial weights made inside come from the module's own stream, and leave the global generator alone."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._stream)
            yield
            self._stream = torch.get_rng_state()

    # Numbers of the step.

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return int(self.trainer.num_training_batches)

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

    def check_images(self, side: int) -> None:
        """Raises ValueError where the backbone cannot take images of this side in pixels."""
        flexible = not self.transformer or getattr(self.backbone, "dynamic_img_size", False)
        if side != self.image_size and not flexible:
            raise ValueError(
                f"model.image_size is {self.image_size}, but data.image_size {side}: a vision transformer is built for "
                "one size; set both to the same"
            )

    def normalise(self, images: Tensor) -> Tensor:
        """The uint8 images [..., 3, S, S] as floats, less the mean and over the standard deviation of the colours."""
        return (images.to(self.std.dtype) - self.mean) / self.std

    def embed_views(self, backbone: nn.Module, views: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [B, D] of both views of [2, B, 3, S, S]: one forward, or two where BatchNorm is in the way."""
        if in_channels_last(self, self.channels_last):
            views = views.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)  # the same, else in memory
        if self.separate_views:
            return backbone(views[0]), backbone(views[1])
        first, second = backbone(views.flatten(0, 1)).chunk(2)
        return first, second

    # Lightning's hooks.

    def setup(self, stage: str) -> None:
        """Before a training on several ranks: what makes it the same as on one."""
        if stage == "fit":
            prepare_ranks(self.trainer, self, self.sync_batchnorm)

    def configure_model(self) -> None:
        """Cuts the parts into shards, where trainer.strategy is fsdp2."""
        if isinstance(self.trainer.strategy, FullyShardedStrategy) and not is_sharded(self):
            shard(self, self.trainer.strategy.device_mesh["data_parallel"])

    def configure_callbacks(self) -> list[Callback]:
        """The watch over the training, where the trainer has none yet."""
        present = any(isinstance(callback, Watch) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        return [] if present else [Watch()]

    def configure_optimizers(self) -> Optimizer:
        """The named optimiser over all trainable parameters; frozen ones are left out."""
        return build_optimizer(self.optimizer_name, self.parameters(), self.weight_decay)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A training that goes on does not start again."""
        self.started = True

    def on_train_start(self) -> None:
        """Starts from `weights`, as `fit` has done before; by now a checkpoint is loaded, if there is one."""
        load_start(self)

    def on_fit_start(self) -> None:
        """Makes the step fast; refuses what would change the method."""
        prepare(self, self.compile_setting, self.channels_last)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision(self.float32_matmul)
        if self.trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches is {self.trainer.accumulate_grad_batches}: each image is contrasted "
                "with the others of its global batch, and batches that are added up are smaller ones, with fewer "
                "candidates. Leave it at 1 and lower data.batch_size, or use more devices"
            )

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Sets the learning rate of this step from its fractional epoch and the global batch."""
        global_batch = len(batch["index"]) * self.trainer.world_size
        rate = warmup_cosine(self.fractional_epoch, self.base_lr, global_batch, self.warmup_epochs, self.total_epochs)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    @property
    def logs_now(self) -> bool:
        """Whether the numbers of the step that runs go to the loggers; an epoch's last are there for callbacks."""
        interval = max(1, self.trainer.log_every_n_steps)  # type: ignore[attr-defined]
        return (self.trainer.global_step + 1) % interval == 0 or self.trainer.is_last_batch

    def report(self, loss: Tensor, embeddings: tuple[Tensor, Tensor], **numbers: float | Tensor) -> dict[str, Any]:
        """Logs a training step; returns what `training_step` returns, which `Watch` reads.

        embeddings: the backbone's of both views, each [B, D].
        """
        if self.logs_now:  # what nobody reads at other steps costs them some percent of a small model's
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            # Not on Lightning's progress bar, which would read them, and so wait for the device, in every step.
            # What is measured is of a rank's own rows, and logged as the mean over the ranks.
            measured = {"train/loss": loss.detach(), **{k: v for k, v in numbers.items() if isinstance(v, Tensor)}}
            self.log_dict(measured, sync_dist=True)
            self.log_dict({"train/lr": rate, **{k: v for k, v in numbers.items() if k not in measured}})
        return {"loss": loss, "embeddings": embeddings[0].detach()}

    # The online k-NN protocol.

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, Tensor]:
        """(int64 [B] rows, float32 [B, D] the query encoder's embeddings, not normalised) of {"image", "row"}."""
        return batch["row"], self._embed(batch["image"])

    def _embed(self, images: Tensor) -> Tensor:
        with not_compiled(self.backbone):
            return self.backbone(self.normalise(images)).float()

    def on_validation_epoch_start(self) -> None:
        """Forgets the embeddings of an earlier validation."""
        self._embedded = ([], [])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Embeds labelled images with the query encoder's backbone: loader 0 is the bank, loader 1 the queries."""
        embeddings = F.normalize(self._embed(batch["image"]), dim=1)
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
