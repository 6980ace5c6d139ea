"""What an evaluation protocol is given, and what it gives back."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from datamodules.annotated import Annotated, Kind
from datamodules.labelled import LabelledImages

# Shares in [0, 1], such as top1, or scores; of several seeds also the list of them. All of it goes into results.json.
Figures = dict[str, Any]

BLOCK = 2**24  # numbers of a memory map that are looked at at a time


@dataclass(frozen=True)
class Features:
    """Of the images of one split, in their order.

    values: float32 [N, D], of the backbone without a head, not normalised; may be a memory map, so read it in blocks.
    labels: int64 [N], places in the classes of the training images.
    """

    values: np.ndarray
    labels: np.ndarray

    def check(self, name: str) -> None:
        """Raises ValueError where a backbone gave what is no number. name: of the data set."""
        width = max(1, self.values.shape[1])
        step = max(1, BLOCK // width)
        lost = 0
        for begin in range(0, len(self.values), step):
            block = self.values[begin : begin + step]
            if not math.isfinite(float(block.sum(dtype=np.float64))):
                lost += int((~np.isfinite(block).all(axis=1)).sum())
        if lost:
            raise ValueError(
                f"evaluation '{name}': the backbone's features of {lost} of {len(self.values)} images are no finite "
                "numbers; its training diverged, its weights are damaged, or evaluation.precision is too low for it"
            )


@dataclass(frozen=True)
class Subject:
    """One backbone on one data set.

    name: of the data set, for messages. backbone: None stands for raw pixels. train, test: images of the protocol's
    kind, whose labels, masks or boxes count the same classes. features: those of train and test, extracted at the
    first call. image_size: side of the test images in pixels. mean, std: of the colours in [0, 1]. trainer: the yaml's
    section, for protocols that train on images. folder: the protocol's own, to go on from after a kill. batch_size,
    num_workers: of its loaders. title: of the backbone.
    """

    name: str
    backbone: nn.Module | None
    train: Annotated
    test: Annotated
    features: Callable[[], tuple[Features, Features]]
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device
    folder: Path
    trainer: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 128
    num_workers: int = 0
    title: str = ""

    @property
    def progress(self) -> str:
        """How lines of progress call it: data set and backbone."""
        return f"{self.name} {self.title}".rstrip()

    def sound_features(self) -> tuple[Features, Features]:
        """The features of training and test images. Raises ValueError where they are no numbers."""
        for split in (both := self.features()):
            split.check(self.name)
        return both

    @property
    def labelled(self) -> tuple[LabelledImages, LabelledImages]:
        """Training and test images, of a protocol that judges a class for each image."""
        assert isinstance(self.train, LabelledImages) and isinstance(self.test, LabelledImages)
        return self.train, self.test

    @property
    def classes(self) -> int:
        """Number of classes of the training images."""
        return len(self.train.classes)

    @property
    def transformer(self) -> bool:
        """Whether the paper's protocol for vision transformers holds, rather than that for ResNets."""
        return self.backbone is not None and hasattr(self.backbone, "pos_embed")


class Protocol(ABC):
    """A dataclass whose fields are its settings, all of which count where two results are compared.

    on_images: it trains on images, on all ranks; other protocols judge features, on rank 0 alone. of: what it judges:
    a class for each image, a class for each pixel, or boxes.
    """

    on_images: ClassVar[bool] = False
    of: ClassVar[Kind] = "labels"

    @abstractmethod
    def judge(self, subject: Subject) -> dict[str, Figures]:
        """Figures by name, such as {"knn": {"top1": 0.5}}: the names of `described`."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names of its figures."""

    def described(self) -> dict[str, dict[str, Any]]:
        """The settings behind each of its figures, as plain values."""
        return {name: asdict(self) for name in self.names()}  # type: ignore[call-overload]
