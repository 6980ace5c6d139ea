"""`export --to mmseg`: a checkpoint and configs of MMSegmentation 1.x, one of them the paper's segmentation."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pas_train.exporting import openmmlab
from pas_train.exporting.openmmlab import Transformer
from pas_train.exporting.openmmlab_configs import CONFIG, LEVELS, SEGMENTATION, backbone_text, segmentation_text
from pas_train.exporting.source import Source
from pas_train.exporting.target import NamedTarget

PARTS = {
    "patch_embed.proj.": "patch_embed.projection.",
    "norm1.": "ln1.",
    "attn.qkv.": "attn.attn.in_proj_",
    "attn.proj.": "attn.attn.out_proj.",
    "norm2.": "ln2.",
    "mlp.fc1.": "ffn.layers.0.0.",
    "mlp.fc2.": "ffn.layers.1.",
    "norm.": "ln1.",
}


class MMSeg(NamedTarget):
    """backbone.pth, backbone.py, and upernet_foodseg103.py, which trains UPerNet on them."""

    name = "mmseg"
    title = "MMSegmentation"
    library = "mmseg"
    install = 'pip install openmim ftfy regex && mim install "mmcv>=2.0,<2.2" "mmsegmentation>=1"'
    loader = "mmseg"

    def check(self, source: Source) -> None:
        """Refuses what its ResNet and its VisionTransformer have no place for."""
        shape = openmmlab.describe(source, "mmseg")
        if not isinstance(shape, Transformer):
            return
        if shape.hidden % shape.width:
            raise ValueError(
                f"--to mmseg: the backbone's MLPs are {shape.hidden} wide, no multiple of its width {shape.width}, "
                "which MMSegmentation cannot build: take --to mmpretrain"
            )
        if shape.depth < LEVELS:
            raise ValueError(
                f"--to mmseg: UPerNet takes the tokens of {LEVELS} blocks, the backbone has {shape.depth}: take --to "
                "mmpretrain"
            )

    def write(self, source: Source, folder: Path) -> None:
        """Writes the three files."""
        shape = openmmlab.describe(source, "mmseg")
        openmmlab.write_checkpoint(source, folder, PARTS if isinstance(shape, Transformer) else {})
        (folder / CONFIG).write_text(backbone_text(source, shape, "mmseg"))
        (folder / SEGMENTATION).write_text(segmentation_text(shape))

    def features(self, source: Source) -> tuple[str, ...]:
        """The last map alone."""
        return ("map",)

    def recorded(self, source: Source) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its model."""
        return openmmlab.recorded(source, "mmseg")

    def read(self, folder: Path) -> Mapping[str, Tensor]:
        """The tensors of backbone.pth."""
        return openmmlab.read_checkpoint(folder)

    def restore(self, tensors: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
        """The tensors under timm's names."""
        return openmmlab.restore(tensors, source, "mmseg")
