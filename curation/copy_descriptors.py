"""Copy descriptors: SSCD and other TorchScript files, or any open_clip or timm model in their place."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from curation.image_encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder, Prepare
from curation.known_weights import verify_file
from datamodules.files import sha256_file


class CopyDescriptor(ImageEncoder):
    """A TorchScript copy descriptor such as SSCD: [N, 3, S, S] normalised images to unit vectors."""

    def __init__(
        self, script: Any, prepare: Prepare, mean: Sequence[float], std: Sequence[float], identity: dict[str, Any]
    ) -> None:
        super().__init__(prepare, mean, std, identity)
        self.script = script
        self.eval().requires_grad_(False)
        with torch.no_grad():
            self.dim = int(self.embed_images(torch.zeros(1, 3, prepare.size, prepare.size, dtype=torch.uint8)).shape[1])

    @staticmethod
    def load(
        path: str, image_size: int = 320, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> "CopyDescriptor":
        """Loads a TorchScript file, on the CPU; images are resized to a square of image_size px (SSCD's 320).

        mean, std: of each channel, for pixels in [0, 1].
        Raises FileNotFoundError or ValueError naming the yaml key.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(
                f"curation.embed.copy.model: {path} does not exist. SSCD's published models are listed in "
                "github.com/facebookresearch/sscd-copy-detection (sscd_disc_mixup.torchscript.pt); download one and "
                "give the file's path"
            )
        verify_file(file, "curation.embed.copy.model")
        try:
            with warnings.catch_warnings():  # TorchScript is SSCD's published format, whatever torch thinks of it
                warnings.filterwarnings("ignore", ".*torch.jit.*")
                script = torch.jit.load(path, map_location="cpu").float()
        except RuntimeError as error:
            brief = " ".join(str(error).split())[:200]
            raise ValueError(f"curation.embed.copy.model: {path} is no TorchScript file ({brief})") from error
        prepare = Prepare(image_size, True, Image.Resampling.BILINEAR)
        return CopyDescriptor(script, prepare, mean, std, {"name": path, "files": {file.name: sha256_file(file)}})

    def embed_images(self, images: Any) -> Tensor:
        """Unit float32 [N, D] of uint8 [N, 3, S, S]."""
        features = self.script(self.normalise(images.to(self.mean.device)))
        return nn.functional.normalize(features.float(), dim=1)
