"""What `analyse` reads of a data set."""

from pathlib import Path

import numpy as np
import pytest

from pas_train import curated
from pas_train.analysis.naming import short_names
from pas_train.analysis.sets import NONE, draw_rows, read_sets
from tests.datamodules.datasets.small_trees import save_food_101, save_foodseg103
from tests.pas_train.analysis.curated_set import save_workspace
from tests.pas_train.planted import save_set


def test_read_sets__a_curated_set_has_concepts_and_sources(tmp_path: Path) -> None:
    manifest, _ = save_workspace(tmp_path / "food")
    (found,) = read_sets([str(manifest)])
    assert (found.name, found.kind, len(found)) == ("food", "concepts", 11)
    assert found.classes == ["apple pie", "bread", "curry"] and found.workspace == tmp_path / "food"
    assert found.synthetic.tolist() == [False, True, True] + [False] * 8
    assert found.labels.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0]


def test_read_sets__class_folders_are_classes_and_loose_images_are_none(tmp_path: Path) -> None:
    save_set(tmp_path / "classes", 6, 0, names="ab")
    save_set(tmp_path / "loose", 3, 0)
    first, second = read_sets([f"mine={tmp_path / 'classes'}", str(tmp_path / "loose")])
    assert (first.name, first.kind, first.classes) == ("mine", "classes", ["a", "b"])
    assert np.bincount(first.labels).tolist() == [3, 3] and first.words == ["a", "b"]
    assert (second.name, second.kind, second.labels.tolist()) == ("loose", "", [NONE] * 3)


def test_read_sets__known_sets_have_classes_or_say_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_food_101(tmp_path)
    save_foodseg103(tmp_path)
    given = [f"{kind}:{tmp_path}?partial=true" for kind in ("food-101", "foodseg103")]
    food, masks = read_sets(given)
    assert (food.name, food.kind, food.source) == ("food-101", "classes", f"{given[0]}&split=train")
    assert (masks.kind, len(masks.labels)) == ("", len(masks.images))
    assert "foodseg103: its classes are left out (analyse: foodseg103:" in capsys.readouterr().out


def test_read_sets__equal_names_are_refused(tmp_path: Path) -> None:
    save_set(tmp_path / "a", 2, 0)
    with pytest.raises(ValueError, match="two sets are called mine"):
        read_sets([f"mine={tmp_path / 'a'}", f"mine={tmp_path / 'a'}"])
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_sets([f"mine={tmp_path / 'nowhere'}"])


def test_short_names__are_told_apart() -> None:
    sources = ["runs/food/dataset/mini/manifest.parquet", "food-101:data/food?split=train", "a/x", "b/x"]
    assert short_names(sources) == ["food mini", "food-101", "x (3)", "x (4)"]


def test_draw_rows__all_or_a_seeded_part(tmp_path: Path) -> None:
    save_set(tmp_path / "a", 9, 0)
    (found,) = read_sets([str(tmp_path / "a")])
    assert draw_rows(found, 20, 0).tolist() == draw_rows(found, None, 0).tolist() == list(range(9))
    drawn = draw_rows(found, 4, 1)
    assert len(set(drawn.tolist())) == 4 and (np.diff(drawn) > 0).all()
    assert drawn.tolist() == draw_rows(found, 4, 1).tolist() != draw_rows(found, 4, 2).tolist()


def test_stored_embeddings__are_those_of_the_keys(tmp_path: Path) -> None:
    _, vectors = save_workspace(tmp_path / "food")
    places, found = curated.stored_embeddings(tmp_path / "food", ["007.png", "nowhere.png", "001.png"])
    assert places.tolist() == [0, 2] and np.allclose(found, vectors[[7, 1]].astype(np.float32), atol=2e-3)
    assert curated.stored_encoder(tmp_path / "food") == {
        "model": "tiny",
        "pretrained": None,
        "files": {"weights": "abc"},
    }
