from pathlib import Path

import pytest
from PIL import Image

from datamodules.datasets.listing import read_listing

KEY = "evaluation.datasets"


def save(folder: Path, table: str = "path,mask\na.png,a-mask.png\n", classes: str | None = "cloth\ndisc\n") -> Path:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    Image.new("L", (8, 8)).save(folder / "a-mask.png")
    if classes is not None:
        (folder / "classes.txt").write_text(classes)
    (folder / "train.csv").write_text(table)
    return folder / "train.csv"


def test_read_listing__images_and_masks_of_a_csv(tmp_path: Path) -> None:
    listing = read_listing(save(tmp_path), KEY)
    assert listing.files == ["a.png"] and listing.masks == ["a-mask.png"] and listing.folder == tmp_path
    assert listing.classes == ["cloth", "disc"] and listing.labels is None


def test_read_listing__a_csv_with_labels_too_is_one_of_labels(tmp_path: Path) -> None:
    listing = read_listing(save(tmp_path, "path,label,mask\na.png,soup,a-mask.png\n"), KEY)
    assert listing.masks is None and listing.classes == ["soup"]


@pytest.mark.parametrize(
    ("table", "classes", "message"),
    [
        ("path,mask\na.png,a-mask.png\n", None, r"classes\.txt is missing; train\.csv has masks, .* one a line"),
        ("path,mask\na.png,a-mask.png\n", "cloth\ncloth\n", r"classes\.txt names cloth twice; write one name a line"),
        ("path,mask\na.png,a-mask.png\n", "cloth\n", r"classes\.txt names 1 classes, not 2 to 255"),
        ("path,mask\na.png,gone.png\n", "a\nb\n", r"names 1 files in its column mask that are not there, .*gone\.png"),
        ("path,mask\ngone.png,a-mask.png\n", "a\nb\n", r"names 1 files in its column path that are not there"),
        ("path,mask\na.png,\n", "a\nb\n", r"train\.csv line 2 has no mask"),
        ("path,mask\n", "a\nb\n", r"train\.csv names no image"),
        ("file,mask\na.png,a-mask.png\n", "a\nb\n", r"has no column path; it has file, mask"),
        ("path,mask\na.png,a-mask.png\n" * 2, "a\nb\n", r"names 1 files in its column path that are not there"),
    ],
)
def test_read_listing__what_is_wrong_is_said(table: str, classes: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=rf"^{KEY}: .*{message}"):
        read_listing(save(tmp_path, table, classes), KEY)
