"""The lists that CUB-200-2011 and NABirds share: images.txt, image_class_labels.txt and train_test_split.txt."""

from pathlib import Path

from datamodules.datasets.known_set import read_pairs


def read_numbered(folder: Path, split: str) -> tuple[list[str], list[str]]:
    """(files, class numbers) of the images of a split, by image number in the order of images.txt.

    Raises FileNotFoundError or ValueError where the three lists do not tell of the same images.
    """
    images = read_pairs(folder / "images.txt")
    labels = read_pairs(folder / "image_class_labels.txt")
    parts = read_pairs(folder / "train_test_split.txt")
    for name, told in (("image_class_labels.txt", labels), ("train_test_split.txt", parts)):
        lacking = [number for number in images if number not in told]
        if lacking:
            raise ValueError(
                f"{folder / name} says nothing of {len(lacking)} images of images.txt, such as {lacking[0]}"
            )
    odd = [number for number, part in parts.items() if part not in ("0", "1")]
    if odd:
        raise ValueError(
            f"{folder / 'train_test_split.txt'} has {parts[odd[0]]!r} for image {odd[0]}; expected 1 for train or 0"
        )
    wanted = "1" if split == "train" else "0"
    numbers = [number for number in images if parts[number] == wanted]
    return [f"images/{images[number]}" for number in numbers], [labels[number] for number in numbers]
