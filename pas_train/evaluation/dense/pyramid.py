"""Feature maps of a backbone at strides 4, 8, 16 and 32: what heads for segmentation and detection take."""

import copy
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)
PROBE = (96, 128)  # pixels, of an image to learn the maps from
WIDTH = 256  # channels of ViTDet's maps


class FeaturePyramid(nn.Module):
    """A copy of a backbone that gives maps of images of any size: [B, 3, H, W] -> four [B, C, H / stride, W / stride].

    All of the copy is trained, also what its pretraining left frozen, but for parts that the maps do not depend on.
    A network of stages (ResNet, ConvNeXt) gives these. A vision transformer, whose position embedding is resampled to
    the image's size, has maps of one size:

    * levels "blocks" takes four blocks at even distances, each rescaled between two convolutions: mmsegmentation's
      ViT with MultiLevelNeck.
    * levels "last" makes all four from the last block by transposed convolutions and pooling: ViTDet
      (https://arxiv.org/abs/2203.16527).

    channels: of the four maps. Weights of the layers after the backbone are drawn from torch's global generator.
    Raises ValueError for a backbone that has no maps, or takes images of one size alone.
    """

    def __init__(self, backbone: nn.Module, levels: Literal["blocks", "last"] = "blocks") -> None:
        super().__init__()
        self.backbone: Any = copy.deepcopy(backbone).cpu().requires_grad_(True).eval()
        if hasattr(self.backbone, "dynamic_img_size"):
            _let_any_size(self.backbone)
        try:
            sizes = [[m.shape[1:] for m in maps_of(self.backbone, torch.zeros(1, 3, *s))] for s in (PROBE, PROBE[::-1])]
        except Exception as error:  # what it raises depends on the architecture
            raise _refused(backbone, f"takes images of one size alone ({str(error).splitlines()[0]})") from error
        if any(len(shape) != 3 for shape in sizes[0]) or not sizes[0]:
            raise _refused(backbone, "gives no feature maps")
        self._strides = [round(PROBE[0] / rows) for _, rows, _ in sizes[0]]
        widths = [shape[0] for shape in sizes[0]]
        self.necks: nn.ModuleList | None = None
        if len(set(self._strides)) > 1:
            self._taken = [_taken(self._strides, stride) for stride in STRIDES]
            if self._taken[0] is None:
                raise _refused(backbone, f"gives no feature map of stride {STRIDES[0]}")
            self.channels = [widths[one] for one in _filled(self._taken)]
        else:
            patch, depth = self._strides[0], len(widths)
            self._taken = [math.ceil(depth * (i + 1) / 4) - 1 if levels == "blocks" else depth - 1 for i in range(4)]
            neck = _Rescaled if levels == "blocks" else _Resampled
            self.necks = nn.ModuleList(neck(widths[-1], patch, stride) for stride in STRIDES)
            self.channels = [widths[-1] if levels == "blocks" else WIDTH] * 4
        self._freeze_unused()
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        """The four maps, finest first."""
        maps = maps_of(self.backbone, images)
        height, width = images.shape[2:]
        found: list[Tensor] = []
        for level, (stride, taken) in enumerate(zip(STRIDES, self._taken, strict=True)):
            if taken is None:  # a stem for small images, whose stages end before
                found.append(F.max_pool2d(found[-1], 2, ceil_mode=True))
            elif self.necks is not None:
                size = (math.ceil(height / stride), math.ceil(width / stride))
                found.append(self.necks[level](maps[taken], size))
            else:
                found.append(maps[taken])
        return found

    def _freeze_unused(self) -> None:
        """Parameters that no map depends on, such as a pooler's, are not trained: other ranks would wait for them."""
        parameters = list(self.parameters())
        total = sum(one.sum() for one in self(torch.zeros(1, 3, *PROBE)))
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(total, parameters, allow_unused=True), strict=True
        ):
            parameter.requires_grad_(gradient is not None)


