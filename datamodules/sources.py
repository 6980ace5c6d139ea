"""Data sets by name: the strings of `data.source`, alone, in a list, or with weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules.datasets.listing import read_csv_paths, read_listing
from datamodules.datasets.names import SetName, parse_name
from datamodules.datasets.names import placed as placed_name
from datamodules.datasets.registry import known_set
from datamodules.image_source import ImageSource, JoinedSources
from datamodules.labelled import ImageFiles
from datamodules.rows import KINDS, read_rows

if TYPE_CHECKING:
    from datamodules.hf_source import HuggingFaceSource

KEY = "data.source"


@dataclass(frozen=True)
class SourceItem:
    """One of several data sets.

    Args:
        source: As a `data.source` that stands alone.
        weight: Its share of an epoch, relative to the others'; null: as many as it has images, in all of them.
        synthetic: Whether its images are generated; null: as its manifest says, else real.
    """

    source: str
    weight: float | None = None
    synthetic: bool | None = None


Sources = str | Sequence[str | SourceItem]


def source_items(source: Sources | None) -> list[SourceItem]:
    """The data sets of the setting, checked. Raises ValueError naming `data.source`."""
    if source is None:
        raise ValueError(f"data.source is missing; give {KINDS}, or a list of them")
    given = [source] if isinstance(source, str) else source
    items = [SourceItem(item) if isinstance(item, str) else item for item in given]
    if not items or not all(item.source for item in items):
        raise ValueError(f"data.source is empty; give {KINDS}, or a list of them")
    weights = [item.weight for item in items]
    for item in items:
        if item.weight is not None and not 0 < item.weight < float("inf"):
            raise ValueError(
                f"data.source: the weight of {item.source} must be above 0, got {item.weight}; leave a data set out "
                "of the list to train without it"
            )
    if any(weight is None for weight in weights) and any(weight is not None for weight in weights):
        bare = next(item.source for item in items if item.weight is None)
        raise ValueError(f"data.source: {bare} has no weight, but others have; give every data set one, or none")
    return items


def check_sources(source: Sources | None) -> None:
    """Raises ValueError or FileNotFoundError naming `data.source` where it is empty, or names a path that is not there.

    Reads nothing, so that a training of many processes ends before it begins.
    """
    for item in source_items(source):
        name = parse_name(item.source, KEY)
        if name.kind == "torchvision":
            from datamodules.torchvision_source import find_class

            find_class(name.name, name.options, item.source)
        elif name.known:
            known = known_set(name.kind)
            split = known.split_of(name, KEY, known.train)
            if name.flag("download", KEY):
                known.fetch(Path(name.name), split, KEY)
            known.official_folder(Path(name.name), f"{KEY}: {name.text}")
        elif name.coco:
            read_listing(item.source, KEY)
        elif not name.kind and not Path(item.source).exists():
            read_rows(item.source)  # says what is missing


def names_of(source: Sources | None) -> list[str]:
    """The data sets of the setting without their weights."""
    given = [source] if isinstance(source, str) else source or []
    return [item if isinstance(item, str) else item.source for item in given]


def placed(source: Sources | None, workspace: Path) -> Sources | None:
    """The setting with every `workspace:` path made real."""
    if source is None or isinstance(source, str):
        return None if source is None else placed_name(source, workspace)
    items = [SourceItem(item) if isinstance(item, str) else item for item in source]
    return [SourceItem(placed_name(item.source, workspace), item.weight, item.synthetic) for item in items]


def open_source(source: str) -> ImageSource:
    """One data set. Raises ValueError or FileNotFoundError naming `data.source`."""
    name = parse_name(source, KEY)
    if name.kind == "torchvision":
        from datamodules.torchvision_source import TorchvisionSource

        return TorchvisionSource(name.name, name.options, source)
    if name.kind == "hf":
        return _hugging_face(name, labelled=False)
    if name.known:
        listing = read_listing(source, KEY, default=known_set(name.kind).train)
        return ImageFiles(listing.files, listing.folder)
    if name.coco:
        listing = read_listing(source, KEY)
        return ImageFiles(listing.files, listing.folder)
    if source.lower().endswith(".csv") and Path(source).is_file():
        return ImageFiles(read_csv_paths(Path(source), f"{KEY}: {source}"), Path(source).parent)
    return read_rows(source)


def open_labelled_source(source: str) -> tuple[ImageSource, np.ndarray, list[str]]:
    """(images, labels int64 [N], class names) of torchvision or Hugging Face. Raises ValueError as `open_source`."""
    name = parse_name(source, KEY)
    if name.kind == "torchvision":
        from datamodules.torchvision_source import TorchvisionSource

        images = TorchvisionSource(name.name, name.options, source)
        return images, *images.labels()
    rows = _hugging_face(name, labelled=True)
    return rows, rows.labels, rows.classes


def _hugging_face(name: SetName, labelled: bool) -> "HuggingFaceSource":
    from datamodules.hf_source import HuggingFaceSource

    options = name.options
    return HuggingFaceSource(
        name.name, options.get("split", "train"), options.get("column"), options.get("config"), name.text,
        options.get("label"), labelled,
    )  # fmt: skip


def open_sources(
    source: Sources | None, prepare: Callable[[str, ImageSource], ImageSource] | None = None
) -> ImageSource:
    """All data sets of the setting as one. Raises ValueError or FileNotFoundError naming `data.source`.

    prepare: what each is put through, by its name.
    """
    items = source_items(source)
    parts = [open_source(item.source) for item in items]
    if prepare is not None:
        parts = [prepare(item.source, part) for item, part in zip(items, parts, strict=True)]
    if len(parts) == 1 and items[0].synthetic is None:
        return parts[0]
    return JoinedSources(parts, [item.synthetic for item in items])
