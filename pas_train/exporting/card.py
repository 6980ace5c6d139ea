"""README.md of an export: its model card, as the Hugging Face hub reads it."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pas_train import curated
from pas_train.exporting import loaders
from pas_train.exporting.metadata import of_backbone
from pas_train.exporting.source import Source
from pas_train.exporting.target import Target
from pas_train.exporting.verifying import Verified
from pas_train.summary import protocol_title

LIBRARIES = {"plain": "pytorch", "torchscript": "pytorch"}  # the hub's names, where they are others than the targets'
SHARES = {"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class", "miou": "mIoU", "macc": "mAcc",
          "accuracy": "pixel accuracy", "map": "mAP", "map50": "AP50", "map75": "AP75"}  # fmt: skip
LOADING = """{usage}

The same for every library, with `load.py` of this folder:

```python
from load import features, load

backbone = load(".")
found = features(backbone, images)  # float32 [N, 3, {side}, {side}], prepared as below
print({{name: value.shape for name, value in found.items()}})  # {names}
```
"""
PREPARING = """The short side to {resize} px ({interpolation}), the {side} px in the middle, colours in [0, 1] less `mean` over `std`:

```python
import torch
from torchvision.transforms import v2

prepare = v2.Compose([
    v2.ToImage(), v2.Resize({resize}, v2.InterpolationMode.{mode}, antialias=True), v2.CenterCrop({side}),
    v2.ToDtype(torch.float32, scale=True), v2.Normalize({mean}, {std}),
])
```
"""  # noqa: E501
VERIFYING = """When it was written it was {verified}. To do it again, here or where the library is of another version:

