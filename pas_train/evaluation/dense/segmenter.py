"""A segmenter on a backbone: UPerNet (https://arxiv.org/abs/1807.10221), and how it is trained."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics.functional.classification import multiclass_confusion_matrix

from datamodules.dense import IGNORED
from datamodules.files import fingerprint
from pas_train.evaluation.dense.pyramid import FeaturePyramid
from pas_train.evaluation.image_classifier import drop_paths
from pas_train.evaluation.protocol import Subject
from pas_train.ranks import prepare_ranks
from pas_train.speed import in_channels_last

AUXILIARY_WEIGHT = 0.4  # of the loss of the head on the third map
POWER = {"sgd": 0.9, "adamw": 1.0}  # of the share of steps left, by which the rate falls
WARMUP_MOST = 1 / 3  # of all steps
LOGITS = 2**24  # that are brought to a mask's size at a time


@dataclass(frozen=True)
class SegmenterRecipe:
    """How a segmenter is trained; the fields are those of `Segmentation`, with nothing left open."""

    steps: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    warmup_steps: int
    image_size: int
    scale: tuple[float, float]
    category_max: float
    photometry: bool
    channels: int
    dropout: float
    drop_path: float
    seed: int

    def rate(self, step: int) -> float:
        """Learning rate of a step: it rises from 0 in the warm-up, and falls to 0 at the end."""
        warmup = min(self.warmup_steps, int(WARMUP_MOST * self.steps))
        if step < warmup:
            return self.lr * step / warmup
        return self.lr * (1 - (step - warmup) / (self.steps - warmup)) ** POWER[self.optimizer]


class Segmenter(LightningModule):
    """UPerNet on a copy of a backbone, trained on batches of `MaskedCrops`.

    mean, std: of the colours, in [0, 255]. test_images: how many there are, on all ranks. counts: pixels of those that
    this rank has seen, by their class and the one found, int64 [C, C].
    """

    mean: Tensor
    std: Tensor
    test_images: int = 0
    counts: np.ndarray

    def __init__(self, subject: Subject, recipe: SegmenterRecipe) -> None:
        super().__init__()
        assert subject.backbone is not None
        self.recipe = recipe
        self.remedy = "evaluation.segmentation.lr"  # where the weights are no numbers
        self.classes = subject.classes
        self.counts = np.zeros((self.classes, self.classes), np.int64)
        self.transformer = subject.transformer
        self.register_buffer("mean", torch.tensor(list(subject.mean)).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(list(subject.std)).view(3, 1, 1) * 255, persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.backbone = FeaturePyramid(subject.backbone, "blocks")
            self.head, self.auxiliary = _heads(self.backbone.channels, self.classes, recipe)
        if recipe.drop_path:
            drop_paths(self.backbone.backbone, recipe.drop_path, "segmentation")
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C, H / 4, W / 4] of uint8 images [B, 3, H, W]."""
        logits: Tensor = self.head(self._maps(images))
        return logits

    def _maps(self, images: Tensor) -> list[Tensor]:
        images = (images.float() - self.mean) / self.std
        if in_channels_last(self, None):
            images = images.contiguous(memory_format=torch.channels_last)
        found: list[Tensor] = self.backbone(images)
        return found

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of the pixels of both heads, in shares of all pixels, also of those that count nowhere."""
        targets = batch["mask"].long()
        maps = self._maps(batch["image"])
        return _entropy(self.head(maps), targets) + AUXILIARY_WEIGHT * _entropy(self.auxiliary(maps), targets)

    def predict_step(self, item: dict[str, Tensor], batch_idx: int) -> np.ndarray:
        """Pixels of a test image by their class and the one found, int64 [C, C]; none of an image that comes again."""
        mask = item["mask"]
        if self.trainer.global_rank + batch_idx * self.trainer.world_size >= self.test_images:
            return np.zeros((self.classes, self.classes), np.int64)
        found = likeliest(self(item["image"][None])[0].float(), mask.shape)
        counts = multiclass_confusion_matrix(
            found, mask.long(), self.classes, ignore_index=IGNORED, validate_args=False
        )
        return counts.cpu().numpy()

    # Lightning's hooks.

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds up, as the counts of each image would fill memory where classes are many."""
        self.counts += outputs

    def setup(self, stage: str) -> None:
        """Before a training on several ranks: what makes it the same as on one."""
        if stage == "fit":
            prepare_ranks(self.trainer, self, sync_batchnorm=True)

    def configure_optimizers(self) -> Optimizer:
        """SGD with momentum, or AdamW; weights decay, but no biases, norms and position embeddings."""
        exempt = {f"backbone.backbone.{one}" for one in getattr(self.backbone.backbone, "no_weight_decay", set)()}
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups[parameter.ndim > 1 and name not in exempt].append(parameter)
        given: list[dict[str, Any]] = [
            {"params": params, "weight_decay": self.recipe.weight_decay if decays else 0.0}
            for decays, params in groups.items()
        ]
        if self.recipe.optimizer == "adamw":
            return torch.optim.AdamW(given, lr=0.0, fused=True)
        return torch.optim.SGD(given, lr=0.0, momentum=0.9)

    def on_fit_start(self) -> None:
        """Puts the weights in the order of memory that is fast."""
        if in_channels_last(self, None):
            for part in (self.backbone, self.head, self.auxiliary):
                part.to(memory_format=torch.channels_last)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the learning rate; what the step draws, such as dropout, depends on its number alone."""
        place = ["step", self.recipe.seed, self.trainer.global_step, self.trainer.global_rank]
        torch.manual_seed(int(fingerprint(place)[:8], 16))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.recipe.rate(self.trainer.global_step)


def _heads(channels: list[int], classes: int, recipe: SegmenterRecipe) -> tuple[nn.Module, nn.Module]:
    """The heads of transformers, with the initial weights and dropout of mmsegmentation's."""
    from transformers.models.upernet.configuration_upernet import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

    options: dict[str, Any] = {"auxiliary_channels": max(1, recipe.channels // 2), "num_labels": classes}
    config = UperNetConfig(hidden_size=recipe.channels, **options)
    heads: list[Any] = [UperNetHead(config, channels), UperNetFCNHead(config, channels)]
    for head in heads:
        for module in head.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(head.classifier.weight, std=0.01)
        nn.init.zeros_(head.classifier.bias)
        head.classifier = nn.Sequential(nn.Dropout2d(recipe.dropout), head.classifier)
    return heads[0], heads[1]


def _entropy(logits: Tensor, targets: Tensor) -> Tensor:
    logits = F.interpolate(logits.float(), targets.shape[1:], mode="bilinear")
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum") / targets.numel()


def likeliest(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """The class of the largest logit at each place, int64 `size`, of logits [C, h, w] that are brought to that size.

    A few classes at a time: all of a photograph's pixels for a hundred classes would take gigabytes.
    """
    best, classes = logits.new_full(size, -torch.inf), torch.zeros(size, dtype=torch.long, device=logits.device)
    step = max(1, LOGITS // (size[0] * size[1]))
    for first in range(0, len(logits), step):
        values = F.interpolate(logits[None, first : first + step], size, mode="bilinear")[0]
        largest, place = values.max(dim=0)
        better = largest > best
        best, classes = torch.where(better, largest, best), torch.where(better, place + first, classes)
    return classes
