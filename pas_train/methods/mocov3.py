"""MoCo v3 (Chen, Xie, He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers")."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pas_train.backbones import build_backbone, has_batch_norm, is_transformer
from pas_train.heads import moco_v3_predictor, moco_v3_projector
from pas_train.losses import moco_v3_loss
from pas_train.methods.base import IMAGENET_MEAN, IMAGENET_STD, PretrainingMethod
from pas_train.optim import momentum_cosine


class MoCoV3(PretrainingMethod):
    """Predicts the momentum encoder's embedding of one view from the other, against the rest of the global batch.

    Defaults are the paper's for ViT-B/16 over 300 epochs at global batch 4096; for a ResNet it uses
    optimizer "lars", base_lr 0.3 to 0.6, weight_decay 1e-6, temperature 1, warmup_epochs 10 and crop_min 0.2.
    BatchNorm is per process unless `trainer.sync_batchnorm` is set, which torch offers on GPUs only.

    Args:
        backbone: name of a timm vision transformer or ResNet.
        image_size: side of the views in pixels.
        temperature: of the contrastive loss.
        base_momentum: of the momentum encoder at the start; it rises to 1 along a cosine.
        base_lr: learning rate at a global batch of 256; scaled linearly with the batch.
        warmup_epochs: epochs of linear warm-up; a cosine to 0 follows.
        weight_decay: of all parameters with adamw, of weights only with lars.
        optimizer: adamw or lars.
        projector_hidden: width of the heads' hidden layers.
        projector_dim: width of the embedding that is contrasted.
        seed: of the initial weights.
        fixed_position: the paper's sine-cosine position embedding (vision transformers only).
        frozen_patches: a random patch projection that is never trained (vision transformers only).
        paper_init: the paper's initial weights (vision transformers only).
        small_images: a 3x3 stem without pooling (ResNets only).
        backbone_options: further arguments of the timm model; {"num_heads": 12} makes timm's ViT-S the paper's.
        mean: of the colours in [0, 1], taken off on the device.
        std: of the colours.
    """

    def __init__(
        self,
        backbone: str = "vit_base_patch16_224",
        image_size: int = 224,
        temperature: float = 0.2,
        base_momentum: float = 0.99,
        base_lr: float = 1.5e-4,
        warmup_epochs: float = 40,
        weight_decay: float = 0.1,
        optimizer: Literal["adamw", "lars"] = "adamw",
        projector_hidden: int = 4096,
        projector_dim: int = 256,
        seed: int = 0,
        fixed_position: bool = True,
        frozen_patches: bool = True,
        paper_init: bool = True,
        small_images: bool = False,
        backbone_options: dict[str, Any] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(base_lr, warmup_epochs, weight_decay, optimizer, mean, std)
        if temperature <= 0:
            raise ValueError(f"model.temperature must be positive, got {temperature}")
        if not 0 <= base_momentum <= 1:
            raise ValueError(f"model.base_momentum must be between 0 and 1, got {base_momentum}")
        self.save_hyperparameters()
        self.temperature = temperature
        self.base_momentum = base_momentum
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            self.backbone = build_backbone(
                backbone, image_size, fixed_position, frozen_patches, paper_init, small_images, backbone_options
            )
            transformer = is_transformer(self.backbone)
            width = int(self.backbone.num_features)  # type: ignore[arg-type]
            self.projector = moco_v3_projector(width, projector_hidden, projector_dim, transformer)
            self.predictor = moco_v3_predictor(projector_hidden, projector_dim, transformer)
        self.momentum_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        self.momentum_projector = copy.deepcopy(self.projector).requires_grad_(False)
        # With BatchNorm each view keeps its own statistics, so the views go through the backbone one by one.
        self.separate_views = has_batch_norm(self.backbone)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The whole method: queries, momentum update, keys, loss."""
        views = self.normalise(batch["views"])
        embeddings1, embeddings2 = self._embed(self.backbone, views)
        q1 = self.predictor(self.projector(embeddings1))
        q2 = self.predictor(self.projector(embeddings2))
        momentum = momentum_cosine(self.fractional_epoch, self.base_momentum, self.total_epochs)
        with torch.no_grad():
            if batch_idx % self.trainer.accumulate_grad_batches == 0:
                self.update_momentum_encoder(momentum)
            momentum1, momentum2 = self._embed(self.momentum_backbone, views)
            k1, k2 = self.momentum_projector(momentum1), self.momentum_projector(momentum2)
        loss = moco_v3_loss(q1, q2, k1, k2, self.temperature)
        self.report(loss, embeddings1, **{"train/momentum": momentum})
        return loss

    @torch.no_grad()
    def update_momentum_encoder(self, momentum: float) -> None:
        """Moves the key encoder's parameters towards the query encoder's; BatchNorm buffers are its own."""
        keys: list[Tensor] = [*self.momentum_backbone.parameters(), *self.momentum_projector.parameters()]
        queries: list[Tensor] = [*self.backbone.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_(keys, queries, 1 - momentum)  # all tensors in one call

    def _embed(self, backbone: nn.Module, views: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [B, D] of both views of [2, B, 3, S, S]."""
        if self.separate_views:
            return backbone(views[0]), backbone(views[1])
        first, second = backbone(views.flatten(0, 1)).chunk(2)
        return first, second
