"""Features of images: a backbone's output for each, in one pass whose slower part, decoding or model, sets the pace."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.ordered_batches import ordered_batches
from pas_train.speed import not_compiled

Precision = Literal[32, "bf16"]

PIXEL_SIDE = 32  # of raw pixels as features; larger images are averaged down: 150,000 numbers an image fill a disk


@dataclass(frozen=True)
class Transform:
    """What is done to a decoded image: cropped to image_size pixels, the colours' mean taken off and their std divided.

    precision: of the backbone's products, 32 or bf16.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: Precision = 32

    def __str__(self) -> str:
        return f"{self.image_size}px" + ("" if self.precision == 32 else f"-{self.precision}")


class Embedder:
    """Features float32 [B, D], on the device, of uint8 [B, 3, S, S]; None stands for the raw pixels, flattened.

    A context in which the backbone is in eval mode and on the device.
    """

    def __init__(self, backbone: nn.Module | None, transform: Transform, device: torch.device) -> None:
        self.backbone, self.transform, self.device = backbone, transform, device
        self.mean = torch.tensor(transform.mean, device=device).view(3, 1, 1) * 255
        self.std = torch.tensor(transform.std, device=device).view(3, 1, 1) * 255
        self._training = backbone is not None and backbone.training

    def __enter__(self) -> "Embedder":
        if self.backbone is not None:
            self.backbone.eval().to(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        if self.backbone is not None:
            self.backbone.train(self._training)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """One batch; on a GPU it is only begun when this returns."""
        # Copied as bytes, and made floats on the device, in place.
        values = images.to(self.device, non_blocking=True).float().sub_(self.mean).div_(self.std)
        if self.backbone is None:
            if values.shape[-1] > PIXEL_SIDE:
                values = F.interpolate(values, size=(PIXEL_SIDE, PIXEL_SIDE), mode="area")
            return values.flatten(1)
        low = self.transform.precision == "bf16"
        cast: Any = torch.autocast(self.device.type, torch.bfloat16) if low else nullcontext()
        with not_compiled(self.backbone), cast:
            return self.backbone(values).float()


def embed_parts(
    embedder: Embedder, dataset: Dataset, parts: Sequence[np.ndarray], batch_size: int, num_workers: int,
    step: Callable[[int], Any] = lambda count: None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Float32 [N, D] of each part, rows int64 [N] of a dataset of {"image": uint8 [3, S, S]}.

    Batches are cut inside a part, so that a part's numbers depend on nothing that was done before. They are fetched
    from a GPU once a part, which lets it work while the next batches are copied. step: told how many images each batch
    had. Raises ValueError for an image that cannot be read.
    """
    cut = [[part[start : start + batch_size] for start in range(0, len(part), batch_size)] for part in parts]
    batches = ordered_batches(dataset, [rows for part in cut for rows in part], num_workers)
    for part in cut:
        embedded = []
        for rows in part:
            embedded.append(embedder(next(batches)))
            step(len(rows))
        yield torch.cat(embedded).cpu().numpy()
