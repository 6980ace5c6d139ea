"""Copy descriptors: SSCD and other TorchScript files, or any open_clip or timm model in their place."""

import difflib
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from curation.image_encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder, Prepare
from curation.known_weights import KNOWN, find_file, known, verify_file
from datamodules.files import sha256_file

Resize = Literal["square", "short"]

TIMM = "timm:"
PUBLISHED_PX = {"square": 320, "short": 288}  # SSCD's README: a skewed square, or the short side, the shape kept
KEY = "curation.embed.copy"


class CopyDescriptor(ImageEncoder):
    """A network that is used to find copies: [N, 3, H, W] normalised images to vectors [N, D], made unit here.

    Raises ValueError where the network gives anything else.
    """

    def __init__(
        self, network: Any, prepare: Prepare, mean: Sequence[float], std: Sequence[float], identity: dict[str, Any]
    ) -> None:
        super().__init__(prepare, mean, std, identity)
        self.network = network
        self.eval().requires_grad_(False)
        self.dim = self._try()

    @staticmethod
    def load(
        model: str, image_size: int | None = None, resize: Resize = "square", pretrained: str | None = None,
        mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD,
    ) -> "CopyDescriptor":  # fmt: skip
        """Loads a descriptor, on the CPU, with the preprocessing that it was made for.

        model: the name or file of a published SSCD model, another TorchScript file, `timm:NAME`, or (with `pretrained`,
        or as a folder with an open_clip_config.json, or as hf-hub:...) an open_clip model. image_size, resize, mean,
        std: of TorchScript files only, which do not say theirs; mean and std of each channel for pixels in [0, 1].
        pretrained: weights of an open_clip model (name or file), or a timm model's file in place of the published one.
        Raises FileNotFoundError or ValueError naming the yaml key; nothing that is missing is replaced.
        """
        open_clip = model.startswith(("local-dir:", "hf-hub:")) or Path(model).is_dir()
        if model.startswith(TIMM) or open_clip or pretrained is not None:
            if image_size is not None or resize != "square":
                raise ValueError(
                    f"{KEY}: image_size and resize are for TorchScript files; {model} brings its own. Leave them out"
                )
            load = _load_timm if model.startswith(TIMM) else _load_open_clip
            return load(model, pretrained)
        file = _find(model)
        verify_file(file, f"{KEY}.model")
        try:
            with warnings.catch_warnings():  # TorchScript is SSCD's published format, whatever torch thinks of it
                warnings.filterwarnings("ignore", ".*torch.jit.*")
                script = torch.jit.load(str(file), map_location="cpu").float()
        except RuntimeError as error:
            raise ValueError(f"{KEY}.model: {file} is no TorchScript file ({_brief(error)})") from error
        square = resize == "square"
        prepare = Prepare(image_size or PUBLISHED_PX[resize], square, Image.Resampling.BILINEAR, crop=square)
        identity = {"name": model, "files": {file.name: sha256_file(file)}}
        return CopyDescriptor(_Script(script), prepare, mean, std, identity)

    def embed_images(self, images: Tensor | list[np.ndarray]) -> Tensor:
        """Unit float32 [N, D] of uint8 [N, 3, H, W], or of N pictures uint8 [3, H, W] of several shapes."""
        if isinstance(images, Tensor):
            return nn.functional.normalize(self._outputs(images).float(), dim=1)
        embeddings = torch.empty(len(images), self.dim, device=self.mean.device)
        for shape in dict.fromkeys(image.shape for image in images):
            places = [place for place, image in enumerate(images) if image.shape == shape]
            alike = torch.from_numpy(np.stack([images[place] for place in places]))
            embeddings[places] = self.embed_images(alike)
        return embeddings

    def _outputs(self, images: Tensor) -> Tensor:
        return self.network(self.normalise(images.to(self.mean.device)))

    @torch.no_grad()
    def _try(self) -> int:
        """Width of the output on two pictures of noise."""
        size, name = self.prepare.size, self.identity["name"]
        noise = np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8)
        try:
            found = self._outputs(torch.from_numpy(noise))
        except RuntimeError as error:
            raise ValueError(
                f"{KEY}.model: {name} does not take images [N, 3, {size}, {size}] ({_brief(error)}); "
                f"is {KEY}.image_size right?"
            ) from error
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2 or not found.is_floating_point():
            raise ValueError(
                f"{KEY}.model: {name} gives {shape} for two images; a copy descriptor gives a vector for each, [2, D]"
            )
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"{KEY}.model: {name} gives values that are not finite; are its weights whole?")
        return int(found.shape[1])


