"""Oktoberfest Food (Ziller et al., 2019): boxes around 15 kinds of food and drink at a checkout."""

from pathlib import Path

import numpy as np

from datamodules.datasets.known_set import KnownSet, Listing, read_lines

CLASSES = (
    "Bier", "Bier Mass", "Weissbier", "Cola", "Wasser", "Curry-Wurst", "Weisswein", "A-Schorle", "Jaegermeister",
    "Pommes", "Burger", "Williamsbirne", "Alm-Breze", "Brotzeitkorb", "Kaesespaetzle",
)  # fmt: skip


def read(folder: Path, split: str) -> Listing:
    """`SPLIT/files.txt`: lines of FILE COUNT and, of each box, CLASS X Y WIDTH HEIGHT in pixels."""
    path = folder / split / "files.txt"
    files, boxes = [], []
    for line in read_lines(path):
        name, *rest = line.split()
        files.append(f"{split}/{name}")
        boxes.append(_boxes(rest, name, path))
    return Listing(folder, files, None, list(CLASSES), boxes=boxes)


def _boxes(numbers: list[str], name: str, path: Path) -> np.ndarray:
    """float32 [K, 5] of the numbers behind a file's name."""
    try:
        count, *values = (float(number) for number in numbers)
        table = np.array(values, np.float32).reshape(-1, 5)
    except ValueError:
        table, count = np.zeros((0, 5), np.float32), -1.0
    if len(table) != count:
        raise ValueError(f"{path}: {name} has other numbers than COUNT and five a box (CLASS X Y WIDTH HEIGHT)")
    wrong = (table[:, 0] < 0) | (table[:, 0] >= len(CLASSES)) | (table[:, 3:] <= 0).any(axis=1)
    if wrong.any():
        raise ValueError(f"{path}: {name} has a box of class {table[wrong][0][0]:.0f}, or without an area")
    left, top, width, height = table[:, 1:].T
    return np.stack([left, top, left + width, top + height, table[:, 0]], axis=1)


SET = KnownSet(
    "oktoberfest",
    "the Oktoberfest Food Dataset",
    "dataset",
    ("train/files.txt", "test/files.txt"),
    {"train": None, "test": None},  # of 1,110 images in all, the paper does not say how many each has
    "train",
    "test",
    len(CLASSES),
    (
        "train/files.txt with lines of FILE COUNT CLASS X Y WIDTH HEIGHT ..., and test/files.txt",
        "train/IMAGE, test/IMAGE",
    ),
    "Fetch the folder `dataset` of https://mediatum.ub.tum.de/1487154 and put it there.",
    read,
)
