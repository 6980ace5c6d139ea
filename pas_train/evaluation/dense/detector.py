"""A detector on a backbone: torchvision's Faster R-CNN with a feature pyramid, and how it is trained."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from datamodules.files import fingerprint
from pas_train.evaluation.dense.pyramid import PROBE, STRIDES, FeaturePyramid, maps_of
from pas_train.evaluation.image_classifier import drop_paths
from pas_train.evaluation.protocol import Subject
from pas_train.ranks import prepare_ranks
from pas_train.speed import in_channels_last

FALLS = (8 / 12, 11 / 12)  # of the epochs, at which the rate falls to a tenth
STAGES = 4  # of a ResNet, whose maps end with theirs
REGION = 7  # cells of a proposal's side that the head sees
WARMUP_FROM = 0.001  # of the rate, at the first step
WARMUP_MOST = 1 / 3  # of all steps


@dataclass(frozen=True)
class DetectorRecipe:
    """How a detector is trained; the fields are those of `Detection`, with nothing left open."""

    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    warmup_steps: int
    layer_decay: float
    drop_path: float
    frozen_stages: int
    frozen_norms: bool
    short_side: int
    longest_side: int
    anchor_scale: float
    channels: int
    proposals: int
    samples: int
    seed: int

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step: from near 0 in the warm-up, and a tenth from 8 and from 11 of 12 epochs on."""
        epoch = step / steps_per_epoch
        warmup = min(self.warmup_steps, int(WARMUP_MOST * self.epochs * steps_per_epoch))
        factor = min(1.0, WARMUP_FROM + (1 - WARMUP_FROM) * step / warmup) if warmup else 1.0
        return self.lr * factor * 0.1 ** sum(epoch >= fall * self.epochs for fall in FALLS)


