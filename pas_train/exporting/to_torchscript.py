"""`export --to torchscript`: a program that torch runs without the code of its model, in C++ too."""

import json
import warnings
import zipfile
from pathlib import Path

import torch

from pas_train.exporting.source import Source
from pas_train.exporting.target import Target

EXTRA = "metadata.json"


class TorchScript(Target):
    """backbone.pt: normalised float32 images [N, 3, S, S] -> embeddings [N, D]; any N, on any device.

    Traced, so that it takes every backbone; its tensors have timm's names. The metadata is the extra file
    metadata.json. Places in source files that tracing notes for debugging are left out: they name folders of the
    machine that exported.
    """

    name = "torchscript"
    title = "TorchScript"
    loader = "torchscript"

    def check(self, source: Source) -> None:
        """Takes every backbone."""

    def write(self, source: Source, folder: Path) -> None:
        """Traces the backbone with two images."""
        images = torch.zeros(2, 3, source.image_size, source.image_size)
        traced, told = folder / "traced.tmp", json.dumps(dict(source.metadata), default=str)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of checks on the image size, and that torch goes towards torch.export
            torch.jit.save(torch.jit.trace(source.backbone, images), traced, _extra_files={EXTRA: told})
        with zipfile.ZipFile(traced) as all_, zipfile.ZipFile(folder / "backbone.pt", "w") as kept:
            for name in all_.namelist():
                if not name.endswith(".debug_pkl"):
                    kept.writestr(zipfile.ZipInfo(name), all_.read(name))
        traced.unlink()
