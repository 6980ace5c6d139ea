"""Images of a Hugging Face data set: `hf:NAME_OR_DIR?split=train&column=image`."""

import difflib
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.decoding import RefusedImage
from datamodules.image_source import ImageSource


class HuggingFaceSource(ImageSource):
    """A column of images, read undecoded.

    Args:
        name: of a data set, or a folder: one of files that `load_dataset` knows, or one of `save_to_disk`.
        split: of the data set; a slice too (`train[:1000]`).
        column: of images (or of their bytes); null takes the only one.
        config: of a data set that has several.
        spec: how the person wrote it; errors name it.
        label: column of the labels; null takes `label`, or the only one of classes.
        labelled: whether there must be labels: `labels` int64 [N], places in `classes`.
    """

    labels: np.ndarray
    classes: list[str]

    def __init__(
        self, name: str, split: str, column: str | None, config: str | None, spec: str, label: str | None = None,
        labelled: bool = False,
    ) -> None:  # fmt: skip
        self.spec = spec
        rows = _open(name, split, config, spec)
        self.column = _column(rows, column, spec)
        self.images = _undecoded(rows, self.column)
        if labelled:
            self.labels, self.classes = _labels(rows, label, spec)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, row: int) -> bytes | np.ndarray:
        """The encoded bytes, from the table or from the file that it names."""
        value = self.images[row][self.column]
        if isinstance(value, dict):
            value = value["bytes"] if value["bytes"] is not None else value["path"]
        if value is None:
            raise RefusedImage("empty", "the data set has no image here")
        return value if isinstance(value, bytes) else Path(value).read_bytes()

    def describe(self, row: int) -> str:
        """The row, and its file if the data set knows one."""
        value = self.images[row][self.column]
        path = value.get("path") if isinstance(value, dict) else None
        return f"image {row} of {self.spec}{f' ({path})' if path else ''}"


def _open(name: str, split: str, config: str | None, spec: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise ValueError(f"data.source: {spec} needs Hugging Face's library; run `pip install datasets`") from None
    folder = Path(name)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            saved = datasets.load_from_disk(name)
            if isinstance(saved, datasets.DatasetDict):
                if split not in saved:
                    raise ValueError(f"no split {split}; it has {', '.join(saved)}")
                return saved[split]
            return saved
        return datasets.load_dataset(name, config, split=split)
    except (ValueError, OSError, RuntimeError) as error:  # no such name, split or configuration; no network
        raise ValueError(f"data.source: {spec}: {' '.join(str(error).split())}") from error


def _column(rows: Any, column: str | None, spec: str) -> str:
    import datasets

    kinds = {name: kind for name, kind in rows.features.items()}
    images = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
    if column is None and len(images) == 1:
        return images[0]
    if column is None or column not in kinds:
        close = difflib.get_close_matches(column or "", kinds, n=1)
        asked = f"has no column {column}" if column else "has not one column of images alone"
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"data.source: {spec} {asked}; {hint}Give column=NAME of {', '.join(images or kinds)}")
    if column not in images and str(getattr(kinds[column], "dtype", "")) not in ("binary", "large_binary"):
        raise ValueError(
            f"data.source: {spec}: the column {column} holds no images; those that do: {', '.join(images) or 'none'}"
        )
    return column


def _labels(rows: Any, label: str | None, spec: str) -> tuple[np.ndarray, list[str]]:
    """(places in the classes, their names): of a column of classes, or of whole numbers or texts."""
    import datasets

    kinds = dict(rows.features.items())
    told = [name for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    chosen = label or ("label" if "label" in kinds else told[0] if len(told) == 1 else None)
    if chosen not in kinds:
        asked = f"has no column {label}" if label else "has not one column of labels alone"
        raise ValueError(f"data.source: {spec} {asked}; give label=NAME of {', '.join(told or kinds)}")
    kind = kinds[chosen]
    values = rows.with_format(None).select_columns([chosen])[chosen]
    values = list(values)
    bare = [row for row, value in enumerate(values) if value is None or value == -1]
    if bare:
        raise ValueError(
            f"data.source: {spec}: {len(bare)} of {len(values)} images have no label, such as image {bare[0]}; choose "
            "another split or label="
        )
    if isinstance(kind, datasets.ClassLabel):
        return np.array(values, np.int64), list(kind.names)
    if not all(isinstance(value, int | str) for value in values):
        raise ValueError(
            f"data.source: {spec}: the column {chosen} holds {type(values[0]).__name__}, not classes, numbers or texts"
        )
    classes = sorted(set(values))
    place = {value: number for number, value in enumerate(classes)}
    return np.array([place[value] for value in values], np.int64), [str(value) for value in classes]


def _undecoded(rows: Any, column: str) -> Any:
    import datasets

    alone = rows.with_format(None).select_columns([column])
    encoded = isinstance(rows.features[column], datasets.Image)
    return alone.cast_column(column, datasets.Image(decode=False)) if encoded else alone