def maps_of(backbone: Any, images: Tensor) -> list[Tensor]:
    """All its maps [B, C, h, w] in their order: of blocks one size, of stages a smaller one each time; or none."""
    if hasattr(backbone, "forward_intermediates"):  # timm's
        last, maps = backbone.forward_intermediates(images)
        if last.ndim == 3:  # tokens after the last norm, which the maps are before
            rows, columns = maps[-1].shape[2:]
            maps[-1] = _places(last, rows, columns)
        return list(maps)
    if hasattr(backbone, "model") and hasattr(backbone, "more"):  # of transformers, as HubBackbone holds it
        return _of_transformers(backbone, images)
    return []


def _let_any_size(vit: Any) -> None:
    """As timm builds a vision transformer with dynamic_img_size and dynamic_img_pad, whose weights are the same."""
    from timm.layers import Format

    vit.dynamic_img_size = True
    vit.patch_embed.strict_img_size, vit.patch_embed.dynamic_img_pad = False, True
    vit.patch_embed.flatten, vit.patch_embed.output_fmt = False, Format.NHWC


def _of_transformers(backbone: Any, images: Tensor) -> list[Tensor]:
    """All maps of a model of transformers; images are filled up on the right and below to whole patches."""
    patch = getattr(backbone.model.config, "patch_size", 1)
    patch = patch if isinstance(patch, int) else 1
    height, width = images.shape[2:]
    images = F.pad(images, (0, -width % patch, 0, -height % patch))
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    found = backbone.model(pixel_values=images, output_hidden_states=True, **backbone.more)
    states = getattr(found, "reshaped_hidden_states", None) or found.hidden_states
    if states[-1].ndim == 4:
        return list(states)
    tokens = [*states[1:-1], found.last_hidden_state]  # the last after its norm
    return [_places(one, rows, columns) for one in tokens]


def _places(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Tokens [B, L, C] as a map, without those before the patches', such as the class token."""
    return tokens[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def _taken(strides: list[int], stride: int) -> int | None:
    """The last map of this stride."""
    return max((place for place, one in enumerate(strides) if one == stride), default=None)


def _filled(taken: list[int | None]) -> list[int]:
    """With the map before where one is missing."""
    filled: list[int] = []
    for one in taken:
        filled.append(filled[-1] if one is None else one)
    return filled


def _refused(backbone: nn.Module, why: str) -> ValueError:
    inner = getattr(backbone, "model", backbone)
    return ValueError(
        f"evaluation: {type(inner).__name__} {why}, and segmentation and detection need maps of images of any size; "
        "ResNets and vision transformers of timm and transformers give them. Leave out this backbone, or "
        "evaluation.segmentation and evaluation.detection"
    )


class _Rescaled(nn.Module):
    """A block's map at another stride, between a convolution of 1 and one of 3 pixels."""

    def __init__(self, width: int, patch: int, stride: int) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, padding=1)
        for layer in (self.before, self.after):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        return self.after(F.interpolate(self.before(values), size, mode="bilinear"))


class _Resampled(nn.Module):
    """The last block's map at another stride, in WIDTH channels."""

    def __init__(self, width: int, patch: int, stride: int) -> None:
        super().__init__()
        steps = round(math.log2(patch / stride))
        layers: list[nn.Module] = []
        for step in range(steps):
            layers += [_Norm(width), nn.GELU()] if step else []
            layers.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
            width //= 2
        layers += [nn.MaxPool2d(2, ceil_mode=True)] * -steps
        layers += [nn.Conv2d(width, WIDTH, 1, bias=False), _Norm(WIDTH)]
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), _Norm(WIDTH)]
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        found = self.layers(values)
        return found if found.shape[2:] == size else F.interpolate(found, size, mode="bilinear")


class _Norm(nn.LayerNorm):
    """Of the channels at each place."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.movedim(1, -1)).movedim(-1, 1)
