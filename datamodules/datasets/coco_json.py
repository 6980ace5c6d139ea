"""COCO's JSON files of boxes: images, annotations, categories. Imports no torch."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.datasets.known_set import SHOWN, Listing, present, unique_names

LISTS = ("images", "annotations", "categories")


def read_coco(path: Path, images: str | None, where: str) -> Listing:
    """The images of a COCO JSON file with their boxes; classes are its categories by id.

    images: the folder that file names are relative to; None is that of the file. Boxes are as they are written, also
    those without an area, which `annotated.sound` leaves out; regions that are marked as crowds are kept apart. Raises
    ValueError or FileNotFoundError that begins with `where`.
    """
    folder = path.parent if images is None else Path(images)
    content = _content(path, where)
    files, places, sizes = _files(content["images"], where)
    kept = present(folder, files)
    if len(kept) < len(files):
        here = set(kept)
        gone = [file for row, file in enumerate(files) if row not in here]
        raise FileNotFoundError(
            f"{where}: {len(gone):,} of its {len(files):,} images are not in {folder}, such as "
            f"{', '.join(gone[:SHOWN])}; put them there, or name their folder: {path}?images=DIR"
        )
    classes, numbers = _classes(content["categories"], where)
    boxes: list[list[tuple[float, ...]]] = [[] for _ in files]
    crowds: list[list[tuple[float, ...]]] = [[] for _ in files]
    for annotation in content["annotations"]:
        row, box, crowd = _box(annotation, places, numbers, where)
        (crowds if crowd else boxes)[row].append(box)
    return Listing(
        folder, files, None, classes, boxes=[_table(rows) for rows in boxes], sizes=sizes,
        crowds=[_table(rows) for rows in crowds] if any(crowds) else None,
    )  # fmt: skip


def _content(path: Path, where: str) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is no JSON file ({error})") from None
    for name in LISTS:
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{where} is no COCO file of boxes: it has no list of {name}; it needs {', '.join(LISTS)}")
    if not content["images"] or not content["categories"]:
        raise ValueError(f"{where} lists no {'image' if not content['images'] else 'category'}")
    return dict(content)


def _files(images: list[dict[str, Any]], where: str) -> tuple[list[str], dict[Any, int], list[tuple[int, int] | None]]:
    """(file names, id -> row, height and width where they are told)."""
    files: list[str] = []
    places: dict[Any, int] = {}
    sizes: list[tuple[int, int] | None] = []
    for row, image in enumerate(images):
        name, own = image.get("file_name"), image.get("id")
        if not isinstance(name, str) or not name or not isinstance(own, int | str):
            raise ValueError(f"{where}: image {row} of its list has no file_name or no id")
        if own in places:
            raise ValueError(f"{where} lists the image id {own} twice")
        places[own] = row
        files.append(os.path.normpath(name).replace(os.sep, "/"))
        height, width = image.get("height"), image.get("width")
        sizes.append((int(height), int(width)) if height and width else None)
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise ValueError(f"{where} lists the image {twice} twice")
    return files, places, sizes


def _classes(categories: list[dict[str, Any]], where: str) -> tuple[list[str], dict[Any, int]]:
    """(names, id -> place), by id."""
    if not all(isinstance(one.get("id"), int) and one.get("name") for one in categories):
        raise ValueError(f"{where} has a category without a name, or without a number as its id")
    ids = [one["id"] for one in categories]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{where} lists a category id twice")
    known = sorted(categories, key=lambda one: one["id"])
    names = unique_names([str(one["name"]) for one in known], [str(one["id"]) for one in known])
    return names, {one["id"]: number for number, one in enumerate(known)}


def _box(
    annotation: dict[str, Any], places: dict[Any, int], numbers: dict[Any, int], where: str
) -> tuple[int, tuple[float, ...], bool]:
    """(row, x1, y1, x2, y2 and the place of the class, whether it is a crowd)."""
    name = f"{where}: annotation {annotation.get('id', '')}".rstrip()
    image, category = annotation.get("image_id"), annotation.get("category_id")
    row = places.get(image) if isinstance(image, int | str) else None
    number = numbers.get(category) if isinstance(category, int) else None
    if row is None:
        raise ValueError(f"{name} is of the image {image}, which is not in its list of images")
    if number is None:
        raise ValueError(f"{name} is of the category {category}, which is not in its list")
    given: Any = annotation.get("bbox")
    if not _numbers(given):
        raise ValueError(f"{name} has the bbox {given}; expected four numbers: x, y, width, height")
    left, top, width, height = given
    return row, (left, top, left + width, top + height, number), bool(annotation.get("iscrowd"))


def _numbers(given: Any) -> bool:
    """Whether it is four finite numbers."""
    return (
        isinstance(given, list)
        and len(given) == 4
        and all(isinstance(one, int | float) and math.isfinite(one) for one in given)
    )


def _table(rows: list[tuple[float, ...]]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 5)
