import re
from pathlib import Path

import pytest

from datamodules.datasets.listing import read_listing
from datamodules.datasets.registry import known_set
from datamodules.labelled import read_labelled
from tests.datamodules.datasets import small_trees

KEY = "evaluation.datasets"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return small_trees.save_cub(tmp_path)


def refused(source: str, error: type[Exception] = ValueError) -> str:
    with pytest.raises(error, match=re.escape(f"{KEY}: {source}")) as told:
        read_listing(source, KEY)
    return str(told.value).removeprefix(f"{KEY}: {source}: ")


def test_listing__fewer_images_than_official_are_refused_unless_partial(root: Path) -> None:
    assert refused(f"cub-200-2011:{root}?split=train") == (
        "CUB-200-2011 has 5,994 images in its train split, found 2; unpack it again, or write partial=true to take "
        "what is there"
    )
    assert len(read_listing(f"cub-200-2011:{root}?split=train&partial=true", KEY)) == 2


def test_listing__missing_files_are_named(root: Path) -> None:
    path = root / "CUB_200_2011/images/014.Indigo_Bunting/B_1.jpg"
    path.unlink()
    said = refused(f"cub-200-2011:{root}?split=train", FileNotFoundError)
    assert said.startswith("1 of the 2 images of the train split are not in ") and "014.Indigo_Bunting/B_1.jpg" in said
    listing = read_listing(f"cub-200-2011:{root}?split=train&partial=true", KEY)
    assert listing.files == ["images/001.Black_footed_Albatross/A_1.jpg"] and listing.labels is not None
    assert read_labelled(f"cub-200-2011:{root}?split=train&partial=true").classes == ["Black footed Albatross"]
    (root / "CUB_200_2011/images/001.Black_footed_Albatross/A_1.jpg").unlink()
    assert "none of the images of the train split" in refused(f"cub-200-2011:{root}?split=train&partial=true")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("image_class_labels.txt", "1 1\n2 1\n3 99\n4 14\n", "the label -1 of images/014.*B_1.jpg is none of its 2 cl"),
        ("image_class_labels.txt", "1 1\n2 1\n3 14\n", "says nothing of 1 images of images.txt, such as 4"),
        ("train_test_split.txt", "1 1\n2 0\n3 2\n4 0\n", "has '2' for image 3; expected 1 for train or 0"),
        ("images.txt", "1 x/A.jpg\n1 x/B.jpg\n", "lists 1 twice"),
        ("images.txt", "1\n", "has the line '1'; expected KEY VALUE"),
        ("images.txt", "1 001.Black_footed_Albatross/A_1.jpg\n3 001.Black_footed_Albatross/A_1.jpg\n",
         "the train split lists 1 images twice, such as images/001.Black_footed_Albatross/A_1.jpg"),
        ("classes.txt", b"1 \xff\xfe\n", "is no UTF-8 text"),
    ],
)  # fmt: skip
def test_listing__wrong_lists_are_named(root: Path, file: str, text: str | bytes, message: str) -> None:
    (root / "CUB_200_2011" / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert re.search(message, refused(f"cub-200-2011:{root}?split=train&partial=true"))


def test_listing__a_missing_list_is_named_with_the_layout(root: Path) -> None:
    (root / "CUB_200_2011/train_test_split.txt").unlink()
    said = refused(f"cub-200-2011:{root}?split=test", FileNotFoundError)
    assert "train_test_split.txt is missing. Expected there" in said and "\n- images/001.Black_footed" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?split=val", "CUB-200-2011 has no split val; write split=train or split=test"),
        ("", "CUB-200-2011 needs a split; write split=train"),
        ("?split=test&partial=yes", "partial must be true or false, got yes"),
    ],
)
def test_listing__wrong_options(root: Path, options: str, message: str) -> None:
    assert refused(f"cub-200-2011:{root}{options}").startswith(message)


def test_listing__where_nothing_is(tmp_path: Path) -> None:
    said = refused(f"nabirds:{tmp_path}/none?split=test", FileNotFoundError)
    assert said.startswith(f"{tmp_path}/none does not exist; it is to be the folder of NABirds. Expected there")
    with pytest.raises(ValueError, match=r"NABirds cannot be downloaded automatically\. Expected there.*\n- images"):
        read_listing(f"nabirds:{tmp_path}/none?split=test&download=true", KEY)
    small_trees.save_nabirds(tmp_path)  # what is there needs no download
    assert len(read_listing(f"nabirds:{tmp_path}?split=test&download=true&partial=true", KEY)) == 2


def test_read_labelled__sets_for_dense_tasks_have_no_labels(tmp_path: Path) -> None:
    small_trees.save_foodseg103(tmp_path)
    with pytest.raises(ValueError, match=r"foodseg103:.* has masks, not a class for each image; .*curation\.leakage"):
        read_labelled(f"foodseg103:{tmp_path}?split=test&partial=true")


def test_known_set__reads_without_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from datamodules.datasets.names import KNOWN; from datamodules.datasets.registry import known_set;"
        "import datamodules.datasets.listing, curation.evaluation_sets, curation.concepts.coverage;"
        "[known_set(name) for name in KNOWN]; from datamodules.datasets.imagenet_1k import class_names;"
        "assert class_names(['n01440764']) == ['tench']; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert known_set("food-101").classes == 101
