"""`export --to timm`: a folder as timm and the Hugging Face hub have it."""

import json
import math
from pathlib import Path

from pas_train.exporting.metadata import as_text, of_backbone, pooling, write_safetensors
from pas_train.exporting.source import Source
from pas_train.exporting.target import Target


class Timm(Target):
    """model.safetensors and config.json, which hold no more than the backbone and how its images are prepared."""

    name = "timm"
    title = "timm"
    library = "timm"
    install = "pip install timm"
    loader = "timm"

    def check(self, source: Source) -> None:
        """Refuses the stem that timm does not know."""
        if source.small_images:
            raise ValueError(
                "--to timm: the backbone has the stem for small images (model.small_images), which timm cannot build: "
                "take --to plain, onnx or torchscript"
            )

    def write(self, source: Source, folder: Path) -> None:
        """Writes both files."""
        told = {**of_backbone(source), **source.metadata}
        write_safetensors(source.state, folder / "model.safetensors", as_text(told))
        side, backbone = source.image_size, source.backbone
        known = getattr(backbone, "pretrained_cfg", {})  # names of the layers that other inputs and classes change
        prepared = {
            "input_size": [3, side, side], "fixed_input_size": source.transformer, "interpolation": "bilinear",
            "crop_pct": _crop(side, told["resize"]), "crop_mode": "center",
            "mean": list(source.mean), "std": list(source.std), "num_classes": 0, "pool_size": None,
            "first_conv": known.get("first_conv"), "classifier": known.get("classifier"),
            "license": (told.get("source") or {}).get("license"),
        }  # fmt: skip
        config = {
            "architecture": source.architecture, "num_classes": 0, "num_features": backbone.num_features,
            "global_pool": pooling(source).replace("cls", "token"), "pretrained_cfg": prepared,
            "model_args": dict(source.options), "pas_train": told,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n")


def _crop(side: int, resize: int) -> float:
    """The share of the short side by which timm, which rounds down, makes the short side `resize` px."""
    share = side / resize
    return share if math.floor(side / share) == resize else math.nextafter(share, 0)
