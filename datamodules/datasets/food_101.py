"""Food-101 (Bossard et al., 2014): 101 dishes, 750 images each to train on and 250 to test."""

import json
from pathlib import Path

import numpy as np

from datamodules.datasets.downloads import Archive
from datamodules.datasets.known_set import KnownSet, Listing, first_of, read_lines

ARCHIVE = Archive(
    "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87", "food-101/meta/test.txt"
)


def read(folder: Path, split: str) -> Listing:
    """`meta/SPLIT.txt` or .json, lines of CLASS/NUMBER; names are those of `meta/labels.txt` in small letters."""
    path = first_of(folder, (f"meta/{split}.txt", f"meta/{split}.json"))
    if path.suffix == ".json":
        stored = json.loads(path.read_text(encoding="utf-8"))
        entries = [entry for label in sorted(stored) for entry in stored[label]]
    else:
        entries = [line.strip() for line in read_lines(path)]
    if (folder / "meta" / "classes.txt").exists():
        classes = [line.strip() for line in read_lines(folder / "meta" / "classes.txt")]
    else:
        classes = sorted({entry.partition("/")[0] for entry in entries})
    place = {label: number for number, label in enumerate(classes)}
    unknown = [entry for entry in entries if entry.partition("/")[0] not in place]
    if unknown:
        raise ValueError(f"{path} lists {unknown[0]}, whose class is not in meta/classes.txt")
    labels = np.array([place[entry.partition("/")[0]] for entry in entries], np.int64)
    names = [label.replace("_", " ") for label in classes]
    return Listing(folder, [f"images/{entry}.jpg" for entry in entries], labels, names)


SET = KnownSet(
    "food-101",
    "Food-101",
    "food-101",
    ("meta",),
    {"train": 75_750, "test": 25_250},
    "train",
    "test",
    101,
    ("meta/train.txt, meta/test.txt, meta/classes.txt", "images/apple_pie/1005649.jpg"),
    f"Add download=true to fetch it (5 GB), or unpack {ARCHIVE.address} yourself.",
    read,
    {"train": (ARCHIVE,), "test": (ARCHIVE,)},
)
