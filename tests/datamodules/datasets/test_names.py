from pathlib import Path

import pytest

from datamodules.datasets.names import parse_name, placed, same_images, told_as, with_option


def test_parse_name__kinds_and_options() -> None:
    name = parse_name("food-101:data/food?split=test&partial=true", "key")
    assert (name.kind, name.name, name.options) == ("food-101", "data/food", {"split": "test", "partial": "true"})
    assert name.known and name.flag("partial", "key") and not name.flag("download", "key")
    assert parse_name("hf:a/b?split=train%5B:9%5D", "key").options == {"split": "train[:9]"}
    path = parse_name("data/food?split=x", "key")  # a path is taken as it is
    assert (path.kind, path.name, path.options) == ("", "data/food?split=x", {})
    assert parse_name(Path("food-101:x"), "key").known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("food101:x", r"key: food101:x: no data set food101, and no such path; did you mean food-101"),
        ("CUB:x", r"no data set CUB, and no such path; .*cub-200-2011"),
        ("food-101:x?splt=test", r"key: .*: no option splt; there are split, partial, download"),
        ("food-101:x?split", r"split is no KEY=VALUE; write food-101:x\?KEY=VALUE"),
        ("food-101:?split=test", r"names no folder"),
        ("hf:?split=test", r"names no data set"),
    ],
)
def test_parse_name__what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_name(text, "key")


@pytest.mark.parametrize("text", ["workspace:a", "data/x:y", "/a:b/c", "C:/data", "http://a/b"])
def test_parse_name__paths_that_look_alike(text: str) -> None:
    assert parse_name(text, "key").kind == ""


def test_parse_name__a_path_with_a_colon_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "food:2021").mkdir()
    assert parse_name("food:2021", "key").kind == ""


def test_placed__only_paths_lie_in_the_workspace() -> None:
    assert placed("workspace:a/b", Path("/w")) == "/w/a/b"
    assert placed("food-101:a?split=test", Path("/w")) == "food-101:a?split=test"


def test_same_images__by_folder_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = f"food-101:{tmp_path}/food?split=test"
    assert same_images(one, "food-101:./food?partial=true&split=test")
    assert not same_images(one, "food-101:food?split=train") and not same_images(one, "nabirds:food?split=test")
    assert same_images("hf:a?split=b", "hf:a?split=b") and not same_images("hf:a?split=b", "a")


def test_with_option__behind_others() -> None:
    assert with_option("food-101:x", "split", "test") == "food-101:x?split=test"
    assert with_option("food-101:x?download=true", "split", "test") == "food-101:x?download=true&split=test"


def test_told_as__another_key() -> None:
    with pytest.raises(FileNotFoundError, match=r"^data\.knn_bank: x is gone"), told_as("data.knn_bank"):
        raise FileNotFoundError("data.source: x is gone")
    with pytest.raises(ValueError, match=r"^other"), told_as("data.knn_bank"):
        raise ValueError("other")