class _Script(nn.Module):
    """A TorchScript module whose later calls compute as its first: no fusing after it has watched itself run."""

    def __init__(self, script: Any) -> None:
        super().__init__()
        self.script = script

    def forward(self, images: Tensor) -> Any:
        before = torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])
        try:
            return self.script(images)
        finally:
            torch.jit.set_fusion_strategy(before)


class _ImageTower(nn.Module):
    """The image half of an open_clip model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images)  # type: ignore[operator]


def _find(model: str) -> Path:
    """The TorchScript file of a path, or of a published model's name where it was downloaded to."""
    file = find_file(model)
    if file is None:
        entry = known(model)
        names = [entry.name for entry in KNOWN if entry.role == "copy descriptor"]
        if entry is not None and entry.role == "copy descriptor":
            raise FileNotFoundError(
                f"{KEY}.model: {model} is neither in the current folder nor in torch's cache; "
                f"get it with `curl -LO {entry.source}` ({entry.licence}), or give its path"
            )
        close = difflib.get_close_matches(model, names, n=1)
        raise FileNotFoundError(
            f"{KEY}.model: {model} does not exist"
            + (f"; is {close[0]} meant?" if close else ".")
            + f" Give a TorchScript file, one of {', '.join(names)}, timm:NAME, or an open_clip model with `pretrained`"
        )
    if file.name.endswith((".classy.pt", ".torchvision.pt")):
        raise ValueError(
            f"{KEY}.model: {file} holds weights alone; SSCD publishes the same as .torchscript.pt, take it"
        )
    return file


def _load_open_clip(model: str, pretrained: str | None) -> CopyDescriptor:
    from curation.encoders import ImageTextEncoder

    if find_file(model) is not None:
        raise ValueError(f"{KEY}.pretrained: {model} is a file that holds its weights; leave `pretrained` out")
    encoder = ImageTextEncoder.load(model, pretrained, key=KEY)
    mean, std = (buffer.flatten() / 255 for buffer in (encoder.mean, encoder.std))
    return CopyDescriptor(_ImageTower(encoder.model), encoder.prepare, mean.tolist(), std.tolist(), encoder.identity)


def _load_timm(model: str, pretrained: str | None) -> CopyDescriptor:
    import timm
    from timm.data import resolve_model_data_config

    name = model.removeprefix(TIMM)
    bare = name.partition(".")[0]
    if "/" not in name and ":" not in name and not timm.is_model(bare):
        close = difflib.get_close_matches(bare, timm.list_models(), n=3)
        hint = f"; close are {', '.join(close)}" if close else ""
        raise ValueError(f"{KEY}.model: timm has no model {name}{hint}")
    if pretrained is not None and not Path(pretrained).is_file():
        raise FileNotFoundError(f"{KEY}.pretrained: {pretrained} does not exist; null takes timm's published weights")
    try:
        network = timm.create_model(name, pretrained=pretrained is None, num_classes=0)
        if pretrained is not None:
            _fill(network, pretrained)
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise FileNotFoundError(
            f"{KEY}: the weights of {model} ({pretrained or 'published by timm'}) are not here and could not be "
            f"fetched, or do not fit ({_brief(error)}). Download them where there is a network (timm caches them below "
            "HF_HOME) and copy them here, or give a file as `pretrained`"
        ) from error
    data = resolve_model_data_config(network)
    files = {Path(pretrained).name: sha256_file(Path(pretrained))} if pretrained else {}
    identity = {"name": model, "pretrained": pretrained, "files": files}
    return CopyDescriptor(network.float(), _timm_prepare(model, data), data["mean"], data["std"], identity)


def _fill(network: Any, file: str) -> None:
    """Loads a file into a network without classifier; every other weight must be there, and none be left over."""
    from timm.models import load_state_dict

    state = load_state_dict(file, use_ema=False)
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    state = {name: value for name, value in state.items() if not name.startswith(tuple(f"{head}." for head in heads))}
    network.load_state_dict(state)


def _timm_prepare(model: str, data: dict[str, Any]) -> Prepare:
    """Timm's evaluation transform as its model's data settings tell it."""
    _, high, wide = data["input_size"]
    mode = data.get("crop_mode") or "center"
    if high != wide or mode not in ("center", "squash"):
        raise ValueError(f"{KEY}.model: {model} takes {high} x {wide} px cut by {mode!r}, which is not supported")
    resampling = Image.Resampling[data["interpolation"].upper()]
    return Prepare(high, mode == "squash", resampling, int(high / (data.get("crop_pct") or 1)))


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
