from pathlib import Path

import numpy as np
import pytest

from curation.concepts.coverage import describe, label_text, read_labels
from tests.datamodules.datasets import small_trees


def test_read_labels__folder_table_and_list(tmp_path: Path) -> None:
    for name in ("b_c", "a", ".cache"):
        (tmp_path / "tree" / name).mkdir(parents=True)
    (tmp_path / "tree" / "notes.txt").touch()
    (tmp_path / "table.csv").write_text("path,label\nx.jpg,a\ny.jpg,b_c\nz.jpg,a\n", encoding="utf-8-sig")
    (tmp_path / "list.txt").write_text("b_c\n\na \n")
    for name in ("tree", "table.csv", "list.txt"):
        assert read_labels(tmp_path / name, "curation.coverage.labels.food") == ["a", "b_c"]


def test_read_labels__of_a_data_set_by_name(tmp_path: Path) -> None:
    small_trees.save_cub(tmp_path)
    labels = read_labels(f"cub-200-2011:{tmp_path}?partial=true", "curation.coverage.labels.cub")
    assert labels == ["Black footed Albatross", "Indigo Bunting"]
    folder = tmp_path / "CUB_200_2011" / "images"
    names = ["001.Black_footed_Albatross", "014.Indigo_Bunting"]
    assert read_labels(f"torchvision:ImageFolder?root={folder}", "curation.coverage.labels.cub") == names
    small_trees.save_food_2k(tmp_path)
    with pytest.raises(ValueError, match=r"curation\.coverage\.labels\.food: food-2k:.* numbers its classes"):
        read_labels(f"food-2k:{tmp_path}?partial=true", "curation.coverage.labels.food")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "path,class\nx,a\n", "has no column label; it has path, class"),
        ("a.txt", "\n\n", "holds no label"),
        ("a.txt", None, "does not exist"),
    ],
)
def test_read_labels__what_is_wrong_is_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"curation\.coverage\.labels\.food: .*{message}"):
        read_labels(tmp_path / name, "curation.coverage.labels.food")


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("apple_pie", "apple pie"),
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("12_onion soup", "onion soup"),
        ("7_Up", "7 Up"),
        ("crane (n02012849)", "crane"),
        ("Wood Duck (Breeding male)", "Wood Duck (Breeding male)"),
        ("101", "101"),
        ("寿司", "寿司"),
    ],
)
def test_label_text__as_words(label: str, text: str) -> None:
    assert label_text(label) == text


def test_describe__the_furthest_first() -> None:
    line = describe("food", ["a", "b", "c", "d"], ["x", "y", "z", "w"], np.array([0.0, 0.3, 0.1, 0.5]))
    assert line == (
        "food: 4 labels, median distance 0.200, 50.0% above 0.2; furthest: d (0.50 from w), b (0.30 from y), "
        "c (0.10 from z), a (0.00 from x)"
    )
