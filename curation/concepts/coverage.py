"""How well a bank covers the labels of a data set: from each label to its nearest concept (paper section 4.2)."""

import csv
import re
from pathlib import Path

import numpy as np

from datamodules.datasets.names import SetName, parse_name, told_as
from datamodules.datasets.registry import known_set

FAR = 0.2  # cosine distance from which a label counts as missed
FURTHEST = 5


def read_labels(source: str | Path, key: str) -> list[str]:
    """The labels of a data set, sorted, each once.

    source: a folder of class folders, a .csv with a column `label`, a .txt with one label a line, or a data set by
    name. key: the yaml key that errors name. Raises FileNotFoundError or ValueError.
    """
    name = parse_name(source, key)
    if name.kind:
        return _named_classes(name, key)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"{key}: {path} does not exist; give a folder of class folders, a .csv, a .txt, or a data set by name such "
            "as food-101:DIR"
        )
    if path.is_dir():
        labels = {folder.name for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")}
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{key}: {path} is no UTF-8 text file ({error})") from None
        labels = _from_csv(path, text, key) if path.suffix == ".csv" else set(text.splitlines())
    found = sorted({label.strip() for label in labels} - {""})
    if not found:
        raise ValueError(f"{key}: {path} holds no label; give a folder of class folders, a .csv or a .txt")
    return found


def _named_classes(name: SetName, key: str) -> list[str]:
    """The class names of a data set by name, of a known one also those that no image of the split has."""
    if name.known:
        classes = known_set(name.kind).listing(name, key, known_set(name.kind).train).classes
    else:
        from datamodules.sources import open_labelled_source

        with told_as(key):
            classes = open_labelled_source(name.text)[2]
    if all(label.isdecimal() for label in classes):
        raise ValueError(
            f"{key}: {name.text} numbers its classes and has no names for them; give a .txt with one label a line"
        )
    return sorted(set(classes))


def _from_csv(path: Path, text: str, key: str) -> set[str]:
    rows = csv.DictReader(text.splitlines())
    if "label" not in (rows.fieldnames or []):
        raise ValueError(f"{key}: {path} has no column label; it has {', '.join(rows.fieldnames or []) or 'none'}")
    return {row["label"] or "" for row in rows}


def label_text(label: str) -> str:
    """A class folder's name as words: apple_pie is "apple pie", 001.Black_footed_Albatross has no number.

    Nor has a name that several classes share, such as ImageNet's "crane (n02012849)".
    """
    text = re.sub(r"^(?:\d+\.|\d{2,}_)(?=\D)| \(n?\d+\)$", "", label)
    return " ".join(text.replace("_", " ").split()) or label


def describe(name: str, labels: list[str], concepts: list[str], distances: np.ndarray) -> str:
    """One line on a data set: median distance, share of missed labels, the furthest ones. distances: float [L]."""
    furthest = np.argsort(-distances, kind="stable")[:FURTHEST]
    some = ", ".join(f"{labels[place]} ({distances[place]:.2f} from {concepts[place]})" for place in furthest)
    return (
        f"{name}: {len(labels)} labels, median distance {float(np.median(distances)):.3f}, "
        f"{float((distances > FAR).mean()):.1%} above {FAR}; furthest: {some}"
    )
