"""Each known data set, read from a small tree in the layout of its archive."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules.datasets.known_set import Listing
from datamodules.datasets.listing import read_listing
from datamodules.datasets.names import KNOWN
from datamodules.datasets.registry import known_set, official_split
from tests.datamodules.datasets import small_trees

KEY = "evaluation.datasets"
FIRST, SECOND = (f"0311{number}_Animalia_Chordata_{bird}" for number, bird in enumerate(small_trees.BIRDS))
TREES: dict[str, tuple[Callable[[Path], Path], list[tuple[str, str]], list[tuple[str, str]]]] = {
    "food-101": (
        small_trees.save_food_101,
        [("images/apple_pie/1.jpg", "apple pie"), ("images/apple_pie/2.jpg", "apple pie"),
         ("images/hot_and_sour_soup/4.jpg", "hot and sour soup"),
         ("images/hot_and_sour_soup/5.jpg", "hot and sour soup")],
        [("images/apple_pie/3.jpg", "apple pie"), ("images/hot_and_sour_soup/6.jpg", "hot and sour soup")],
    ),
    "foodx-251": (
        small_trees.save_foodx_251,
        [("train_set/train_000000.jpg", "gazpacho"), ("train_set/train_000001.jpg", "macaron"),
         ("train_set/train_000002.jpg", "beef bourguignonne")],
        [("val_set/val_000000.jpg", "beef bourguignonne")],
    ),
    "food-2k": (
        small_trees.save_food_2k,
        [("Food2k_complete/0/a.jpg", "0"), ("Food2k_complete/1/b.jpg", "1"), ("Food2k_complete/1999/c.jpg", "1999")],
        [("Food2k_complete/0/d.jpg", "0"), ("Food2k_complete/1999/e.jpg", "1999")],
    ),
    "cub-200-2011": (
        small_trees.save_cub,
        [("images/001.Black_footed_Albatross/A_1.jpg", "Black footed Albatross"),
         ("images/014.Indigo_Bunting/B_1.jpg", "Indigo Bunting")],
        [("images/001.Black_footed_Albatross/A_2.jpg", "Black footed Albatross"),
         ("images/014.Indigo_Bunting/B_2.jpg", "Indigo Bunting")],
    ),
    "nabirds": (
        small_trees.save_nabirds,
        [("images/0817/00-a.jpg", "Oak Titmouse"), ("images/0860/00-c.jpg", "Wood Duck (Breeding male)")],
        [("images/0817/00-b.jpg", "Oak Titmouse"), ("images/0860/00-d.jpg", "Wood Duck (Breeding male)")],
    ),
    "inat-2021-birds": (
        small_trees.save_inat,
        [(f"train/{FIRST}/train.jpg", "Shikra"), (f"train/{SECOND}/train.jpg", "Corvus corax")],
        [(f"val/{FIRST}/val.jpg", "Shikra"), (f"val/{SECOND}/val.jpg", "Corvus corax")],
    ),
    "imagenet-1k": (
        small_trees.save_imagenet,
        [("train/n01440764/n01440764_1.JPEG", "tench"), ("train/n02012849/n02012849_1.JPEG", "crane (n02012849)"),
         ("train/n03126707/n03126707_1.JPEG", "crane (n03126707)")],
        [("val/n01440764/ILSVRC2012_val_00000001.JPEG", "tench"),
         ("val/n02012849/ILSVRC2012_val_00000002.JPEG", "crane (n02012849)"),
         ("val/n03126707/ILSVRC2012_val_00000003.JPEG", "crane (n03126707)")],
    ),
}  # fmt: skip


def labelled(listing: Listing) -> list[tuple[str, str]]:
    assert listing.labels is not None and listing.labels.dtype == np.int64
    assert all(path.is_file() for path in listing.paths)
    return [(file, listing.classes[label]) for file, label in zip(listing.files, listing.labels, strict=True)]


@pytest.mark.parametrize("name", TREES)
def test_read_listing__files_and_classes_of_the_official_splits(name: str, tmp_path: Path) -> None:
    save, train, test = TREES[name]
    root = save(tmp_path)
    for expected, text in zip(
        (train, test), (official_split(name, str(root), part) for part in (False, True)), strict=True
    ):
        assert labelled(read_listing(f"{text}&partial=true", KEY)) == expected


def test_known__every_set_says_where_it_is_to_be_had(tmp_path: Path) -> None:
    for name in KNOWN:
        known = known_set(name)
        assert known.name == name and {known.train, known.test} <= set(known.splits) and known.layout
        with pytest.raises(FileNotFoundError) as error:
            read_listing(f"{name}:{tmp_path}?split={known.test}", KEY)
        said = str(error.value)
        assert said.startswith(f"{KEY}: {name}:{tmp_path}?split={known.test}: {tmp_path} holds no {known.title}")
        assert all(f"\n- {line}" in said for line in known.layout) and "://" in said
        assert not known.archives or ("download=true" in said and set(known.archives) == set(known.splits))


def test_food_101__json_lists_alone(tmp_path: Path) -> None:
    small_trees.save_food_101(tmp_path)
    before = labelled(read_listing(f"food-101:{tmp_path}?split=train&partial=true", KEY))
    for name in ("train.txt", "test.txt", "classes.txt"):
        (tmp_path / "food-101/meta" / name).unlink()
    assert labelled(read_listing(f"food-101:{tmp_path}/food-101?split=train&partial=true", KEY)) == before


def test_foodx_251__files_of_the_competition_and_unlabelled_test_images(tmp_path: Path) -> None:
    small_trees.save_foodx_251(tmp_path)
    (tmp_path / "annot/class_list.txt").rename(tmp_path / "class_list.txt")
    small_trees.write(tmp_path / "val_labels.csv", "img_name,label\nval_000000.jpg,0\n")
    (tmp_path / "annot/val_info.csv").unlink()
    assert labelled(read_listing(f"foodx-251:{tmp_path}?split=val&partial=true", KEY))[0][1] == "macaron"
    test = read_listing(f"foodx-251:{tmp_path}?split=test&partial=true", KEY)
    assert test.labels is None and test.files == ["test_set/test_000000.jpg"]


def test_food_2k__names_beside_the_lists(tmp_path: Path) -> None:
    small_trees.save_food_2k(tmp_path)
    small_trees.write(tmp_path / "food2k_label2name_en.txt", "0000--Mapo_tofu\n1999--Egg tart\n0001--Mapo_tofu\n")
    found = labelled(read_listing(f"food-2k:{tmp_path}?split=train&partial=true", KEY))
    assert [name for _, name in found] == ["Mapo tofu (0)", "Mapo tofu (1)", "Egg tart"]


def test_inat_2021_birds__scientific_names_without_annotations(tmp_path: Path) -> None:
    small_trees.save_inat(tmp_path, names=False)
    listing = read_listing(f"inat-2021-birds:{tmp_path}?split=val&partial=true", KEY)
    assert listing.classes == ["Accipiter badius", "Corvus corax"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LOC_val_solution.csv", "ImageId,PredictionString\nILSVRC2012_val_00000001,n03126707 1 2 3 4\n"
         "ILSVRC2012_val_00000002,n01440764 1 2 3 4 n01440764 1 2 3 4\nILSVRC2012_val_00000003,n02012849 1 2 3 4\n"),
        ("imagenet_2012_validation_synset_labels.txt", "n03126707\nn01440764\nn02012849\n"),
        ("val.txt", "ILSVRC2012_val_00000001.JPEG 517\nILSVRC2012_val_00000002.JPEG 0\n"
         "ILSVRC2012_val_00000003.JPEG 134\n"),
    ],
)  # fmt: skip
def test_imagenet_1k__validation_images_in_one_folder(name: str, text: str, tmp_path: Path) -> None:
    small_trees.save_imagenet(tmp_path, flat=True)
    source = f"imagenet-1k:{tmp_path}?split=val&partial=true"
    with pytest.raises(FileNotFoundError, match=r"val has no class folders, and .* none of LOC_val_solution\.csv"):
        read_listing(source, KEY)
    small_trees.write(tmp_path / name, text)
    found = labelled(read_listing(source, KEY))
    assert [label for _, label in found] == ["crane (n03126707)", "tench", "crane (n02012849)"]


def test_foodseg103__masks_beside_the_images(tmp_path: Path) -> None:
    small_trees.save_foodseg103(tmp_path)
    listing = read_listing(f"foodseg103:{tmp_path}?split=train&partial=true", KEY)
    assert listing.labels is None and listing.classes == ["background", "candy", "egg tart"]
    assert listing.files == ["Images/img_dir/train/00000000.jpg", "Images/img_dir/train/00000001.jpg"]
    assert listing.masks == ["Images/ann_dir/train/00000000.png", "Images/ann_dir/train/00000001.png"]
    (listing.folder / listing.masks[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 masks, such as Images/ann_dir/train/00000001\.png"):
        read_listing(f"foodseg103:{tmp_path}?split=train", KEY)


def test_oktoberfest__boxes_of_each_image(tmp_path: Path) -> None:
    small_trees.save_oktoberfest(tmp_path)
    listing = read_listing(f"oktoberfest:{tmp_path}?split=train", KEY)
    assert listing.files == ["train/a.png", "train/b.png"] and listing.classes[14] == "Kaesespaetzle"
    assert listing.boxes is not None and [box.tolist() for box in listing.boxes] == [
        [[10, 20, 15, 26, 0], [1, 2, 4, 6, 14]], [[0, 0, 24, 24, 3]],
    ]  # fmt: skip
    empty = read_listing(f"oktoberfest:{tmp_path}?split=test", KEY)
    assert empty.boxes is not None and empty.boxes[0].shape == (0, 5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png 2 0 1 2 3 4", "a.png has other numbers than COUNT and five a box"),
        ("a.png", "a.png has other numbers"),
        ("a.png 1 15 1 2 3 4", "a.png has a box of class 15, or without an area"),
        ("a.png 1 0 1 2 0 4", "without an area"),
    ],
)
def test_oktoberfest__wrong_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    small_trees.save_oktoberfest(tmp_path)
    small_trees.write(tmp_path / "dataset/train/files.txt", line)
    with pytest.raises(ValueError, match=message):
        read_listing(f"oktoberfest:{tmp_path}?split=train", KEY)
