"""FoodSeg103 (Wu et al., 2021): 103 ingredients and the background, a class for each pixel."""

from pathlib import Path

from datamodules.datasets.known_set import KnownSet, Listing, images_below, present, read_pairs, whole_number

IMAGES, MASKS = "Images/img_dir", "Images/ann_dir"


def read(folder: Path, split: str) -> Listing:
    """Images and their masks, PNG files of the same stem whose pixels are places in category_id.txt."""
    path = folder / "category_id.txt"
    names = read_pairs(path)
    numbers = [whole_number(number, path) for number in names]
    if numbers != list(range(len(numbers))):
        raise ValueError(f"{path} does not number its classes 0, 1, 2, ...")
    files = images_below(folder, f"{IMAGES}/{split}")
    masks = [f"{MASKS}/{split}/{Path(file).stem}.png" for file in files]
    there = set(present(folder, masks))
    lacking = [mask for row, mask in enumerate(masks) if row not in there]
    if lacking:
        raise FileNotFoundError(f"{folder} lacks {len(lacking)} masks, such as {lacking[0]}")
    return Listing(folder, files, None, list(names.values()), masks=masks)


SET = KnownSet(
    "foodseg103",
    "FoodSeg103",
    "FoodSeg103",
    ("Images", "category_id.txt"),
    {"train": 4_983, "test": 2_135},
    "train",
    "test",
    104,  # the background is the first
    (
        "category_id.txt with lines of NUMBER NAME, the background first",
        "Images/img_dir/train/00000000.jpg, Images/ann_dir/train/00000000.png, and test likewise",
    ),
    "Ask for it at https://xiongweiwu.github.io/foodseg103.html and unpack FoodSeg103.zip there.",
    read,
)
