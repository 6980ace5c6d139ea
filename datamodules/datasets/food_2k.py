"""Food-2K (Min et al., 2021): 2,000 dishes; its lists number them."""

from pathlib import Path

import numpy as np

from datamodules.datasets.known_set import KnownSet, Listing, first_of, read_lines, unique_names, whole_number

IMAGES = ("", "Food2k_complete", "images")
NAMES = ("food2k_label2name_en.txt", "meta/food2k_label2name_en.txt", "Food2k_label/food2k_label2name_en.txt")
CLASSES = 2_000


def read(folder: Path, split: str) -> Listing:
    """`SPLIT.txt` (or SPLIT_finetune.txt): lines of PATH LABEL, or PATH alone, whose folder is the label.

    A file food2k_label2name_en.txt with lines of NUMBER--NAME gives the names; else they are the numbers.
    """
    path = first_of(
        folder,
        tuple(f"{start}{split}{end}.txt" for start in ("", "meta/", "Food2k_label/") for end in ("", "_finetune")),
    )
    entries = [line.split() for line in read_lines(path)]
    files = [entry[0].lstrip("/") for entry in entries]
    told = [entry[1] if len(entry) > 1 else file.split("/")[-2] if "/" in file else file
            for entry, file in zip(entries, files, strict=True)]  # fmt: skip
    labels = np.array([whole_number(number, path) for number in told], np.int64)
    here = next((start for start in IMAGES if files and (folder / start / files[0].partition("/")[0]).exists()), "")
    start = f"{here}/" if here else ""
    return Listing(folder, [start + file for file in files], labels, _names(folder))


def _names(folder: Path) -> list[str]:
    path = next((folder / name for name in NAMES if (folder / name).exists()), None)
    names = [str(number) for number in range(CLASSES)]
    for line in read_lines(path) if path is not None else []:
        number, parted, name = line.partition("--")
        place = whole_number(number, path or folder)
        if not parted or not 0 <= place < CLASSES:
            raise ValueError(f"{path} has the line {line!r}; expected NUMBER--NAME with a number below {CLASSES:,}")
        names[place] = name.replace("_", " ").strip()
    return unique_names(names, [str(number) for number in range(CLASSES)])


SET = KnownSet(
    "food-2k",
    "Food-2K",
    "Food2K",
    ("train.txt", "train_finetune.txt", "meta", "Food2k_label", "Food2k_complete"),
    {"train": 620_192, "val": 104_513, "test": 311_859},
    "train",
    "test",
    CLASSES,
    (
        "train.txt, val.txt, test.txt with lines of PATH LABEL",
        "Food2k_complete/0/IMAGE.jpg (or 0/IMAGE.jpg)",
        "food2k_label2name_en.txt with lines of NUMBER--NAME (for class names as text; may be left out)",
    ),
    "Ask its authors for Food2k_complete.tar.gz and Food2k_label.tar.gz (http://123.57.42.89/FoodProject.html), and "
    "unpack both there.",
    read,
)