```sh
python verify.py
```
"""


def card(target: Target, source: Source, verified: Verified) -> str:
    """The text of the card."""
    told = {**of_backbone(source), **source.metadata}
    parts = [
        _front_matter(target, source, told),
        f"# {curated.plain(source.name or source.architecture)}, for {target.title}\n",
        _summary(source, told, verified.features),
        "## How to load it\n", LOADING.format(usage=_usage(target), side=source.image_size, names=_shapes(verified)),
        "## How its images are prepared\n", _preparing(told),
        "## What it was trained on\n", _table(("", ""), _training(source, told)), "",
        "## Figures\n", _figures(told), "",
        "## Licences\n", *[f"- {line}" for line in _licences(told)], "",
        "## Verification\n", VERIFYING.format(verified=verified),
    ]  # fmt: skip
    return "\n".join(parts)


def _front_matter(target: Target, source: Source, told: Mapping[str, Any]) -> str:
    method = (told.get("training") or {}).get("method")
    tags = ["image-feature-extraction", "backbone", "vision-transformer" if source.transformer else "convolutional"]
    tags += ["self-supervised-learning", method.lower()] if method else []
    tags += [target.name] if target.name == "torchscript" else []
    front = {"library_name": LIBRARIES.get(target.name, target.name), "pipeline_tag": "image-feature-extraction"}
    known = _licence(told)
    front |= {"license": known} if known else {}
    return f"---\n{yaml.safe_dump({**front, 'tags': tags}, sort_keys=False, allow_unicode=True)}---\n"


def _licence(told: Mapping[str, Any]) -> str | None:
    return (told.get("source") or {}).get("license")


def _summary(source: Source, told: Mapping[str, Any], features: Sequence[str]) -> str:
    training, data = told.get("training") or {}, told.get("data") or {}
    how = f" pretrained with {training['method']}" if training.get("method") else ""
    images = f" of {data['images']:,} images" if data.get("images") else ""
    on = f" on the data set {curated.plain(data['name'])}{images}" if data.get("name") else ""
    pooled = told["embedding"]["pooling"]
    kept = {"cls": "its class token's last state", "avg": "the mean over its places"}.get(pooled, f"pooled by {pooled}")
    gives = ["a feature map"] if any(name.endswith("map") for name in features) else []
    gives += [f"an embedding of {told['embedding']['dim']:,} numbers, {kept}"] if "embedding" in features else []
    size = f"{told['parameters'] / 1e6:,.1f} M parameters"
    return (
        f"A {curated.plain(source.title)} with {size}{how}{on}, without a classifier: "
        f"of an image of {source.image_size} px it gives {' and '.join(gives)}.\n"
    )


def _usage(target: Target) -> str:
    """What load.py says of itself."""
    text = ast.get_docstring(ast.parse(Path(loaders.__path__[0], f"{target.loader}.py").read_text())) or ""
    return text.strip()


def _shapes(verified: Verified) -> str:
    return ", ".join(verified.features)


def _preparing(told: Mapping[str, Any]) -> str:
    mean, std = ([round(float(value), 4) for value in told[name]] for name in ("mean", "std"))
    return PREPARING.format(
        side=told["image_size"], resize=told["resize"], interpolation=told["interpolation"],
        mode=str(told["interpolation"]).upper(), mean=mean, std=std,
    )  # fmt: skip


def _training(source: Source, told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    training, data, file = told.get("training") or {}, told.get("data") or {}, told.get("source") or {}
    stem = ", with a 3x3 stem for small images" if source.small_images else ""
    rows: dict[str, Any] = {
        "Architecture": f"timm's {source.title}{stem}",
        "Weights": file.get("weights"),
        "Trained with": f"images of {file['image_size']} px" if file.get("image_size") else None,
        "Method": training.get("method"),
        "Epochs": training.get("epochs"),
        "Steps": training.get("steps"),
        "Images a step": training.get("batch_size"),
        "Images seen": training.get("images_seen"),
        "Seed": training.get("seed"),
        "Started from": training.get("start"),
        "Data set": data.get("name"),
        "Images of the data set": data.get("images"),
        "Synthetic ones among them": data.get("synthetic") or None,
        "Identity of the data set": data.get("identity"),
        "Checkpoint": file.get("file"),
        "SHA-256 of the checkpoint": file.get("sha256"),
        "From": file.get("url"),
    }
    for name, value in rows.items():
        if value is not None:
            yield name, f"{value:,}" if isinstance(value, int) and name != "Seed" else curated.plain(value)


def _figures(told: Mapping[str, Any]) -> str:
    rows, marked = [], False
    for data_set, judged in (told.get("evaluation") or {}).items():
        screened = (told.get("screened") or {}).get(data_set, True)
        marked |= not screened
        for name, figures in judged.items():
            text = _figure(figures)
            if text:
                rows.append((curated.plain(data_set) + ("" if screened else " †"), protocol_title(name), text))
    if not rows:
        return "None are known of these weights."
    note = "\n\n† Its test images were not kept out of the training, as far as is known." if marked else ""
    native = (told.get("source") or {}).get("image_size")
    if native not in (None, told["image_size"]):
        note += f"\n\nJudged as it was trained, with {native} px, not with this export's {told['image_size']}."
    return _table(("Judged on", "Protocol", "Figures (shares in %)"), rows) + note


def _figure(figures: Mapping[str, Any]) -> str:
    if figures.get("score") is not None:
        return f"{figures['score']:.3f}"
    parts = []
    for name, title in SHARES.items():
        if figures.get(name) is None:
            continue
        text = f"{title} {100 * figures[name]:.1f}"
        if name == "top1" and figures.get("interval"):
            low, high = figures["interval"]
            text += f" (95 %: {100 * low:.1f} to {100 * high:.1f})"
        parts.append(text)
    if len(figures.get("seeds") or []) > 1:
        parts.append(f"mean of {len(figures['seeds'])} seeds")
    return ", ".join(parts)


def _licences(told: Mapping[str, Any]) -> Iterator[str]:
    known, start = _licence(told), (told.get("training") or {}).get("start")
    data, file = told.get("data") or {}, told.get("source") or {}
    if known:
        yield f"These weights were published under {curated.plain(known)}."
    elif file and not told.get("training"):
        yield f"None is known here for {curated.plain(file['file'])}: what its publisher says of it holds."
    else:
        yield "None is set for these weights: who publishes them sets `license:` in the block at the top."
    if start:
        yield f"The training started from {curated.plain(start)}, whose licence holds as well."
    counted = data.get("licences") or []
    if len(counted) == 1:
        yield f"Licence of all {counted[0][1]:,} real images of the data set: {curated.plain(counted[0][0])}."
    elif counted:
        listed = ", ".join(f"{curated.plain(name)} ({number:,})" for name, number in counted[:12])
        rest = f" and {len(counted) - 12} others" if len(counted) > 12 else ""
        yield f"Of the real images of the data set, by what is known of each: {listed}{rest}."
    elif data:
        yield "Of the images of the data set no licences are known."
    if data.get("synthetic"):
        yield f"{data['synthetic']:,} images are synthetic: the licence of their generator holds for them."


def _table(header: tuple[str, ...], rows: Any) -> str:
    return curated.markdown_table(header, rows)
