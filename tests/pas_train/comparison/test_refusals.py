from pathlib import Path

import pytest

from pas_train.comparison.grouping import draws_of
from pas_train.comparison.reading import read_all
from pas_train.comparison.refusals import chosen, refuse_mixed, refuse_unscreened
from pas_train.comparison.rows import Draw
from tests.pas_train.comparison.made import digest, result, write


def draws(folder: Path, *contents: dict) -> list[Draw]:
    for content in contents:
        write(folder, content)
    return draws_of(read_all([str(folder)]))


def test_refuse_mixed__names_the_setting_and_the_runs(tmp_path: Path) -> None:
    found = draws(tmp_path, result("a"), result("b", k=20))
    with pytest.raises(ValueError, match=r"food-101: knn.k is 1 in mocov3-a-\w+ and 20 in mocov3-b-\w+"):
        refuse_mixed(found)
    refuse_mixed(chosen(found, [], ["linear"]))


def test_refuse_mixed__names_the_resolution(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"foodx-251: image_size is 224 in mocov3-a-\w+ and 64 in mocov3-b-\w+"):
        refuse_mixed(draws(tmp_path, result("a"), result("b", image_size=64)))


def test_refuse_mixed__other_images_under_the_same_name(tmp_path: Path) -> None:
    other = result("b")
    other["protocols"]["food-101"]["test"] = digest("another split")
    found = draws(tmp_path, result("a"), other)
    with pytest.raises(
        ValueError, match=r"food-101: the test images of mocov3-a-\w+ are others than those of mocov3-b"
    ):
        refuse_mixed(found)
    refuse_mixed(chosen(found, ["foodx-251"], []))


def test_refuse_mixed__files_are_named_where_runs_have_one_name(tmp_path: Path) -> None:
    again = result("a", k=20) | {"run": result("a")["run"]}
    again["backbones"]["trained"]["identity"] = "other"
    for place, content in (("one", result("a")), ("two", again)):
        write(tmp_path / place, content)
    with pytest.raises(ValueError, match=r"knn.k is 1 in .*/one/training/.*/results.json and 20 in .*/two/"):
        refuse_mixed(draws(tmp_path))


def test_refuse_unscreened__only_what_was_curated_here(tmp_path: Path) -> None:
    refuse_unscreened(draws(tmp_path / "outside", result(curated=False, screened=False)))
    with pytest.raises(ValueError, match=r"(?s)food-101: mocov3-food-\w+ \(not among the tests.*--allow-unscreened"):
        refuse_unscreened(draws(tmp_path / "here", result(screened=False)))


def test_chosen__unknown_names_are_told_and_a_family_stands_for_its_figures(tmp_path: Path) -> None:
    found = draws(tmp_path, result(names=("knn", "fewshot1", "fewshot5")))
    with pytest.raises(ValueError, match="--data-set cars is in no result; there are food-101, foodx-251"):
        chosen(found, ["cars"], [])
    assert list(chosen(found, [], ["fewshot"])[0].figures["food-101"]) == ["fewshot1", "fewshot5"]
