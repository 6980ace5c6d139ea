"""ProtoSim's parts: a frozen vision transformer, and prototypes, a block and DINO's head on top of it.

Shapes: N images, T tokens of an image (the class token, then its patches), D width of the transformer, P prototypes.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pas_train.backbones import build_backbone, is_transformer
from pas_train.weight_files import read_weights
from pas_train.weights import load

BLOCK_PRODUCTS = 2**25  # of tokens and prototypes at once, when images are assigned
DRAWN_PRODUCTS = 2**28  # in training: 1 GB, of which a step holds about six at once


class FrozenTransformer(nn.Module):
    """A vision transformer of timm whose weights never change: images -> tokens after its last norm.

    Args:
        name: of the timm model; it must have a class token.
        weights: as `model.weights` of the pretraining methods; None starts from random ones.
        image_size: side of the images that it is built for; others are taken by interpolated positions.
        options: further arguments of the timm model.
        mean: of the colours in [0, 1].
        std: of the colours.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, weights: str | None, image_size: int, options: dict[str, Any] | None,
        mean: tuple[float, ...], std: tuple[float, ...],
    ) -> None:  # fmt: skip
        super().__init__()
        self._check(name)
        dropped = [key for key, value in (options or {}).items() if "drop" in key and value]
        if dropped:
            raise ValueError(
                f"model.backbone_options: {dropped[0]} would change a transformer that is frozen; leave it out"
            )
        options = {"dynamic_img_size": True, "global_pool": "token", **(options or {})}
        vit: Any = build_backbone(name, image_size, False, False, False, options=options)
        if not is_transformer(vit) or vit.cls_token is None:
            raise ValueError(f"model.backbone: {name} has no class token, which ProtoSim's loss is on")
        self.backbone, self.backbone_name = vit, name
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255, persistent=False)
        self.told = "random weights"
        if weights is not None:
            published, called = read_weights(weights, "model.weights", name)
            self.told = f"{called}: {load(self, published, f'model.weights: {called}')}"
        self.requires_grad_(False)

    @staticmethod
    def _check(name: str) -> None:
        from timm import is_model
        from timm.models import model_entrypoint

        if is_model(name) and not model_entrypoint(name).__module__.endswith((".vision_transformer", ".deit")):
            raise ValueError(
                f"model.backbone: {name} is no vision transformer; ProtoSim compares the tokens of one, such as "
                "vit_small_patch16_224"
            )

    @property
    def width(self) -> int:
        """D."""
        return int(self.backbone.num_features)

    def norm(self, tokens: Tensor) -> Tensor:
        """The transformer's last norm, as it was trained."""
        return self.backbone.norm(tokens)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Tokens [N, T, D] of uint8 images [N, 3, S, S]; registers, which stand for no place, are left out."""
        tokens = self.backbone.forward_features((images.to(self.std.dtype) - self.mean) / self.std)
        prefix = self.backbone.num_prefix_tokens
        return tokens if prefix == 1 else torch.cat([tokens[:, :1], tokens[:, prefix:]], dim=1)


class PrototypeHead(nn.Module):
    """What is trained: prototypes [P, D], one more block, and DINO's projection head.

    Args:
        width: D.
        prototypes: P; they begin uniform in [0, 1).
        output_dim: of DINO's head.
        hidden_dim: of its hidden layers.
        bottleneck_dim: of its normalised layer.
        drop_path: share of images for which the block's branches are left out in training.
    """

    def __init__(
        self, width: int, prototypes: int, output_dim: int, hidden_dim: int, bottleneck_dim: int, drop_path: float
    ) -> None:
        super().__init__()
        from lightly.models.modules.heads import DINOProjectionHead
        from timm.models.vision_transformer import Block

        self.prototypes = nn.Parameter(torch.rand(prototypes, width))
        self.block = Block(width, num_heads=1, mlp_ratio=4, qkv_bias=True, drop_path=drop_path)
        for module in self.block.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        with warnings.catch_warnings():  # torch's hint at its newer weight norm, which has other keys than DINO's files
            warnings.simplefilter("ignore")
            self.head = DINOProjectionHead(width, hidden_dim, bottleneck_dim, output_dim, norm_last_layer=True)

    def forward(self, tokens: Tensor, vit: FrozenTransformer, temperature: float, hard: bool) -> Tensor:
        """DINO's outputs [N, output_dim]: each token gives way to the prototypes that it draws (Gumbel softmax).

        Draws from torch's global generator: seed and fork it around the call.
        """
        images = max(1, DRAWN_PRODUCTS // (tokens.shape[1] * len(self.prototypes)))
        if len(tokens) <= images:
            seen = self._draw(tokens, temperature, hard)
        else:  # a batch's products would fill the memory of a GPU several times: they are made again for the gradients
            parts = tokens.split(images)
            seen = torch.cat([checkpoint(self._draw, one, temperature, hard, use_reentrant=False) for one in parts])
        return self.head(vit.norm(self.block(seen))[:, 0])

    def _draw(self, tokens: Tensor, temperature: float, hard: bool) -> Tensor:
        """[N, T, D]: the prototypes in the tokens' places."""
        products = tokens @ self.prototypes.T  # [N, T, P]; dot products, as they are
        drawn = F.gumbel_softmax(products.float(), tau=temperature, hard=hard, dim=-1).to(products.dtype)
        return drawn @ self.prototypes

    @torch.no_grad()
    def assign(self, tokens: Tensor) -> Tensor:
        """int64 [N, T]: the prototype of the largest dot product with each token, without noise."""
        rows = tokens.flatten(0, 1).float()
        step = max(1, BLOCK_PRODUCTS // len(self.prototypes))
        parts = [
            (rows[start : start + step] @ self.prototypes.float().T).argmax(1) for start in range(0, len(rows), step)
        ]
        return torch.cat(parts).view(tokens.shape[:2])


def load_dino_heads(file: str, student: PrototypeHead, teacher: PrototypeHead) -> str:
    """Puts the heads of DINO's official full checkpoint into both; returns what was taken, in words.

    Raises: FileNotFoundError or ValueError naming `model.heads`.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"model.heads: {path} does not exist; give DINO's full checkpoint, such as "
            "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/"
            "dino_deitsmall16_pretrain_full_checkpoint.pth, or null for heads that begin at random"
        )
    from pas_train.weight_files import read_tensors

    try:
        content = read_tensors(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"model.heads: {path}: {error}") from error
    for name, part in (("student", student), ("teacher", teacher)):
        given = content.get(name) if isinstance(content, dict) else None
        if not isinstance(given, dict):
            raise ValueError(f"model.heads: {path} has no {name}; give DINO's full checkpoint, not its backbone alone")
        found = {_renamed(key): value for key, value in given.items() if "head." in key}
        own = part.head.state_dict()
        wrong = [key for key in own if key not in found or found[key].shape != own[key].shape]
        if wrong:
            raise ValueError(
                f"model.heads: {path}: the {name}'s head does not fit ({', '.join(wrong[:3])}); set model.output_dim, "
                "model.hidden_dim and model.bottleneck_dim to the checkpoint's, and model.backbone to its own"
            )
        part.head.load_state_dict({key: found[key] for key in own})
    return f"{path.name}, heads of student and teacher"


def _renamed(key: str) -> str:
    """The name in lightly of a tensor of DINO's head: mlp.0 is layers.0."""
    return key.partition("head.")[2].replace("mlp.", "layers.")
