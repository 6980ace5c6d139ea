"""FoodX-251 (Kaur et al., 2019; iFood 2019): 251 dishes; the labels of its test images were never published."""

import csv
from pathlib import Path

import numpy as np

from datamodules.datasets.known_set import KnownSet, Listing, first_of, read_lines, read_pairs, whole_number


def read(folder: Path, split: str) -> Listing:
    """`annot/SPLIT_info.csv` (or Kaggle's SPLIT_labels.csv): rows of FILE,CLASS NUMBER; class_list.txt names those."""
    named = ("annot/class_list.txt", "class_list.txt")
    listing = first_of(folder, named)
    names = read_pairs(listing)
    numbers = [whole_number(number, listing) for number in names]
    if numbers != list(range(len(numbers))):
        raise ValueError(f"{listing} does not number its classes 0, 1, 2, ...")
    tables = tuple(f"{start}{split}_{kind}.csv" for start in ("annot/", "") for kind in ("info", "labels"))
    images = first_of(folder, (f"{split}_set", f"{split}/{split}_set", f"images/{split}_set", split))
    if split == "test" and not any((folder / name).exists() for name in tables):
        rows = [[file] for file in sorted(path.name for path in images.glob("*.jpg"))]
        path = images
    else:
        path = first_of(folder, tables)
        rows = [row for row in csv.reader(read_lines(path)) if row[0].strip() != "img_name"]
    start = images.relative_to(folder).as_posix()
    files = [f"{start}/{row[0].strip()}" for row in rows]
    bare = [row[0] for row in rows if len(row) < 2]
    if bare and split != "test":
        raise ValueError(f"{path} has no class number for {bare[0]}; expected rows of FILE,NUMBER")
    labels = None if bare or split == "test" else np.array([whole_number(row[1], path) for row in rows], np.int64)
    return Listing(folder, files, labels, [name.replace("_", " ") for name in names.values()])


SET = KnownSet(
    "foodx-251",
    "FoodX-251",
    "FoodX-251",
    ("annot", "class_list.txt", "train_set", "val_set"),
    {"train": 118_475, "val": 11_994, "test": 28_377},
    "train",
    "val",
    251,
    (
        "annot/class_list.txt, annot/train_info.csv, annot/val_info.csv (or train_labels.csv and val_labels.csv)",
        "train_set/train_000000.jpg, val_set/val_000000.jpg",
    ),
    "Unpack annot.tar, train.tar and val.tar of https://github.com/karansikka1/iFood_2019, or the files of Kaggle's "
    "competition ifood-2019-fgvc6, there.",
    read,
)
