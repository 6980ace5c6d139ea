"""What every frozen image encoder has: a light half for the loader's workers and a network on the device."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Prepare:
    """Worker side of an encoder: uint8 [H, W, 3] to uint8 [3, h, w]. Light, so that it travels to loader workers.

    Equal ones make the same pixels, so that encoders can share them.
    size: side of the picture that the encoder takes. square: resize to a square, skewing; else the short side.
    resized: of the resize, where it is not `size` (timm's crop_pct). crop: cut the middle of size x size; without it
    the long side stays as it comes, and pictures differ in shape.
    """

    size: int
    square: bool
    resampling: Image.Resampling
    resized: int | None = None
    crop: bool = True

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """The picture as the encoder takes it."""
        from curation.resizing import SUPPORT, resize

        short, (height, width) = self.resized or self.size, rgb.shape[:2]
        # Cut down and rounded to even as torchvision does, so that the models see the pixels they were trained on.
        wide, high = (short if self.square else int(short * side / min(width, height)) for side in (width, height))
        left, top, right, bottom = 0, 0, wide, high
        if self.crop:
            left, top = round((wide - self.size) / 2), round((high - self.size) / 2)
            right, bottom = left + self.size, top + self.size
        if self.resampling in SUPPORT and min(left, top) >= 0 and right <= wide and bottom <= high:
            return resize(rgb, (wide, high), (left, top, right, bottom), self.resampling)
        image = Image.fromarray(rgb).resize((wide, high), self.resampling).crop((left, top, right, bottom))
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


class ImageEncoder(nn.Module, ABC):
    """A frozen image encoder: `prepare` in the worker, `embed_images` on the device.

    identity: name and checksums. dim: width of the embeddings.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, prepare: Prepare, mean: Sequence[float], std: Sequence[float], identity: dict[str, Any]) -> None:
        super().__init__()
        self.prepare = prepare
        self.identity = identity
        self.dim = 0
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255, persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, S, S] as floats, less the mean and over the standard deviation."""
        return (images - self.mean).div_(self.std)

    @abstractmethod
    def embed_images(self, images: Any) -> Tensor:
        """Unit float32 [N, D] of uint8 [N, 3, S, S]."""
