"""`export --to mmpretrain`: a checkpoint and a config of MMPretrain 1.x."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pas_train.exporting import openmmlab
from pas_train.exporting.openmmlab import Transformer
from pas_train.exporting.openmmlab_configs import CONFIG, backbone_text
from pas_train.exporting.source import Source
from pas_train.exporting.target import NamedTarget

PREFIX = "backbone."  # as in the checkpoint of a whole classifier, which its API loads too
PARTS = {
    "patch_embed.proj.": "patch_embed.projection.",
    "norm1.": "ln1.",
    "norm2.": "ln2.",
    "mlp.fc1.": "ffn.layers.0.0.",
    "mlp.fc2.": "ffn.layers.1.",
    "norm.": "ln1.",
}


class MMPretrain(NamedTarget):
    """backbone.pth and backbone.py, whose `backbone` is for a model of MMPretrain or, by its full name, of others."""

    name = "mmpretrain"
    title = "MMPretrain"
    library = "mmpretrain"
    install = 'pip install openmim && mim install "mmpretrain>=1"'
    loader = "mmpretrain"

    def check(self, source: Source) -> None:
        """Refuses what its ResNet and its VisionTransformer have no place for."""
        openmmlab.describe(source, "mmpretrain")

    def write(self, source: Source, folder: Path) -> None:
        """Writes both files."""
        shape = openmmlab.describe(source, "mmpretrain")
        openmmlab.write_checkpoint(source, folder, PARTS if isinstance(shape, Transformer) else {}, PREFIX)
        (folder / CONFIG).write_text(backbone_text(source, shape, "mmpretrain"))

    def recorded(self, source: Source) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its model."""
        return openmmlab.recorded(source, "mmpretrain")

    def read(self, folder: Path) -> Mapping[str, Tensor]:
        """The backbone's tensors in backbone.pth."""
        return openmmlab.read_checkpoint(folder, PREFIX)

    def restore(self, tensors: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
        """The tensors under timm's names."""
        return openmmlab.restore(tensors, source, "mmpretrain")
