"""Known data sets of a few images, in the layouts of their official archives."""

import json
from pathlib import Path

from PIL import Image

from tests.tiny import picture

BIRDS = ("Aves_Accipitriformes_Accipitridae_Accipiter_badius", "Aves_Passeriformes_Corvidae_Corvus_corax")


def save(folder: Path, *files: str) -> None:
    """Small pictures, each another one."""
    for number, file in enumerate(files):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(sum(map(ord, file)) + 1000 * number, 24).convert("RGB").save(
            path, "PNG" if path.suffix == ".png" else "JPEG"
        )


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def save_food_101(root: Path) -> Path:
    """Two classes, two images each in train and one in test."""
    home = root / "food-101"
    classes: dict[str, tuple[int, ...]] = {"apple_pie": (1, 2, 3), "hot_and_sour_soup": (4, 5, 6)}
    save(home / "images", *(f"{name}/{number}.jpg" for name, numbers in classes.items() for number in numbers))
    write(home / "meta/classes.txt", "apple_pie\nhot_and_sour_soup\n")
    for split, part in (("train", slice(2)), ("test", slice(2, 3))):
        entries = {name: [f"{name}/{number}" for number in numbers[part]] for name, numbers in classes.items()}
        write(home / f"meta/{split}.json", json.dumps(entries))
        write(home / f"meta/{split}.txt", "".join(f"{entry}\n" for own in entries.values() for entry in own))
    return root


def save_foodx_251(root: Path) -> Path:
    """Three classes; tables without a head, as in annot.tar."""
    write(root / "annot/class_list.txt", "0 macaron\n1 beef_bourguignonne\n2 gazpacho\n")
    write(root / "annot/train_info.csv", "train_000000.jpg,2\ntrain_000001.jpg,0\ntrain_000002.jpg,1\n")
    write(root / "annot/val_info.csv", "val_000000.jpg,1\n")
    write(root / "annot/test_info.csv", "test_000000.jpg\n")
    save(root, *(f"train_set/train_00000{n}.jpg" for n in range(3)), "val_set/val_000000.jpg",
         "test_set/test_000000.jpg")  # fmt: skip
    return root


def save_food_2k(root: Path) -> Path:
    """Classes 0, 1 and 1999; one list with labels, one without."""
    write(root / "train.txt", "/0/a.jpg 0\n/1/b.jpg 1\n/1999/c.jpg 1999\n")
    write(root / "test.txt", "/0/d.jpg\n/1999/e.jpg\n")
    save(root / "Food2k_complete", "0/a.jpg", "1/b.jpg", "1999/c.jpg", "0/d.jpg", "1999/e.jpg")
    return root


def save_cub(root: Path) -> Path:
    """Two species; the lists are by image number."""
    home = root / "CUB_200_2011"
    albatross, bunting = "001.Black_footed_Albatross", "014.Indigo_Bunting"
    files = [f"{albatross}/A_1.jpg", f"{albatross}/A_2.jpg", f"{bunting}/B_1.jpg", f"{bunting}/B_2.jpg"]
    save(home / "images", *files)
    write(home / "images.txt", "".join(f"{number} {file}\n" for number, file in enumerate(files, 1)))
    write(home / "image_class_labels.txt", "1 1\n2 1\n3 14\n4 14\n")
    write(home / "train_test_split.txt", "1 1\n2 0\n3 1\n4 0\n")
    write(home / "classes.txt", f"1 {albatross}\n14 {bunting}\n")
    return root


def save_nabirds(root: Path) -> Path:
    """Two leaves below one inner class."""
    home = root / "nabirds"
    files = ["0817/00-a.jpg", "0817/00-b.jpg", "0860/00-c.jpg", "0860/00-d.jpg"]
    save(home / "images", *files)
    write(home / "images.txt", "".join(f"id-{number} {file}\n" for number, file in enumerate(files)))
    write(home / "image_class_labels.txt", "id-0 817\nid-1 817\nid-2 860\nid-3 860\n")
    write(home / "train_test_split.txt", "id-0 1\nid-1 0\nid-2 1\nid-3 0\n")
    write(home / "classes.txt", "0 Birds\n22 Ducks\n817 Oak Titmouse\n860 Wood Duck (Breeding male)\n")
    write(home / "hierarchy.txt", "22 0\n817 0\n860 22\n")
    return root


def save_inat(root: Path, names: bool = True) -> Path:
    """Two birds and a beetle, in train and val."""
    folders = [f"0311{number}_Animalia_Chordata_{bird}" for number, bird in enumerate(BIRDS)]
    for split in ("train", "val"):
        save(
            root / split,
            *(f"{folder}/{split}.jpg" for folder in (*folders, "00001_Animalia_Arthropoda_Insecta_a_b_c_d")),
        )
    if names:
        entries = [{"id": 3110, "image_dir_name": folders[0], "common_name": "Shikra"},
                   {"id": 3111, "image_dir_name": folders[1], "common_name": None}]  # fmt: skip
        write(root / "val.json", json.dumps({"categories": entries}))
    return root


def save_imagenet(root: Path, flat: bool = False) -> Path:
    """A fish and the two cranes."""
    wnids = ("n01440764", "n02012849", "n03126707")
    save(root / "train", *(f"{wnid}/{wnid}_1.JPEG" for wnid in wnids))
    files = [f"ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2, 3)]
    save(root / "val", *(name if flat else f"{wnid}/{name}" for wnid, name in zip(wnids, files, strict=True)))
    return root


def save_foodseg103(root: Path) -> Path:
    """Two training images and a test image, with masks."""
    home = root / "FoodSeg103"
    write(home / "category_id.txt", "0\tbackground\n1\tcandy\n2\tegg tart\n")
    for split, names in (("train", ("00000000", "00000001")), ("test", ("00000002",))):
        save(home / "Images/img_dir" / split, *(f"{name}.jpg" for name in names))
        for number, name in enumerate(names):
            path = home / "Images/ann_dir" / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (24, 24), number).save(path)
    return root


def save_oktoberfest(root: Path) -> Path:
    """Two training images with three boxes, a test image with none."""
    write(root / "dataset/train/files.txt", "a.png 2 0 10 20 5 6 14 1 2 3 4\nb.png 1 3 0 0 24 24\n")
    write(root / "dataset/test/files.txt", "c.png 0\n")
    save(root / "dataset", "train/a.png", "train/b.png", "test/c.png")
    return root
