"""A classifier on a backbone: how it is trained on the images of a labelled set, frozen or as a whole."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.files import fingerprint
from pas_train.evaluation.metrics import best_classes
from pas_train.evaluation.protocol import Subject
from pas_train.optim import warmup_cosine
from pas_train.ranks import prepare_ranks
from pas_train.sharding import FullyShardedStrategy, is_sharded, shard
from pas_train.speed import in_channels_last, prepare


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained; `key` names the section of the yaml for messages.

    frozen: the backbone stays as it is, in eval mode. batch_size: of all ranks. lr: the peak. standardise: embeddings
    are normalised by a batch norm without weights before the linear layer.
    """

    key: str
    frozen: bool
    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    warmup_epochs: float
    crop_min: float
    seed: int
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    standardise: bool = False

    def rate(self, epoch: float) -> float:
        """Learning rate at a fractional epoch: sgd falls to a tenth at 60 % and at 80 %, adamw along half a cosine."""
        if self.optimizer == "adamw":
            return warmup_cosine(epoch, self.lr, 256, self.warmup_epochs, self.epochs)
        factor = min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        return self.lr * factor * 0.1 ** ((epoch >= 0.6 * self.epochs) + (epoch >= 0.8 * self.epochs))


class ImageClassifier(LightningModule):
    """A copy of a backbone with a linear layer, trained on batches of `LabelledCrops`.

    mean, std: of the colours in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, subject: Subject, recipe: Recipe) -> None:
        super().__init__()
        assert subject.backbone is not None
        self.recipe = recipe
        self.remedy = f"evaluation.{recipe.key}.lr"  # where the weights are no numbers
        self.classes = subject.classes
        self.transformer = subject.transformer
        self.register_buffer("mean", torch.tensor(list(subject.mean)).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(list(subject.std)).view(3, 1, 1) * 255, persistent=False)
        self.backbone = copy.deepcopy(subject.backbone).cpu().requires_grad_(not recipe.frozen)
        width = _probe(self.backbone, subject.image_size)
        if recipe.drop_path:
            drop_paths(self.backbone, recipe.drop_path)
        self.standardise = nn.BatchNorm1d(width, affine=False, momentum=None) if recipe.standardise else nn.Identity()
        self.head = nn.Linear(width, self.classes)
        with torch.no_grad():
            self.head.weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(recipe.seed))
            self.head.bias.zero_()
        self._mix = _mixing(recipe, self.classes)
        self.train()

    def train(self, mode: bool = True) -> "ImageClassifier":
        """A frozen backbone stays in eval mode."""
        super().train(mode)
        if self.recipe.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of float images [B, 3, S, S] that are normalised."""
        if in_channels_last(self, None):
            images = images.contiguous(memory_format=torch.channels_last)
        if self.recipe.frozen:
            with torch.no_grad():
                embeddings = self.backbone(images)
        else:
            embeddings = self.backbone(images)
        return self.head(self.standardise(embeddings))

    def normalise(self, images: Tensor) -> Tensor:
        """The uint8 images as floats, less the mean and over the standard deviation of the colours."""
        return (images.float() - self.mean) / self.std

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a batch."""
        images, labels = self.normalise(batch["image"]), batch["label"]
        if self._mix is None:
            return F.cross_entropy(self(images), labels, label_smoothing=self.recipe.label_smoothing)
        with _numpy_seeded(self._number("mix")):
            images, targets = self._mix(images, labels)  # within this rank's share of the batch
        return F.cross_entropy(self(images), targets)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 [B] of the test images, and their best classes int64 [B, <= 5]."""
        return batch["index"].cpu().numpy(), best_classes(self(self.normalise(batch["image"])).float())

    # Lightning's hooks.

    def setup(self, stage: str) -> None:
        """Before a training on several ranks: what makes it the same as on one."""
        if stage == "fit":
            prepare_ranks(self.trainer, self, sync_batchnorm=True)

    def configure_model(self) -> None:
        """Cuts the parts into shards, where trainer.strategy is fsdp2."""
        if isinstance(self.trainer.strategy, FullyShardedStrategy) and not is_sharded(self):
            shard(self, self.trainer.strategy.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Optimizer:
        """SGD with momentum, or AdamW; weights decay, but no biases, norms and position embeddings."""
        exempt = {f"backbone.{name}" for name in getattr(self.backbone, "no_weight_decay", set)()}
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups[parameter.ndim > 1 and name not in exempt].append(parameter)
        decayed = [
            {"params": params, "weight_decay": self.recipe.weight_decay if decays else 0.0}
            for decays, params in groups.items()
            if params
        ]
        if self.recipe.optimizer == "adamw":
            return torch.optim.AdamW(decayed, lr=0.0, fused=True)
        return torch.optim.SGD(decayed, lr=0.0, momentum=0.9)

    def on_fit_start(self) -> None:
        """Puts the weights in the order of memory that is fast."""
        prepare(self, compile=False, channels_last=None)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the learning rate; what the step draws, such as dropped paths, depends on its number alone."""
        torch.manual_seed(self._number("step"))
        rate = self.recipe.rate(self.trainer.global_step / self.trainer.num_training_batches)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def _number(self, purpose: str) -> int:
        place = [purpose, self.recipe.seed, self.trainer.global_step, self.trainer.global_rank]
        return int(fingerprint(place)[:8], 16)


def _probe(backbone: nn.Module, image_size: int) -> int:
    """Width of the embeddings. Parameters that no embedding depends on stop being trained: other ranks wait for them.

    The backbone is left in eval mode, else as it was.
    """
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    embedding = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    if trained:
        gradients = torch.autograd.grad(embedding.sum(), trained, allow_unused=True)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
    return int(embedding.shape[1])


def drop_paths(backbone: nn.Module, rate: float, key: str = "finetune") -> None:
    """Lets a timm model's blocks be skipped in training, the first never, the last in a share `rate` of the images.

    key: of the section of the yaml, for messages.
    """
    from timm.layers import DropPath

    names = ("drop_path", "drop_path1", "drop_path2")
    blocks = [module for module in backbone.modules() if any(hasattr(module, name) for name in names)]
    if not blocks:
        raise ValueError(
            f"evaluation.{key}.drop_path is {rate}, but {type(backbone).__name__} has no blocks that can be "
            "skipped; leave it at 0"
        )
    for number, block in enumerate(blocks):
        share = rate * number / max(1, len(blocks) - 1)
        for name in names:
            if hasattr(block, name):
                setattr(block, name, DropPath(share))


def _mixing(recipe: Recipe, classes: int) -> Any:
    if not recipe.mixup and not recipe.cutmix:
        return None
    from timm.data.mixup import Mixup

    return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=classes)


@contextmanager
def _numpy_seeded(number: int) -> Iterator[None]:
    """Mixing draws from numpy's global generator, which is left as it was."""
    state = np.random.get_state()
    np.random.seed(number)
    try:
        yield
    finally:
        np.random.set_state(state)