class Detector(LightningModule):
    """Faster R-CNN on a copy of a backbone, trained on batches of `BoxedViews`."""

    def __init__(self, subject: Subject, recipe: DetectorRecipe) -> None:
        super().__init__()
        assert subject.backbone is not None
        self.recipe = recipe
        self.remedy = "evaluation.detection.lr"  # where the weights are no numbers
        self.transformer = subject.transformer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            backbone = DetectorBackbone(FeaturePyramid(subject.backbone, "last"), recipe.channels)
            self.detector = _faster_rcnn(backbone, subject, recipe)
        if recipe.drop_path:
            drop_paths(self.backbone.maps.backbone, recipe.drop_path, "detection")
        self.backbone.freeze(recipe.frozen_stages)
        self._scales = _layer_scales(self.backbone.maps.backbone, recipe.layer_decay)
        self.train()

    @property
    def backbone(self) -> "DetectorBackbone":
        """With the pyramid."""
        return self.detector.backbone

    def train(self, mode: bool = True) -> "Detector":
        """Batch norms that are frozen, or belong to frozen stages, keep the statistics of the pretraining."""
        super().train(mode)
        for module in self.backbone.maps.backbone.modules():
            if isinstance(module, _BatchNorm):
                stays = module.weight is not None and not module.weight.requires_grad
                module.train(mode and not self.recipe.frozen_norms and not stays)
        return self

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The sum of the four losses: objectness and place of proposals, class and place of boxes."""
        targets = [
            {"boxes": boxes, "labels": labels + 1}  # 0 is the background
            for boxes, labels in zip(batch["boxes"], batch["label"], strict=True)
        ]
        losses = self.detector([image.float() / 255 for image in batch["image"]], targets)
        total: Tensor = sum(losses.values(), start=torch.zeros((), device=self.device))
        return total

    def predict_step(self, item: dict[str, Tensor], batch_idx: int) -> tuple[int, np.ndarray]:
        """Row of a test image, and what was found: float32 [D, 6] as `coco_map` takes it, in the original's pixels."""
        image = item["image"]
        (found,) = self.detector([image.float() / 255])
        (height, width), boxes = item["size"].tolist(), found["boxes"].float()
        scale = boxes.new_tensor([width / image.shape[2], height / image.shape[1]] * 2)
        columns = (boxes * scale, found["labels"][:, None] - 1, found["scores"][:, None])
        return int(item["index"]), torch.cat([column.float() for column in columns], dim=1).cpu().numpy()

    # Lightning's hooks.

    def setup(self, stage: str) -> None:
        """Before a training on several ranks: what makes it the same as on one."""
        if stage == "fit":
            prepare_ranks(self.trainer, self, sync_batchnorm=not self.recipe.frozen_norms)

    def configure_optimizers(self) -> Optimizer:
        """SGD with momentum, or AdamW; weights decay, but no biases, norms and position embeddings."""
        backbone = self.backbone.maps.backbone
        names: set[str] = getattr(backbone, "no_weight_decay", set)()
        exempt = {id(parameter) for name, parameter in backbone.named_parameters() if name in names}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                decays = parameter.ndim > 1 and id(parameter) not in exempt
                groups.setdefault((self._scales.get(id(parameter), 1.0), decays), []).append(parameter)
        given: list[dict[str, Any]] = [
            {"params": params, "scale": scale, "weight_decay": self.recipe.weight_decay if decays else 0.0}
            for (scale, decays), params in groups.items()
        ]
        if self.recipe.optimizer == "adamw":
            return torch.optim.AdamW(given, lr=0.0, fused=True)
        return torch.optim.SGD(given, lr=0.0, momentum=0.9)

    def on_fit_start(self) -> None:
        """Puts the weights in the order of memory that is fast."""
        if in_channels_last(self, None):
            self.backbone.to(memory_format=torch.channels_last)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the learning rate; what the step draws, such as proposals, depends on its number alone."""
        place = ["step", self.recipe.seed, self.trainer.global_step, self.trainer.global_rank]
        torch.manual_seed(int(fingerprint(place)[:8], 16))
        rate = self.recipe.rate(self.trainer.global_step, int(self.trainer.num_training_batches))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate * group["scale"]


class DetectorBackbone(nn.Module):
    """What torchvision's detectors take for a backbone: five maps of equal width, at strides 4 to 64."""

    def __init__(self, maps: FeaturePyramid, channels: int) -> None:
        super().__init__()
        self.maps = maps
        self.pyramid = FeaturePyramidNetwork(list(maps.channels), channels, LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The maps of float images [B, 3, H, W]: "0" to "3", and "pool"."""
        found: dict[str, Tensor] = self.pyramid(OrderedDict(zip("0123", self.maps(images), strict=True)))
        return found

    def freeze(self, stages: int) -> None:
        """The stem and so many stages are not trained: all that the map of the last one depends on."""
        if stages < 1:
            return
        parameters = [one for one in self.maps.backbone.parameters() if one.requires_grad]
        self.eval()
        found = maps_of(self.maps.backbone, torch.zeros(1, 3, *PROBE))[stages - 1 - STAGES].sum()
        gradients = torch.autograd.grad(found, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is None)


class _AsGiven(GeneralizedRCNNTransform):
    """Normalises images and fills them up to one size; they come resized, as their boxes do."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


def _faster_rcnn(backbone: DetectorBackbone, subject: Subject, recipe: DetectorRecipe) -> FasterRCNN:
    """torchvision's, with anchors and numbers of proposals as mmdetection has them."""
    sizes = tuple((recipe.anchor_scale * stride,) for stride in (*STRIDES, 2 * STRIDES[-1]))
    width = 4 * recipe.channels
    model = FasterRCNN(
        backbone, box_head=TwoMLPHead(recipe.channels * REGION**2, width),
        box_predictor=FastRCNNPredictor(width, subject.classes + 1),
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        rpn_pre_nms_top_n_train=2 * recipe.proposals, rpn_post_nms_top_n_train=recipe.proposals,
        rpn_pre_nms_top_n_test=recipe.proposals, rpn_post_nms_top_n_test=recipe.proposals,
        rpn_batch_size_per_image=max(1, recipe.samples // 2), box_batch_size_per_image=recipe.samples,
    )  # fmt: skip
    model.transform = _AsGiven(recipe.short_side, recipe.longest_side, list(subject.mean), list(subject.std))
    # In bf16 the corner of a box would be off by pixels: torchvision casts boxes to what the heads give.
    for head in (model.rpn.head, model.roi_heads.box_predictor):
        head.register_forward_hook(_in_float32)
    return model


def _in_float32(module: nn.Module, given: Any, found: tuple[Any, Any]) -> tuple[Any, Any]:
    """A head's scores and boxes, of one map or a list of them."""
    first, second = ([one.float() for one in part] if isinstance(part, list) else part.float() for part in found)
    return first, second


def _layer_scales(backbone: Any, decay: float) -> dict[int, float]:
    """Of a timm model's parameters, by their id: how much slower a layer learns, `decay` for each one above it."""
    if decay == 1:
        return {}
    if not hasattr(backbone, "group_matcher"):
        raise ValueError(
            f"evaluation.detection.layer_decay is {decay}, but {type(backbone).__name__} does not tell its layers; "
            "leave it at 1"
        )
    from timm.models import group_parameters

    layers: dict[str, int] = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    above = max(layers.values()) + 1  # what comes after the backbone
    return {id(backbone.get_parameter(name)): decay ** (above - layer) for name, layer in layers.items()}
