"""ImageNet-1k (ILSVRC 2012): 1,000 classes, in folders of their WordNet numbers."""

import csv
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from datamodules.datasets.known_set import (
    KnownSet,
    Listing,
    first_of,
    folders_in,
    images_below,
    read_lines,
    read_pairs,
    unique_names,
)

INNER = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # Kaggle's archive
# Of a validation folder without class folders, in this folder or in the root.
SOLUTION = "LOC_val_solution.csv"  # Kaggle: FILE,"n01751748 x y x y"
SYNSETS = "imagenet_2012_validation_synset_labels.txt"  # WordNet numbers in the order of the files
NUMBERS = "val.txt"  # FILE NUMBER, counted in the order of the WordNet numbers


def read(folder: Path, split: str) -> Listing:
    """`SPLIT/n01440764/IMAGE`; validation images may lie in one folder, with a list of their labels beside it."""
    inner = next((start for start in INNER if (folder / start / split).is_dir()), "")
    images = f"{inner}/{split}" if inner else split
    classes = folders_in(folder / images)
    if classes:
        below = [images_below(folder / images, name) for name in classes]
        files = [f"{images}/{file}" for own in below for file in own]
        labels = np.repeat(np.arange(len(classes)), [len(own) for own in below]).astype(np.int64)
        return Listing(folder, files, labels, class_names(classes))
    names = [Path(file).name for file in images_below(folder, images)]
    known, classes = _labels(folder, folder / images, names)
    lacking = [name for name in names if name not in known]
    if lacking:
        raise ValueError(f"{len(lacking)} images of {folder / images} have no label, such as {lacking[0]}")
    place = {wnid: row for row, wnid in enumerate(classes)}
    labels = np.array([place.get(known[name], -1) for name in names], np.int64)
    return Listing(folder, [f"{images}/{name}" for name in names], labels, class_names(classes))


def _labels(folder: Path, images: Path, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """(file -> WordNet number, all of them in order)."""
    for place in (folder, images.parent, images):
        if (place / SOLUTION).exists():
            rows = list(csv.reader(read_lines(place / SOLUTION)))[1:]
            known = {f"{row[0]}.JPEG": row[1].split()[0] for row in rows if len(row) > 1}
            return known, official()
        if (place / SYNSETS).exists():
            synsets = [line.strip() for line in read_lines(place / SYNSETS)]
            if len(synsets) != len(names):
                raise ValueError(f"{place / SYNSETS} has {len(synsets)} labels, {images} {len(names)} images")
            return dict(zip(names, synsets, strict=True)), official()
        if (place / NUMBERS).exists():
            classes = official()
            pairs = {Path(name).name: int(text) for name, text in read_pairs(place / NUMBERS).items() if text.isdigit()}
            wrong = [name for name, number in pairs.items() if number >= len(classes)]
            if wrong:
                raise ValueError(f"{place / NUMBERS}: the label {pairs[wrong[0]]} of {wrong[0]} is above 999")
            return {name: classes[number] for name, number in pairs.items()}, classes
    raise FileNotFoundError(
        f"{images} has no class folders, and {folder} none of {SOLUTION}, {SYNSETS}, {NUMBERS}, which tell the labels"
    )


def official() -> list[str]:
    """The WordNet numbers of the 1,000 classes in order."""
    return [line.strip() for line in read_lines(_information("imagenet_synsets.txt"))]


def class_names(wnids: list[str]) -> list[str]:
    """The first name of each WordNet number, all of its names where another of the 1,000 shares the first."""
    lemmas = read_pairs(_information("imagenet_synset_to_lemma.txt"))
    every = list(dict.fromkeys([*official(), *wnids]))
    full = [lemmas.get(wnid, wnid) for wnid in every]
    first = Counter(name.partition(",")[0] for name in full)
    short = [name.partition(",")[0] if first[name.partition(",")[0]] == 1 else name for name in full]
    names = dict(zip(every, unique_names(short, every), strict=True))
    return [names[wnid] for wnid in wnids]


def _information(name: str) -> Path:
    """A table of names that timm brings; timm itself would import torch."""
    found = find_spec("timm")
    assert found is not None and found.submodule_search_locations
    return first_of(Path(found.submodule_search_locations[0]), (f"data/_info/{name}",))


SET = KnownSet(
    "imagenet-1k",
    "ImageNet-1k",
    "imagenet-1k",
    ("train", "val", "ILSVRC", "Data/CLS-LOC"),
    {"train": 1_281_167, "val": 50_000},
    "train",
    "val",
    1_000,
    (
        "train/n01440764/n01440764_10026.JPEG",
        "val/n01440764/ILSVRC2012_val_00000293.JPEG, or all in val/ with LOC_val_solution.csv beside it",
    ),
    "Register at https://image-net.org (or Kaggle, imagenet-object-localization-challenge) and unpack "
    "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar there; Kaggle's folders are found as they are.",
    read,
)
