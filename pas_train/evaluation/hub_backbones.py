"""Backbones of transformers, as vectors of images."""

import inspect
from typing import Any

from torch import Tensor, nn


class HubBackbone(nn.Module):
    """A model of transformers: images [N, 3, S, S] -> embeddings [N, D].

    Of a model with a class token (ViT, DINO, MAE, DINOv2, BEiT) the token's last state, after its norm; of a joint one
    of images and texts (CLIP, SigLIP) what its image tower pools, before the projection; of any other (ResNet,
    ConvNeXt, Swin) what it pools, or the mean over all places.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        joint = hasattr(model, "vision_model")
        self.model = model.vision_model if joint else model
        names = [name for name, _ in self.model.named_parameters()]
        self.first = not joint and any(name.endswith("cls_token") for name in names)
        takes = inspect.signature(self.model.forward).parameters
        if "pixel_values" not in takes:
            raise ValueError(f"it is a {model.config.model_type} of transformers, which takes no images")
        # Models for one size alone interpolate their position embedding when they are asked to.
        self.more = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
        if self.first or any("position_embedding" in name for name in names):  # the towers of CLIP and SigLIP
            self.pos_embed = None  # tells the protocols that it is a transformer
        if getattr(model.config, "mask_ratio", None):
            model.config.mask_ratio = 0.0  # an MAE sees the whole image

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of a batch."""
        found = self.model(pixel_values=images, **self.more)
        hidden = found.last_hidden_state
        if self.first:
            return hidden[:, 0]
        pooled = getattr(found, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        return hidden.flatten(2).mean(2) if hidden.ndim == 4 else hidden.mean(1)
