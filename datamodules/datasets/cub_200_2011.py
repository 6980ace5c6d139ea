"""CUB-200-2011 (Wah et al., 2011): 200 species of birds. Whole images: its boxes are not used."""

import re
from pathlib import Path

import numpy as np

from datamodules.datasets.downloads import Archive
from datamodules.datasets.known_set import KnownSet, Listing, read_pairs
from datamodules.datasets.numbered_files import read_numbered

ARCHIVE = Archive(
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    "97eceeb196236b17998738112f37df78",
    "CUB_200_2011/train_test_split.txt",
)


def read(folder: Path, split: str) -> Listing:
    """Class names without their numbers: `001.Black_footed_Albatross` is "Black footed Albatross"."""
    files, numbers = read_numbered(folder, split)
    names = read_pairs(folder / "classes.txt")
    place = {number: row for row, number in enumerate(names)}
    labels = np.array([place.get(number, -1) for number in numbers], np.int64)
    plain = [re.sub(r"^\d+\.", "", name).replace("_", " ") for name in names.values()]
    return Listing(folder, files, labels, plain)


SET = KnownSet(
    "cub-200-2011",
    "CUB-200-2011",
    "CUB_200_2011",
    ("images.txt",),
    {"train": 5_994, "test": 5_794},
    "train",
    "test",
    200,
    (
        "images.txt, image_class_labels.txt, train_test_split.txt, classes.txt",
        "images/001.Black_footed_Albatross/Black_Footed_Albatross_0001_796111.jpg",
    ),
    f"Add download=true to fetch it (1.2 GB), or unpack {ARCHIVE.address} yourself.",
    read,
    {"train": (ARCHIVE,), "test": (ARCHIVE,)},
)
