"""FAST's part on the device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curation.text.detector import Polygons
from curation.text.fast_network import load_fast_tiny

AT_ONCE = {"cpu": 4}  # images of a batch, at 100 MB each at 512 px; 64 on any other device
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FASTFinder(nn.Module):
    """Squares uint8 to polygons: the network on the device, the polygons on the CPU, where they are few.

    polygons: text logits float32 [H / 4, W / 4], image height, image width -> polygons.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, checkpoint: Path, polygons: Callable[[np.ndarray, int, int], Polygons]) -> None:
        super().__init__()
        self.network, self.polygons = load_fast_tiny(checkpoint), polygons
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255, persistent=False)

    @torch.inference_mode()
    def forward(self, batch: dict[str, Any]) -> list[Polygons]:
        """Polygons of each image of a batch of `FAST.prepare`."""
        logits = []
        for squares in batch["square"].split(AT_ONCE.get(self.mean.device.type, 64)):
            images = (squares.to(self.mean.device).float() - self.mean) / self.std
            logits += [*self.network(images.to(memory_format=torch.channels_last))[:, 0].float().cpu().numpy()]
        sizes = torch.as_tensor(batch["size"]).tolist()
        return [self.polygons(one, *size) for one, size in zip(logits, sizes, strict=True)]
