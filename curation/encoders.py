"""Image-text encoders by open_clip, with CLIPN's `no` text tower."""

import difflib
import json
import logging
import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from curation.clipn_checkpoints import holds_no_tower, load_base
from curation.image_encoder import ImageEncoder, Prepare
from curation.known_weights import known, verify_file
from datamodules.files import sha256_file

NO_BRANCH = "no_branch.safetensors"  # CLIPN's `no` tower, beside a model's weights
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TEXTS_PER_PASS = 256


class ImageTextEncoder(ImageEncoder):
    """An open_clip model, frozen, with CLIPN's `no` text tower where there is one."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, prepare: Prepare, mean: Sequence[float], std: Sequence[float],
        no_branch: nn.Module | None, identity: dict[str, Any],
    ) -> None:  # fmt: skip
        super().__init__(prepare, mean, std, identity)
        self.model, self.tokenizer, self.no_branch = model, tokenizer, no_branch
        self.eval().requires_grad_(False)
        self.dim = int(self.embed_texts(["a"]).shape[1])

    @staticmethod
    def load(
        model: str, pretrained: str | None = None, no_branch: str | None = None, key: str = "curation.embed.image_text"
    ) -> "ImageTextEncoder":
        """Loads a model by open_clip's name and weights, or from a folder; on the CPU.

        model: open_clip architecture, or a folder with open_clip_config.json and weights (tokenizer settings, size,
        mean and std come from it). pretrained: open_clip's weight name or a file. no_branch: file of the `no` tower;
        None takes no_branch.safetensors of the folder, or the `_no` keys of the weights, where they are.
        key: the yaml key of the model, for errors.
        Raises FileNotFoundError or ValueError naming the yaml key; weights are never left random.
        """
        from curation.clipn import load_no_branch

        folder = Path(model.removeprefix("local-dir:"))
        is_folder = folder.is_dir() or model.startswith("local-dir:")
        net, settings, tokenizer = _open_folder(folder, key) if is_folder else _open_named(model, pretrained, key)
        beside = folder / NO_BRANCH
        path = Path(no_branch) if no_branch else (beside if is_folder and beside.is_file() else None)
        branch_key, whole = "curation.ood.no_branch", Path(pretrained or "")
        if path is None and not is_folder and holds_no_tower(whole):  # a checkpoint of CLIPN: all its towers are used
            path, branch_key = whole, f"{key}.pretrained"
        branch = load_no_branch(net, path, branch_key) if path is not None else None
        files = [folder / name for name in WEIGHTS] if is_folder else [Path(pretrained or "")]
        checksums = {file.name: sha256_file(file) for file in [*files, path] if file is not None and file.is_file()}
        identity = {"name": model, "pretrained": pretrained, "files": checksums}
        return ImageTextEncoder(net, tokenizer, _prepare(settings), settings["mean"], settings["std"], branch, identity)

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit float32 [N, D] of uint8 [N, 3, S, S]."""
        features = self.model.encode_image(self.normalise(images.to(self.mean.device)))  # type: ignore[operator]
        return nn.functional.normalize(features.float(), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit float32 [N, D] of texts."""
        return self._texts(texts, lambda tokens: self.model.encode_text(tokens))  # type: ignore[operator]

    def embed_no_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit float32 [N, D] of the same texts by the `no` tower. Raises ValueError where there is none."""
        if self.no_branch is None:
            raise ValueError(
                f"curation.ood.no_branch: the image-text model {self.identity['name']} has no `no` branch, which the "
                "out-of-domain scores need. Give the file of one, or train it with "
                "`python -m pas_train fit --config clipn.yaml`"
            )
        return self._texts(texts, self.no_branch)

    def _texts(self, texts: Sequence[str], tower: Any) -> Tensor:
        parts = []
        with torch.no_grad():
            for first in range(0, len(texts), TEXTS_PER_PASS):
                tokens = self.tokenizer(list(texts[first : first + TEXTS_PER_PASS])).to(self.mean.device)
                parts.append(nn.functional.normalize(tower(tokens).float(), dim=1))
        return torch.cat(parts)


def _prepare(settings: dict[str, Any]) -> Prepare:
    size = settings["size"]
    side = size if isinstance(size, int) else size[0]
    resampling = Image.Resampling[str(settings.get("interpolation", "bicubic")).upper()]
    # "squash" is SigLIP's; CLIP's models resize the short side and crop the middle.
    return Prepare(side, settings.get("resize_mode") == "squash", resampling)


def _open_folder(folder: Path, key: str) -> tuple[nn.Module, dict[str, Any], Any]:
    import open_clip

    path = folder / "open_clip_config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{key}.model: {folder} is no folder with an open_clip_config.json; give an open_clip "
            "architecture, or a folder as `open_clip.push_to_hf_hub` writes it (config and weights)"
        )
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise FileNotFoundError(
            f"{key}.model: {folder} has a config but none of {', '.join(WEIGHTS)}; put the weights there"
        )
    config = json.loads(path.read_text())
    try:
        net = open_clip.create_model(f"local-dir:{folder}")
    except (OSError, RuntimeError, ValueError, TypeError, AssertionError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{key}.model: the weights in {folder} do not fit its open_clip_config.json, or are "
            f"damaged ({_brief(error)})"
        ) from error
    text = config["model_cfg"]["text_cfg"]
    context = int(text.get("context_length", 77))
    if text.get("hf_tokenizer_name"):
        tokenizer = open_clip.HFTokenizer(text["hf_tokenizer_name"], context_length=context)
    else:
        tokenizer = _word_parts(context)
    settings = {
        "size": config["model_cfg"]["vision_cfg"]["image_size"],
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        **config.get("preprocess_cfg", {}),
    }
    return net.float(), settings, tokenizer  # the miniatures store float16; they compute in float32 as the others


