"""The image files and labels behind a text: a known data set, class folders, a CSV or COCO JSON. Imports no torch."""

import csv
from pathlib import Path

import numpy as np

from datamodules.datasets.coco_json import read_coco
from datamodules.datasets.known_set import Listing, read_lines
from datamodules.datasets.names import SetName, parse_name
from datamodules.datasets.registry import known_set
from datamodules.indexing import IMAGE_ENDINGS, walk_files

FORMS = (
    "a folder of class folders, a CSV of path,label (or, for segmentation, path,mask), a COCO JSON file (for "
    "detection), or a data set by name such as food-101:DIR?split=test"
)
MASK, CLASSES = "mask", "classes.txt"  # the column of a CSV, and the file beside it
MOST_CLASSES = 255  # of masks, whose pixels are bytes; the last counts nowhere


def read_listing(
    source: str | Path, key: str, path_column: str = "path", label_column: str = "label", default: str | None = None
) -> Listing:
    """The files of a labelled data set that is made of files.

    key: the yaml key that errors name. default: the split of a known data set where the text names none. A CSV with a
    column `mask` in the place of the labels' has masks, whose classes are in classes.txt beside it.
    Raises FileNotFoundError or ValueError, also for torchvision's and Hugging Face's, which are read by row.
    """
    name = parse_name(source, key)
    if name.known:
        return known_set(name.kind).listing(name, key, default)
    if name.kind:
        raise ValueError(f"{key}: {source} is no data set of files; give {FORMS}")
    path = Path(name.name)
    if not path.exists():
        raise FileNotFoundError(f"{key}: {path} does not exist; give {FORMS}")
    if name.coco:
        return read_coco(path, name.options.get("images"), f"{key}: {name.text}")
    if path.is_file() and has_masks(path, label_column):
        return _read_masks(path, key, path_column)
    folder = path if path.is_dir() else path.parent
    pairs = _read_folder(path, key) if path.is_dir() else _read_csv(path, key, path_column, label_column)
    if not pairs:
        raise ValueError(f"{key}: {path} holds no labelled image; expected CLASS/image files or a CSV of path,label")
    classes = sorted({label for _, label in pairs})
    place = {label: number for number, label in enumerate(classes)}
    labels = np.array([place[label] for _, label in pairs], np.int64)
    return Listing(folder, [file for file, _ in pairs], labels, classes)


def check_listing(source: str, key: str) -> SetName:
    """A known data set is looked at file by file (and downloaded, if it says so); of others, the words."""
    name = parse_name(source, key)
    if name.known:
        known_set(name.kind).listing(name, key)
    elif name.coco:
        read_listing(source, key)
    elif name.kind == "torchvision":
        from datamodules.torchvision_source import find_class

        find_class(name.name, name.options, name.text)
    return name


def read_csv_paths(path: Path, where: str) -> list[str]:
    """The column `path` of a CSV, relative to its folder; every file is there.

    Raises ValueError or FileNotFoundError that begins with `where`.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if "path" not in (rows.fieldnames or []):
                raise ValueError(f"{where} has no column path; it has {', '.join(rows.fieldnames or []) or 'none'}")
            paths = [row["path"] for row in rows]
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no UTF-8 text ({error}); save it as a UTF-8 CSV") from error
    if not paths:
        raise ValueError(f"{where} names no image; take it out")
    empty = [line for line, file in enumerate(paths, start=2) if not file]
    if empty:
        raise ValueError(f"{where} line {empty[0]} has no path")
    gone = [file for file in paths if not (path.parent / file).is_file()]
    if gone:
        raise FileNotFoundError(
            f"{where} names {len(gone)} files that are not there, such as {path.parent / gone[0]}; paths are relative "
            "to the CSV's folder"
        )
    return paths


def has_masks(path: Path, label_column: str = "label") -> bool:
    """Whether a CSV has a column of masks, and none of labels."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            columns = csv.DictReader(file).fieldnames or []
    except (UnicodeDecodeError, csv.Error):  # who reads it will say so
        return False
    return MASK in columns and label_column not in columns


def _read_masks(path: Path, key: str, path_column: str) -> Listing:
    """A CSV of images and masks; every file is there."""
    pairs = _read_csv(path, key, path_column, MASK)
    classes = _read_classes(path.parent / CLASSES, path, key)
    for number, column in enumerate((path_column, MASK)):
        gone = [pair[number] for pair in pairs if not (path.parent / pair[number]).is_file()]
        if gone:
            raise FileNotFoundError(
                f"{key}: {path} names {len(gone)} files in its column {column} that are not there, such as "
                f"{path.parent / gone[0]}; paths are relative to the CSV's folder"
            )
    if not pairs:
        raise ValueError(f"{key}: {path} names no image")
    return Listing(path.parent, [file for file, _ in pairs], None, classes, masks=[mask for _, mask in pairs])


def _read_classes(path: Path, table: Path, key: str) -> list[str]:
    try:
        classes = [line.strip() for line in read_lines(path)]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{key}: {path} is missing; {table.name} has masks, so the names of their classes are to be there, one a "
            "line from class 0 on"
        ) from None
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice or not 2 <= len(classes) <= MOST_CLASSES:
        said = f"names {twice[0]} twice" if twice else f"names {len(classes)} classes, not 2 to {MOST_CLASSES}"
        raise ValueError(f"{key}: {path} {said}; write one name a line, from class 0 on")
    return classes


def _read_folder(path: Path, key: str) -> list[tuple[str, str]]:
    notes: list[str] = []
    pairs = [
        (f"{folder.name}/{name}", folder.name)
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for name in sorted(walk_files(folder, notes), key=Path)
        if Path(name).suffix[1:].lower() in IMAGE_ENDINGS
    ]
    if notes:
        raise ValueError(f"{key}: in {path}, {notes[0]}")
    return pairs


def _read_csv(path: Path, key: str, path_column: str, label_column: str) -> list[tuple[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return _rows_of(csv.DictReader(file), path, key, path_column, label_column)
    except UnicodeDecodeError as error:
        raise ValueError(f"{key}: {path} is no UTF-8 text ({error}); give {FORMS}") from None


def _rows_of(
    rows: "csv.DictReader[str]", path: Path, key: str, path_column: str, label_column: str
) -> list[tuple[str, str]]:
    missing = {path_column, label_column} - set(rows.fieldnames or [])
    if missing:
        raise ValueError(
            f"{key}: {path} has no column {' and '.join(sorted(missing))}; it has {', '.join(rows.fieldnames or [])}"
        )
    pairs = []
    for row in rows:
        for column in (path_column, label_column):
            if not row[column]:
                raise ValueError(f"{key}: {path} line {rows.line_num} has no {column}")
        pairs.append((row[path_column], row[label_column]))
    return pairs
