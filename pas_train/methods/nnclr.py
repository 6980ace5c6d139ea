"""NNCLR (Dwibedi et al. 2021, "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning")."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from pas_train.heads import nnclr_predictor, nnclr_projector
from pas_train.losses import gather_rows, nnclr_loss
from pas_train.methods.base import PretrainingMethod
from pas_train.optim import OptimizerName


class SupportSet(nn.Module):
    """A ring of the last `size` embeddings, normalised; part of the checkpoint, and the same on every rank.

    (lightly's NNMemoryBankModule holds what was given, not normalised, is left out of checkpoints, is one a rank by
    default and cuts the batch off where the ring closes.)
    It starts as Gaussian rows on the sphere, drawn from torch's global generator: fork and seed it around the call.
    """

    rows: Tensor
    seen: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        # How many rows have ever come in; the next goes to `seen` modulo the size. It never leaves the device.
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def nearest(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """(rows [N, D] most similar to normalised embeddings [N, D], their cosine similarities [N]), in float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = self.rows.float()
            similarities, index = (embeddings.float() @ rows.T).max(dim=1)
            return rows[index], similarities

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor) -> None:
        """Puts normalised embeddings [N, D] in the place of the oldest rows; of more than fit, the last ones stay."""
        count, size = len(embeddings), len(self.rows)
        first = max(0, count - size)
        places = (self.seen + torch.arange(first, count, device=self.rows.device)) % size
        self.rows.index_copy_(0, places, embeddings[first:].to(self.rows.dtype))
        self.seen += count

    @property
    def replaced(self) -> Tensor:
        """Share of the first, random rows that embeddings have taken the place of, a scalar."""
        return (self.seen / len(self.rows)).clamp(max=1)


class NNCLR(PretrainingMethod):
    """Contrasts the prediction from one view with the nearest neighbour, among past embeddings, of the other view.

    Defaults are the paper's for ResNet-50 at global batch 4096.

    Args:
        backbone: name of a timm ResNet or vision transformer.
        temperature: of the contrastive loss.
        support_size: past embeddings among which neighbours are looked for; keep it well below the images.
        support_views: whose embeddings enter the support set after the look-up. The paper is silent; its authors'
            code and the common ones take one view's.
        symmetric_columns: each direction also contrasts a prediction with the neighbours of the whole batch (the
            paper's section 3.2); false leaves the neighbours against the predictions.
        base_lr: learning rate at a global batch of 256; scaled linearly with the batch.
        warmup_epochs: epochs of linear warm-up; a cosine to 0 follows.
        weight_decay: of all parameters with adamw, of weights only with lars.
        optimizer: adamw, lars or lars_timm.
        projector_hidden: width of the projector's two hidden layers.
        projector_dim: width of the embedding that is contrasted.
        predictor_hidden: width of the predictor's hidden layer.
        common: what every method takes, see `PretrainingMethod`.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        temperature: float = 0.1,
        support_size: int = 98304,
        support_views: Literal["first", "second", "both"] = "first",
        symmetric_columns: bool = True,
        base_lr: float = 0.3,
        warmup_epochs: float = 10,
        weight_decay: float = 1e-6,
        optimizer: OptimizerName = "lars",
        projector_hidden: int = 2048,
        projector_dim: int = 256,
        predictor_hidden: int = 4096,
        **common: Any,
    ) -> None:
        super().__init__(backbone, base_lr, warmup_epochs, weight_decay, optimizer, **common)
        if temperature <= 0:
            raise ValueError(f"model.temperature must be positive, got {temperature}")
        if support_size < 1:
            raise ValueError(f"model.support_size must be at least 1, got {support_size}")
        if support_views not in ("first", "second", "both"):
            raise ValueError(f"model.support_views: {support_views!r} is not known; choices: first, second, both")
        self.save_hyperparameters()
        self.temperature = temperature
        self.support_views = support_views
        self.symmetric_columns = symmetric_columns
        with self.seeded():
            self.projector = nnclr_projector(self.width, projector_hidden, projector_dim)
            self.predictor = nnclr_predictor(predictor_hidden, projector_dim)
            self.support = SupportSet(support_size, projector_dim)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """The whole method: embeddings, their neighbours, predictions, loss, support set."""
        embeddings1, embeddings2 = self.embed_views(self.backbone, self.normalise(batch["views"]))
        projected1, projected2 = self.projector(embeddings1), self.projector(embeddings2)
        p1, p2 = self.predictor(projected1), self.predictor(projected2)
        # Only the predictions carry a gradient; the embeddings choose their neighbours.
        z1, z2 = (F.normalize(z.detach().float(), dim=1) for z in (projected1, projected2))
        neighbours1, similarity1 = self.support.nearest(z1)
        neighbours2, similarity2 = self.support.nearest(z2)
        first = nnclr_loss(neighbours1, p2, self.temperature, self.symmetric_columns)
        second = nnclr_loss(neighbours2, p1, self.temperature, self.symmetric_columns)
        for name, z in (("first", z1), ("second", z2)):
            if self.support_views in (name, "both"):
                self.support.enqueue(gather_rows(z))
        similarity = (similarity1.mean() + similarity2.mean()) / 2
        numbers = {"train/neighbour_similarity": similarity, "train/support_replaced": self.support.replaced}
        return self.report((first + second) / 2, (embeddings1, embeddings2), **numbers)

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Sets the learning rate; before the first step says whether the support set outlasts an epoch."""
        super().on_train_batch_start(batch, batch_idx)
        if self.trainer.global_step == 0:
            images = self.steps_per_epoch * len(batch["index"]) * self.trainer.world_size
            rows = images * (2 if self.support_views == "both" else 1)
            if len(self.support.rows) > rows:
                rank_zero_warn(
                    f"model.support_size is {len(self.support.rows)}, but an epoch brings {rows} embeddings of "
                    f"{images} images: every image finds its own of earlier epochs among its neighbours, which are "
                    f"then views of itself. Set model.support_size to at most {rows}."
                )