@cache
def _word_parts(context: int) -> Any:
    """CLIP's tokenizer; its table takes longer to read than a small model."""
    import open_clip

    return open_clip.SimpleTokenizer(context_length=context)


def _open_named(model: str, pretrained: str | None, key: str) -> tuple[nn.Module, dict[str, Any], Any]:
    import open_clip

    on_hub = model.startswith("hf-hub:")  # carries its own weights
    if not on_hub and model not in open_clip.list_models():
        close = difflib.get_close_matches(model, open_clip.list_models(), n=3)
        raise ValueError(
            f"{key}.model: {model} is no folder, and open_clip has no model of that name"
            + (f"; close are {', '.join(close)}" if close else "")
        )
    if pretrained is None and not on_hub:
        # open_clip would begin with random weights and a warning.
        raise ValueError(
            f"{key}.pretrained: {model} needs weights; give a file, or one of "
            f"{', '.join(open_clip.list_pretrained_tags_by_model(model)) or '(none is published)'}"
        )
    verify_file(Path(pretrained or ""), f"{key}.pretrained")
    name = f"{model}/{pretrained}" if pretrained else model
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.CRITICAL)  # open_clip tells the root logger what the error tells again
    try:
        _find_weights(model, pretrained)
        whole = Path(pretrained or "")
        is_clipn = holds_no_tower(whole)  # open_clip would refuse the second text tower's names
        net = open_clip.create_model(model, pretrained=None if is_clipn else pretrained)
        tokenizer = open_clip.get_tokenizer(model)
    except (OSError, RuntimeError, ValueError, TypeError, AssertionError, pickle.UnpicklingError) as error:
        entry = known(name)
        terms = f" ({entry.gigabytes} GB, {entry.licence})" if entry else ""
        raise FileNotFoundError(
            f"{key}: the weights {name}{terms} are not here and could not be fetched, or do not "
            f"fit ({_brief(error)}). Download them where there is a network (open_clip caches them below HF_HOME) and "
            "copy them here; or give a file as `pretrained`, or a folder with open_clip_config.json as `model`"
        ) from error
    finally:
        root.setLevel(before)
    if is_clipn:
        load_base(net, whole, f"{key}.pretrained")
    return net.float(), open_clip.get_model_preprocess_cfg(net), tokenizer


def _find_weights(model: str, pretrained: str | None) -> None:
    """Raises OSError in seconds where weights are neither cached nor can be fetched; open_clip tries for a minute."""
    import open_clip
    from huggingface_hub import HfApi, try_to_load_from_cache

    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    published = open_clip.get_pretrained_cfg(model, pretrained) if pretrained else {"hf_hub": model[len("hf-hub:") :]}
    repository = (published or {}).get("hf_hub", "").strip("/")
    if not repository or any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        return
    try:
        HfApi().model_info(repository, timeout=10)
    except Exception as error:  # of a connection: whichever library the hub's client uses
        offline = "offline mode" in str(error)
        why = "is not downloaded in offline mode" if offline else f"cannot be reached: {_brief(error)}"
        raise OSError(f"{repository} {why}") from error


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@torch.inference_mode()
def embed_words(encoder: ImageTextEncoder, words: list[str], templates: list[str], no: bool = False) -> np.ndarray:
    """float32 [C, D] unit embeddings of concepts, ensembled over prompt templates with one `{}` each."""
    embed = encoder.embed_no_texts if no else encoder.embed_texts
    total: Tensor | float = 0.0
    for template in templates:
        total = total + embed([template.replace("{}", word) for word in words])
    assert isinstance(total, Tensor)
    return nn.functional.normalize(total, dim=1).float().cpu().numpy()
