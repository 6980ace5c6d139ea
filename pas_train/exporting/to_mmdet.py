"""`export --to mmdet`: a checkpoint and configs of MMDetection 3.x, one of them the paper's detection."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pas_train.exporting import openmmlab
from pas_train.exporting.openmmlab import Residual
from pas_train.exporting.openmmlab_configs import CONFIG, DETECTION, backbone_text, detection_text
from pas_train.exporting.source import Source
from pas_train.exporting.target import NamedTarget

PARTS: dict[str, str] = {}  # its names are timm's


class MMDet(NamedTarget):
    """backbone.pth, backbone.py, and cascade_rcnn_oktoberfest.py, which trains Cascade R-CNN on them."""

    name = "mmdet"
    title = "MMDetection"
    library = "mmdet"
    install = 'pip install openmim && mim install "mmcv>=2.0,<2.2" "mmdet>=3"'
    loader = "mmdet"

    def check(self, source: Source) -> None:
        """Refuses what its ResNet has no place for."""
        self._shape(source)

    def write(self, source: Source, folder: Path) -> None:
        """Writes the three files."""
        shape = self._shape(source)
        openmmlab.write_checkpoint(source, folder, PARTS)
        (folder / CONFIG).write_text(backbone_text(source, shape, "mmdet"))
        (folder / DETECTION).write_text(detection_text(shape))

    def recorded(self, source: Source) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its model."""
        return openmmlab.recorded(source, "mmdet")

    def read(self, folder: Path) -> Mapping[str, Tensor]:
        """The tensors of backbone.pth."""
        return openmmlab.read_checkpoint(folder)

    def restore(self, tensors: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
        """The tensors under timm's names."""
        return openmmlab.restore(tensors, source, "mmdet")

    def _shape(self, source: Source) -> Residual:
        if source.transformer:
            raise ValueError(
                "--to mmdet: MMDetection has no plain vision transformer: take --to detectron2 for ViTDet, or --to "
                "mmpretrain and its backbone as mmpretrain.VisionTransformer"
            )
        shape = openmmlab.describe(source, "mmdet")
        assert isinstance(shape, Residual)
        return shape
