"""What an export says of itself: the backbone, how its images are prepared, its training, its figures, licences."""

import importlib.metadata
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pas_train.exporting.source import Source

VERSION = 1


def of_backbone(source: Source) -> dict[str, Any]:
    """What anybody needs who builds the backbone again and prepares images for it."""
    return {
        "format_version": VERSION,
        "program": f"pas_train {importlib.metadata.version('pas-train')}",
        "name": source.name,
        "architecture": source.architecture,
        "options": dict(source.options),
        "small_images": source.small_images,
        "image_size": source.image_size,
        "resize": round(source.image_size * 256 / 224),
        "interpolation": "bilinear",
        "mean": [float(value) for value in source.mean],
        "std": [float(value) for value in source.std],
        "embedding": {"pooling": pooling(source), "dim": width(source)},
        "parameters": sum(value.numel() for value in source.backbone.parameters()),
    }


def pooling(source: Source) -> str:
    """How one embedding is made of a feature map, `cls` for the class token, else as timm calls it."""
    told = getattr(source.backbone, "global_pool", "")
    told = told if isinstance(told, str) else getattr(told, "pool_type", "")
    return {"token": "cls", "": "avg"}.get(told, told)


def width(source: Source) -> int:
    """Numbers of an embedding; not the channels of the map where a head, or two poolings, make others of them."""
    backbone: Any = source.backbone
    return int(getattr(backbone, "head_hidden_size", backbone.num_features))


def as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    """For headers that take text alone: text as it is, all else as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
        for key, value in metadata.items()
    }


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, told: Mapping[str, str]) -> None:
    """Writes a file of tensors with a header; the same content gives the same bytes, as it does not by itself."""
    from safetensors.torch import save

    data = save({name: value.contiguous() for name, value in tensors.items()}, {"format": "pt", **told})
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin where eight bytes do
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.write(memoryview(data)[8 + length :])
