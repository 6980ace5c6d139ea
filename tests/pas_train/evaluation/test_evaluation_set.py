from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.annotated import kind_of
from datamodules.dense import BoxedImages, MaskedImages
from pas_train.evaluation.evaluation_set import EvaluationSet
from tests.datamodules.datasets import small_trees
from tests.pas_train.evaluation.dense_sets import save_boxed, save_masked


@pytest.fixture
def food(tmp_path: Path) -> Path:
    return small_trees.save_food_101(tmp_path)


def test_read__official_splits_of_a_known_set(food: Path) -> None:
    item = EvaluationSet("food-101", root=f"{food}?partial=true")
    assert item.train == f"food-101:{food}?partial=true&split=train"
    item.check(food)
    train, test = item.read(food)
    assert (len(train), len(test)) == (4, 2) and train.classes == test.classes == ["apple pie", "hot and sour soup"]
    own = EvaluationSet("food-101", train=f"food-101:{food}?partial=true&split=test", root=f"{food}?partial=true")
    assert len(own.read(food)[0]) == 2 and own.test == item.test  # what is given stays


def test_read__forms_may_be_mixed_where_classes_are_the_same(
    food: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = food / "food-101" / "images"
    (tmp_path / "test.csv").write_text("path,dish\nfood-101/images/apple_pie/3.jpg,apple_pie\n")
    item = EvaluationSet("mine", f"torchvision:ImageFolder?root={folder}", "workspace:test.csv", label_column="dish")
    item.check(tmp_path)
    train, test = item.read(tmp_path)
    assert train.classes == ["apple_pie", "hot_and_sour_soup"] and test.labels.tolist() == [0]
    assert "1 of 1 test images of 'mine' are among its training images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (EvaluationSet("food101", root="x"), r"'food101' has a root, .*; did you mean name: food-101\?"),
        (EvaluationSet("mine"), r"'mine' has no train; give train and test"),
        (EvaluationSet("mine", train="x"), r"'mine' has no test; give train and test"),
        (EvaluationSet("mine", "/nowhere", "/nowhere"), r"'mine': /nowhere does not exist; give a folder of class"),
        (EvaluationSet("cub", "CUB:x", "CUB:x"), r"'cub': CUB:x: no data set CUB, and no such path"),
        (EvaluationSet("t", "torchvision:Food11?root=x", "y"), r"'t': torchvision:Food11.* no data set Food11"),
        (EvaluationSet("nabirds", root="/nowhere"), r"/nowhere does not exist; it is to be the folder of NABirds"),
        (EvaluationSet("foodseg103", root="/nowhere"), r"does not exist; it is to be the folder of FoodSeg103"),
    ],
)  # fmt: skip
def test_check__what_is_wrong_is_said(item: EvaluationSet, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=rf"^evaluation\.datasets: .*{message}"):
        item.check(tmp_path)
    if not item.train or not item.test:
        with pytest.raises(ValueError, match=message):
            item.read(tmp_path)


def test_check__labels_and_classes_before_anything_runs(food: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,class\nx.png,1\n")
    with pytest.raises(
        ValueError, match=r"^evaluation\.datasets: 'mine': .*labels\.csv has no column label; it has path"
    ):
        EvaluationSet("mine", "workspace:labels.csv", "workspace:labels.csv").check(tmp_path)
    folder = food / "food-101" / "images"
    (tmp_path / "test" / "ramen").mkdir(parents=True)
    small_trees.save(tmp_path / "test", "ramen/1.jpg")
    with pytest.raises(ValueError, match=r"'mine': test images have classes that the training images lack: ramen"):
        EvaluationSet("mine", str(folder), "workspace:test").check(tmp_path)
    EvaluationSet("later", str(folder), "workspace:scenes/test").check(tmp_path, made=True)


def test_read__masks_and_boxes_of_files(tmp_path: Path) -> None:
    for item, kind in ((save_masked(tmp_path / "a"), "masks"), (save_boxed(tmp_path / "b"), "boxes")):
        assert item.check(tmp_path) == kind
        train, test = item.read(tmp_path)
        assert kind_of(train) == kind_of(test) == kind and (len(train), len(test)) == (4, 2)
        assert train.classes == test.classes and len(item.read_test(tmp_path)) == 2


def test_read__official_splits_of_sets_with_masks_and_boxes(tmp_path: Path) -> None:
    small_trees.save_foodseg103(tmp_path)
    small_trees.save_oktoberfest(tmp_path)
    (tmp_path / "dataset/test/files.txt").write_text("c.png 1 3 0 0 24 24\n")
    tarts = tmp_path / "FoodSeg103/Images/ann_dir/test/00000002.png"
    Image.fromarray(np.arange(576, dtype=np.uint8).reshape(24, 24) % 3).save(tarts)
    foodseg, oktoberfest = (
        EvaluationSet(name, root=f"{tmp_path}?partial=true") for name in ("foodseg103", "oktoberfest")
    )
    train, test = foodseg.read(tmp_path)
    assert isinstance(train, MaskedImages) and train.classes == ["background", "candy", "egg tart"]
    assert isinstance(test, MaskedImages) and set(test.mask(0, (24, 24)).ravel()) == {0, 1, 2}
    train, test = oktoberfest.read(tmp_path)
    assert isinstance(train, BoxedImages) and [len(boxes) for boxes in train.boxes] == [2, 1] and len(test) == 1


def test_read__kinds_of_training_and_test_must_agree(tmp_path: Path) -> None:
    masked, boxed = save_masked(tmp_path / "a"), save_boxed(tmp_path / "b")
    with pytest.raises(
        ValueError, match=r"^evaluation\.datasets: 'x': the training images have masks, the test images b"
    ):
        EvaluationSet("x", masked.train, boxed.test).check(tmp_path)


def test_read__a_damaged_mask_names_the_data_set(tmp_path: Path) -> None:
    item = save_masked(tmp_path / "a")
    Image.new("RGB", (24, 24)).save(tmp_path / "a" / "5-mask.png")
    item.check(tmp_path)  # opens nothing
    with pytest.raises(ValueError, match=r"^evaluation\.datasets: 'cloth': the mask .*5-mask\.png has colours"):
        item.read(tmp_path)


def test_read__what_was_done_to_boxes_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item = save_boxed(tmp_path / "b")
    path = tmp_path / "b" / "test.json"
    path.write_text(path.read_text().replace("[6, 4, 10, 8]", "[6, 4, 100, 8]"))
    item.read(tmp_path)
    out = capsys.readouterr().out
    assert out == "evaluation  'tray': 1 of 1 boxes reach beyond their image and are cut at its edge\n"


def test_read__files_of_the_workspace(tmp_path: Path) -> None:
    save_boxed(tmp_path / "b")
    item = EvaluationSet(
        "tray", "workspace:b/train.json?images=workspace:b/images", f"workspace:b/test.json?images={tmp_path}/b/images"
    )
    assert len(item.read(tmp_path)[0]) == 4
