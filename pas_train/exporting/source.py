"""What is exported: a backbone, what it computes, and what is known of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pas_train.backbones import is_transformer


@dataclass(frozen=True)
class Source:
    """A backbone to be exported: the query encoder, without projector and predictor.

    backbone: timm's, without classifier, float32 on the CPU, in eval mode. architecture, options: its name in timm and
    the further arguments of timm.create_model that it was made with. small_images: whether its stem is the 3x3 one
    that timm does not know. image_size: side of its images in pixels. mean, std: of the colours in [0, 1].
    name: what to call the weights. metadata: what is known of them, plain enough for JSON.
    """

    backbone: nn.Module
    architecture: str
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    options: Mapping[str, Any] = field(default_factory=dict)
    small_images: bool = False
    name: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Architecture and options, for people."""
        options = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return f"{self.architecture} ({options})" if options else self.architecture

    @property
    def transformer(self) -> bool:
        """Whether it is one of timm's vision transformers."""
        return is_transformer(self.backbone)

    @property
    def state(self) -> dict[str, Tensor]:
        """Its tensors by timm's names."""
        return dict(self.backbone.state_dict())

    @torch.no_grad()
    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What a library's copy must compute of normalised images, float32 [N, 3, S, S].

        `embedding` [N, D]; `map` [N, C, h, w], the last feature map, of a vision transformer its patch tokens after the
        last norm; of a vision transformer alone, `raw_map`, the same before that norm, and `patch_map`, the same
        without the other tokens, which the patches then do not attend to (ViTDet).
        """
        backbone: Any = self.backbone
        features = backbone.forward_features(images)
        told = {"embedding": backbone(images)}
        if not self.transformer:
            return told | {"map": features}
        rows, columns = backbone.patch_embed.grid_size
        raw: list[Tensor] = []
        hook = backbone.blocks[-1].register_forward_hook(lambda module, _, output: raw.append(output))
        try:
            backbone.forward_features(images)
        finally:
            hook.remove()
        given = backbone.patch_embed(images).flatten(1, -2)
        if backbone.pos_embed is not None:
            given = given + backbone.pos_embed[:, -rows * columns :]
        alone = backbone.blocks(backbone.norm_pre(backbone.pos_drop(given)))
        for name, tokens in (("map", features), ("raw_map", raw[0]), ("patch_map", alone)):
            patches = tokens[:, -rows * columns :].transpose(1, 2)
            told[name] = patches.reshape(len(images), -1, rows, columns)
        return told
