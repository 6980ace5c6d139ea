"""Writes the boxes of a data set as COCO's JSON, which detection toolboxes read.

    python -m datamodules.coco 'oktoberfest:DIR?split=train' OUT.json

File names are relative to the folder of OUT.json, boxes lie inside their upright images.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.annotated import read_annotated, sound
from datamodules.decoding import read_header
from datamodules.dense import BoxedImages
from datamodules.files import write_json

KEY = "coco"


def coco_of(images: BoxedImages, folder: Path) -> dict[str, Any]:
    """COCO's images, annotations and categories, numbered from 1. folder: that file names are relative to."""
    entries, annotations = [], list[dict[str, Any]]()
    for row, path in enumerate(images.paths):
        height, width = read_header(path).upright
        name = os.path.relpath(os.path.abspath(path), os.path.abspath(folder)).replace(os.sep, "/")
        entries.append({"id": row + 1, "file_name": name, "width": width, "height": height})
        crowds = images.crowds[row] if images.crowds is not None else ()
        for crowd, boxes in enumerate((images.boxes[row], crowds)):
            for left, top, right, bottom, label in (box.tolist() for box in boxes):
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": row + 1, "category_id": int(label) + 1,
                     "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
                     "iscrowd": crowd}
                )  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(images.classes, start=1)]
    return {"images": entries, "annotations": annotations, "categories": categories}


def write_coco(source: str, path: Path) -> dict[str, Any]:
    """Writes a data set of boxes, and returns what it wrote. Raises ValueError or OSError."""
    images = sound(read_annotated(source, KEY), KEY, lambda line: print(f"{KEY:<12}{line}"))
    if not isinstance(images, BoxedImages):
        raise ValueError(f"{KEY}: {source} has no boxes")
    content = coco_of(images, path.parent)
    write_json(path, content)
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.coco", description=str(__doc__).split("\n")[0])
    parser.add_argument("source", help="data set, such as 'oktoberfest:DIR?split=train'")
    parser.add_argument("output", type=Path, help="file to write, such as DIR/train.json")
    given = parser.parse_args(arguments)
    try:
        content = write_coco(given.source, given.output)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    counts = ", ".join(f"{len(content[name]):,} {name}" for name in ("images", "annotations", "categories"))
    print(f"{KEY:<12}{given.output}: {counts}")


if __name__ == "__main__":
    main()
