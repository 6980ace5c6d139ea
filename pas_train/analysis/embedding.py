"""Embeddings of a sample of each set: a backbone's, or those that the curation has stored."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.decoding import RefusedImage
from datamodules.files import atomic, fingerprint
from datamodules.image_source import ImageSource
from datamodules.labelled import LIMITS, centre_crop
from datamodules.loaders import QuietLoader, as_it_is
from datamodules.progress import Progress
from datamodules.store import StoreError
from pas_train import curated
from pas_train.analysis.sets import ImageSet

KEY = "--embeddings"
STORED = "stored"
BATCH = 64


@dataclass(frozen=True)
class Embedder:
    """What makes the embeddings: a name, its identity, uint8 [3, S, S] of [H, W, 3], and unit float32 [N, D] of them.

    stored: whether a curated set's own, stored embeddings are the same.
    """

    name: str
    identity: str
    prepare: Callable[[np.ndarray], np.ndarray]
    embed: Callable[[Tensor], Tensor]
    stored: bool = False


def choose(text: str | None, sets: Sequence[ImageSet], image_size: int, device: torch.device) -> Embedder | str:
    """The embedder that a text names, or why there is none.

    text: "stored" takes the image-text model of the curated sets, and applies it to the others; "timm:NAME", "hf:NAME",
    "mocov3:FILE" and "random:NAME" are backbones as in evaluation.baselines; a .ckpt of a training; None takes the
    stored ones where a set has such.
    """
    known = {one.name: curated.stored_encoder(one.workspace) for one in sets if one.workspace is not None}
    encoders = {name: encoder for name, encoder in known.items() if encoder is not None}
    if text is None and not encoders:
        return (
            f"no set has stored embeddings; give {KEY} timm:resnet152 (the paper's), another backbone or a checkpoint"
        )
    if text in (None, STORED):
        if not encoders:
            raise ValueError(f"{KEY} {STORED}: none of the sets is a manifest in a workspace with embeddings")
        first, encoder = next(iter(encoders.items()))
        others = [name for name, one in encoders.items() if one != encoder]
        if others:
            raise ValueError(
                f"{KEY} {STORED}: {first} and {others[0]} were embedded by different models ({encoder['model']}, "
                f"{encoders[others[0]]['model']}); give one backbone for all, such as {KEY} timm:resnet152"
            )
        return _image_text(encoder, device)
    assert text is not None
    if text.endswith(".ckpt"):
        return _of_checkpoint(text, image_size, device)
    from pas_train.evaluation.baselines import load_baseline
    from pas_train.evaluation.candidates import identity

    try:
        candidate = load_baseline(text, image_size)
    except (ValueError, FileNotFoundError) as error:
        told = str(error).replace("evaluation.baselines: ", f"{KEY} ").replace("evaluation.image_size", "--image-size")
        raise type(error)(told) from error
    assert candidate.backbone is not None
    return _backbone(
        text, identity(candidate.backbone), candidate.backbone, candidate.mean, candidate.std, image_size, device
    )


def _image_text(encoder: dict[str, Any], device: torch.device) -> Embedder:
    model = curated.image_text_encoder(encoder["model"], encoder["pretrained"], KEY)
    model.to(device)
    return Embedder(encoder["model"], fingerprint(encoder), model.prepare, model.embed_images, stored=True)


def _backbone(
    name: str,
    identity: str,
    backbone: Any,
    mean: Sequence[float],
    std: Sequence[float],
    size: int,
    device: torch.device,
) -> Embedder:
    backbone.eval().to(device)
    centre, spread = (torch.tensor(list(values), device=device).view(3, 1, 1) * 255 for values in (mean, std))

    def embed(images: Tensor) -> Tensor:
        return F.normalize(backbone((images.float() - centre) / spread).float(), dim=1)

    return Embedder(name, f"{identity}-{size}", partial(centre_crop, image_size=size), embed)


def _of_checkpoint(text: str, size: int, device: torch.device) -> Embedder:
    """The backbone of a training, built as the config.yaml of its run says."""
    from pas_train.checkpoints import load_weights
    from pas_train.evaluation.candidates import identity

    model: Any = built_model(Path(text))
    load_weights(model, text, "whose backbone embeds the images")
    mean, std = ([float(value) / 255 for value in getattr(model, part).flatten()] for part in ("mean", "std"))
    side = int(model.image_size) if model.transformer else size
    return _backbone(text, identity(model.backbone), model.backbone, mean, std, side, device)


def built_model(checkpoint: Path) -> Any:
    """The method of a training's checkpoint with random weights, from the config.yaml of its run."""
    config = checkpoint.resolve().parent.parent / "config.yaml"
    if not checkpoint.is_file() or not config.is_file():
        missing = checkpoint if not checkpoint.is_file() else config
        raise FileNotFoundError(f"{KEY}: {missing} does not exist; give a checkpoint in training/RUN/checkpoints")
    section = yaml.safe_load(config.read_text())["model"]
    module, _, name = section["class_path"].rpartition(".")
    method = getattr(importlib.import_module(module), name)
    return method(**{**section["init_args"], "weights": None})


class _Prepared(Dataset):
    """Batches {"image": uint8 [B, 3, S, S], "place": int64 [B]} of some rows; what cannot be read has no place."""

    def __init__(self, source: ImageSource, rows: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray]) -> None:
        self.source, self.rows, self.prepare = source, rows, prepare

    def __len__(self) -> int:
        return -(-len(self.rows) // BATCH)

    def __getitem__(self, batch: int) -> dict[str, Any]:
        images, places = [], []
        for place in range(batch * BATCH, min((batch + 1) * BATCH, len(self.rows))):
            try:
                images.append(self.prepare(self.source.pixels(int(self.rows[place]), LIMITS)))
                places.append(place)
            except (RefusedImage, StoreError, OSError):
                continue
        return {"image": torch.from_numpy(np.stack(images)) if images else None, "place": torch.tensor(places)}


@torch.no_grad()
def embed_set(
    images: ImageSet, rows: np.ndarray, embedder: Embedder, folder: Path, workers: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """(rows int64 [n] that can be read, unit float32 [n, D]); kept in folder, so that a second run reads them."""
    if embedder.stored and images.workspace is not None:
        keys = images.images.keys().take(rows).to_pylist()
        places, vectors = curated.stored_embeddings(images.workspace, keys)
        return rows[places], vectors
    told = [embedder.identity, images.images.fingerprint(), fingerprint(rows.tolist())]
    path = folder / f"{fingerprint(told)}.npz"
    if path.exists():
        with np.load(path) as stored:
            return rows[stored["place"]], stored["vector"]
    dataset = _Prepared(images.images, rows, embedder.prepare)
    loader = QuietLoader(dataset, batch_size=None, collate_fn=as_it_is, num_workers=workers)
    found, progress = [], Progress("images", len(rows))
    for number, batch in enumerate(loader):
        if len(batch["place"]):
            found.append((batch["place"], embedder.embed(batch["image"].to(device)).cpu()))
        progress.step(min(BATCH, len(rows) - number * BATCH))
    progress.close()
    if not found:
        raise ValueError(f"{images.name}: none of its images can be read")
    place, vector = (torch.cat(list(parts)).numpy() for parts in zip(*found, strict=True))
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, place=place, vector=vector.astype(np.float32))
    return rows[place], vector.astype(np.float32)
