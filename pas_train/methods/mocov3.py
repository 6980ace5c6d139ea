"""MoCo v3 (Chen, Xie, He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers")."""

import copy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pas_train.heads import moco_v3_predictor, moco_v3_projector
from pas_train.losses import moco_v3_loss
from pas_train.methods.base import PretrainingMethod
from pas_train.optim import OptimizerName, momentum_cosine
from pas_train.sharding import local


class MoCoV3(PretrainingMethod):
    """Predicts the momentum encoder's embedding of one view from the other, against the rest of the global batch.

    Defaults are the paper's for ViT-B/16 over 300 epochs at global batch 4096; for a ResNet it uses
    optimizer "lars", base_lr 0.3 to 0.6, weight_decay 1e-6, temperature 1, warmup_epochs 10 and crop_min 0.2.

    Args:
        backbone: name of a timm vision transformer or ResNet.
        temperature: of the contrastive loss.
        base_momentum: of the momentum encoder at the start; it rises to 1 along a cosine.
        base_lr: learning rate at a global batch of 256; scaled linearly with the batch.
        warmup_epochs: epochs of linear warm-up; a cosine to 0 follows.
        weight_decay: of all parameters with adamw, of weights only with lars.
        optimizer: adamw, lars or lars_timm.
        projector_hidden: width of the heads' hidden layers.
        projector_dim: width of the embedding that is contrasted.
        common: what every method takes, see `PretrainingMethod`.
    """

    passes_per_image = 4

    def __init__(
        self,
        backbone: str = "vit_base_patch16_224",
        temperature: float = 0.2,
        base_momentum: float = 0.99,
        base_lr: float = 1.5e-4,
        warmup_epochs: float = 40,
        weight_decay: float = 0.1,
        optimizer: OptimizerName = "adamw",
        projector_hidden: int = 4096,
        projector_dim: int = 256,
        **common: Any,
    ) -> None:
        super().__init__(backbone, base_lr, warmup_epochs, weight_decay, optimizer, **common)
        if temperature <= 0:
            raise ValueError(f"model.temperature must be positive, got {temperature}")
        if not 0 <= base_momentum <= 1:
            raise ValueError(f"model.base_momentum must be between 0 and 1, got {base_momentum}")
        self.save_hyperparameters()
        self.temperature = temperature
        self.base_momentum = base_momentum
        with self.seeded():
            self.projector = moco_v3_projector(self.width, projector_hidden, projector_dim, self.transformer)
            self.predictor = moco_v3_predictor(projector_hidden, projector_dim, self.transformer)
        self.momentum_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        self.momentum_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """The whole method: queries, momentum update, keys, loss."""
        views = self.normalise(batch["views"])
        embeddings1, embeddings2 = self.embed_views(self.backbone, views)
        q1, q2 = self.predictor(self.projector(torch.cat((embeddings1, embeddings2)), 2), 2).chunk(2)
        momentum = momentum_cosine(self.fractional_epoch, self.base_momentum, self.total_epochs)
        with torch.no_grad():
            self.update_momentum_encoder(momentum)
            momenta = self.embed_views(self.momentum_backbone, views)
            k1, k2 = self.momentum_projector(torch.cat(momenta), 2).chunk(2)
        loss = moco_v3_loss(q1, q2, k1, k2, self.temperature)
        return self.report(loss, (embeddings1, embeddings2), **{"train/momentum": momentum})

    @cached_property
    def momentum_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """(parameters of the key encoder, those of the query encoder); to walk the modules in each step costs time."""
        keys: list[Tensor] = [*self.momentum_backbone.parameters(), *self.momentum_projector.parameters()]
        return keys, [*self.backbone.parameters(), *self.projector.parameters()]

    def on_fit_start(self) -> None:
        """Looks for the parameters again: a strategy may have put others in their place."""
        self.__dict__.pop("momentum_pairs", None)
        super().on_fit_start()

    @torch.no_grad()
    def update_momentum_encoder(self, momentum: float) -> None:
        """Moves the key encoder's parameters towards the query encoder's; BatchNorm buffers are its own."""
        keys, queries = self.momentum_pairs
        torch._foreach_lerp_(local(keys), local(queries), 1 - momentum)  # all tensors in one call
