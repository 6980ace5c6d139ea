"""NABirds (Van Horn et al., 2015): 555 visual categories of 404 North American species."""

from pathlib import Path

import numpy as np

from datamodules.datasets.known_set import KnownSet, Listing, read_pairs, unique_names
from datamodules.datasets.numbered_files import read_numbered


def read(folder: Path, split: str) -> Listing:
    """classes.txt names a whole hierarchy; the classes are those that images of either split have, its leaves.

    Names keep what tells a category apart: "Wood Duck (Breeding male)".
    """
    files, numbers = read_numbered(folder, split)
    names = read_pairs(folder / "classes.txt")
    used = set(read_pairs(folder / "image_class_labels.txt").values())
    leaves = [number for number in names if number in used]
    place = {number: row for row, number in enumerate(leaves)}
    labels = np.array([place.get(number, -1) for number in numbers], np.int64)
    return Listing(folder, files, labels, unique_names([names[number] for number in leaves], leaves))


SET = KnownSet(
    "nabirds",
    "NABirds",
    "nabirds",
    ("images.txt",),
    {"train": 23_929, "test": 24_633},
    "train",
    "test",
    555,
    (
        "images.txt, image_class_labels.txt, train_test_split.txt, classes.txt",
        "images/0817/0000139e21dc4d0c801897b7aa1c2e5d.jpg",
    ),
    "Register at https://dl.allaboutbirds.org/nabirds and unpack nabirds.tar.gz there.",
    read,
)
