"""The targets of the command `export` by name; a target is imported when it is asked for."""

import difflib
import importlib

from pas_train.exporting.target import Target

# name -> (module in pas_train.exporting, class)
TARGETS = {
    "timm": ("to_timm", "Timm"),
    "torchvision": ("to_torchvision", "Torchvision"),
    "transformers": ("to_transformers", "Transformers"),
    "mmpretrain": ("to_mmpretrain", "MMPretrain"),
    "mmseg": ("to_mmseg", "MMSeg"),
    "mmdet": ("to_mmdet", "MMDet"),
    "detectron2": ("to_detectron2", "Detectron2"),
    "plain": ("to_plain", "Plain"),
    "onnx": ("to_onnx", "Onnx"),
    "torchscript": ("to_torchscript", "TorchScript"),
}


def target(name: str) -> Target:
    """A target. Raises ValueError for unknown names."""
    if name not in TARGETS:
        close = difflib.get_close_matches(name.lower(), TARGETS, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}? Targets are" if close else "; targets are"
        raise ValueError(f"--to {name} is unknown{hint} {', '.join(TARGETS)}")
    module, cls = TARGETS[name]
    made: type[Target] = getattr(importlib.import_module(f"pas_train.exporting.{module}"), cls)
    return made()
