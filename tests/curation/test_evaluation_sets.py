import io
import tarfile
from pathlib import Path

import pytest

from curation.evaluation_sets import check_set, checksums, identify_set, index_set, named_sets, origins
from datamodules.files import sha256_file
from tests.datamodules.datasets import small_trees
from tests.pas_train.evaluation.dense_sets import save_boxed
from tests.tiny import picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images in two class folders."""
    for number in range(3):
        path = tmp_path / "food" / f"class-{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, 16).save(path)
    return tmp_path / "food"


@pytest.mark.parametrize(
    ("tests", "names"),
    [
        ({"Food-101": "a/test", "birds": "b/test"}, ["Food-101", "birds"]),
        (["data/food", "workspace:scenes/leak"], ["food", "leak"]),
        (["food/test", "birds/test/", "/test"], ["food-test", "birds-test", "-test"]),
        (["birds.csv", "."], ["birds.csv", "test"]),
        (["food-101:data/food?split=test", "hf:a/cars?split=val"], ["food-101-test", "cars-val"]),
    ],
)
def test_named_sets__are_named_as_shortly_as_they_differ(tests: list[str] | dict[str, str], names: list[str]) -> None:
    named = named_sets(tests)
    assert list(named) == names
    assert list(named.values()) == (list(tests.values()) if isinstance(tests, dict) else tests)


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (["a/test", "b", "a/test/"], r"curation\.leakage\.tests lists a/test twice"),
        (["a-b/c", "d/c", "a/b-c/../e"], None),
        (["a/b-c", "x/b-c", "a-b/c", "y/c"], r"two paths end alike; name the sets"),
        ({"a/b": "c"}, r"'a/b' cannot name a test set"),
    ],
)
def test_named_sets__refuses_names_that_do_not_tell_sets_apart(
    tests: list[str] | dict[str, str], message: str | None
) -> None:
    if message is None:
        assert len(named_sets(tests)) == len(tests)
        return
    with pytest.raises(ValueError, match=message):
        named_sets(tests)


def test_index_set__csv_is_the_files_that_it_names(folder: Path) -> None:
    path = folder.parent / "some.csv"
    path.write_text(f"\ufefflabel,path\na,food/class-0/2.png\nb,{folder}/class-1/1.png\na,food/class-0/2.png\n")
    index, place = index_set("some", path, folder.parent)
    assert origins(index).to_pylist() == [f"some/{folder}/class-1/1.png", "some/food/class-0/2.png"]
    assert place == folder.parent and index["size"][1].as_py() == (folder / "class-0/2.png").stat().st_size
    assert checksums("some", path) == [sha256_file(folder / "class-1/1.png"), sha256_file(folder / "class-0/2.png")]


def test_checksums__of_a_shard_are_those_of_its_images(folder: Path) -> None:
    files = sorted(folder.rglob("*.png"))
    with tarfile.open(folder.parent / "0.tar", "w") as tar:
        for file in files:
            tar.add(file, file.name)
    expected = sorted(sha256_file(file) for file in files)
    assert sorted(checksums("food", folder)) == sorted(checksums("shard", folder.parent / "0.tar")) == expected


@pytest.mark.parametrize("name", ["food", "food.csv"])
def test_identify_set__sees_a_changed_image(folder: Path, name: str) -> None:
    path = folder.parent / name
    if name == "food.csv":
        path.write_text("path\nfood/class-0/0.png\n")
    before = identify_set(path)
    assert identify_set(path) == before
    picture(9, 20).save(folder / "class-0" / "0.png")
    assert identify_set(path) != before


def test_check_set__reads_no_image(folder: Path) -> None:
    (folder / "class-0" / "0.png").write_bytes(b"")
    check_set("food", folder)
    (folder.parent / "shards").mkdir()
    (folder.parent / "shards" / "0.tar").write_bytes(b"")
    check_set("shards", folder.parent / "shards")  # whether there are images in it, its index tells


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\nx\n", "has no column path; it has label"),
        ("", "has no column path; it has none"),
        ("path\n", "names no image"),
        ("path,label\n,a\n", "line 2 has no path"),
        ("path\nnowhere.png\n", "names 1 files that are not there"),
        (b"path\n\xff.png\n", "is no UTF-8 text"),
    ],
)
def test_check_set__csv_that_is_wrong(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(
        (ValueError, FileNotFoundError), match=rf"^curation\.leakage\.tests: .*a\.csv \('set'\).*{message}"
    ):
        check_set("set", tmp_path / "a.csv")


def test_index_set__known_data_set_is_the_files_of_its_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_trees.save_food_101(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = "food-101:.?split=test&partial=true"
    check_set("food", text)
    index, place = index_set("food", text, tmp_path / "exported")
    assert place == tmp_path / "food-101" and not (tmp_path / "exported").exists()
    assert origins(index).to_pylist() == ["food/images/apple_pie/3.jpg", "food/images/hot_and_sour_soup/6.jpg"]
    assert checksums("food", text) == [sha256_file(place / key) for key in index["key"].to_pylist()]
    before = identify_set(text)
    picture(9, 20).convert("RGB").save(place / "images/apple_pie/1.jpg")  # a training image
    assert identify_set(text) == before
    picture(9, 20).convert("RGB").save(place / "images/apple_pie/3.jpg")
    assert identify_set(text) != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("food-101:/nowhere?split=test", r"/nowhere does not exist; it is to be the folder of Food-101"),
        ("food-101:/nowhere", r"needs a split; write split=train or split=test"),
        ("food101:/nowhere", r"no data set food101.*did you mean food-101"),
        ("torchvision:Food11?root=x", r"torchvision has no data set Food11"),
    ],
)
def test_check_set__data_set_by_name_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=rf"^curation\.leakage\.tests: .*{message}"):
        check_set("food", text)


def test_index_set__images_without_files_are_written_once(tmp_path: Path) -> None:
    text = "torchvision:FakeData?size=3"
    index, shard = index_set("noise", text, tmp_path)
    assert index["key"].to_pylist() == ["00000000", "00000001", "00000002"] and shard.parent == tmp_path
    before = shard.stat().st_mtime_ns
    assert index_set("noise", text, tmp_path)[1] == shard and shard.stat().st_mtime_ns == before
    assert checksums("noise", shard) == checksums("noise", text)


def test_checksums__an_unreadable_image_of_a_table_is_left_out_as_where_it_is_screened(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    buffer = io.BytesIO()
    picture(1, 16).save(buffer, "PNG")
    rows = {"image": [{"bytes": buffer.getvalue(), "path": None}, None], "label": [0, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "saved")
    text = f"hf:{tmp_path / 'saved'}"
    index, _ = index_set("saved", text, tmp_path)
    assert index["key"].to_pylist() == ["00000000"] and len(checksums("saved", text)) == 1


def test_index_set__coco_file_is_the_images_that_it_names(tmp_path: Path) -> None:
    item = save_boxed(tmp_path / "tray")
    images = [tmp_path / "tray" / "images" / name for name in ("4.png", "5.png")]
    check_set("tray", item.test)
    index, place = index_set("tray", item.test, tmp_path)
    assert place == tmp_path / "tray" / "images" and origins(index).to_pylist() == ["tray/4.png", "tray/5.png"]
    assert checksums("tray", item.test) == [sha256_file(path) for path in images]
    before = identify_set(item.test)
    images[1].write_bytes(images[0].read_bytes())
    assert identify_set(item.test) != before
    assert list(named_sets([item.train, item.test])) == ["train.json", "test.json"]
    images[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"^curation\.leakage\.tests: .*1 of its 2 images are not in"):
        check_set("tray", item.test)
