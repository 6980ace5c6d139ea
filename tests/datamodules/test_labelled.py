import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.labelled import ImageFiles, LabelledDataset, LabelledImages, centre_crop, read_labelled, shared_images
from tests.datamodules.datasets import small_trees


def save(path: Path, seed: int = 0, width: int = 60, height: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def names(images: LabelledImages, folder: Path) -> list[tuple[str, str]]:
    return [
        (path.relative_to(folder).as_posix(), images.classes[label])
        for path, label in zip(images.paths, images.labels, strict=True)
    ]


def test_read_labelled__class_folders(tmp_path: Path) -> None:
    for name in ("dog/2.png", "dog/deep/1.PNG", "cat/1.jpg", "stray.png", ".hidden/1.png", "cat/._1.jpg", "none/a.txt"):
        save(tmp_path / name) if not name.endswith("txt") else (tmp_path / "none").mkdir()
    (tmp_path / "dog" / "odd.png").mkdir()
    images = read_labelled(tmp_path)
    assert images.classes == ["cat", "dog"] and images.labels.dtype == np.int64
    assert names(images, tmp_path) == [("cat/1.jpg", "cat"), ("dog/2.png", "dog"), ("dog/deep/1.PNG", "dog")]


def test_read_labelled__csv(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("\ufeffpath,label,more\nb/1.png,dog,1\na.png,cat,2\n\nb/2.png,dog,3\n")
    images = read_labelled(tmp_path / "set.csv")
    assert names(images, tmp_path) == [("b/1.png", "dog"), ("a.png", "cat"), ("b/2.png", "dog")]
    (tmp_path / "other.csv").write_text("file,species\na.png,7\n")
    images = read_labelled(tmp_path / "other.csv", path_column="file", label_column="species")
    assert names(images, tmp_path) == [("a.png", "7")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\na.png,1\n", "has no column label; it has path, class"),
        ("", "has no column label and path"),
        ("path,label\n", "holds no labelled image"),
        ("path,label\na.png,cat\nb.png\n", "line 3 has no label"),
        ("path,label\n,cat\n", "line 2 has no path"),
    ],
)
def test_read_labelled__wrong_csv_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "set.csv").write_text(text)
    with pytest.raises(ValueError, match="data.knn_bank: .*set.csv") as error:
        read_labelled(tmp_path / "set.csv", "data.knn_bank")
    assert message in str(error.value)


def test_read_labelled__nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="evaluation.datasets: .*nothing does not exist"):
        read_labelled(tmp_path / "nothing")
    save(tmp_path / "no-class.png")
    with pytest.raises(ValueError, match="holds no labelled image"):
        read_labelled(tmp_path)


def test_aligned__labels_counted_in_the_other_classes() -> None:
    images = LabelledImages(ImageFiles([Path("a"), Path("b"), Path("c")]), np.array([1, 0, 1]), ["cat", "dog"])
    moved = images.aligned(["ant", "dog", "cat"])
    assert moved.labels.tolist() == [1, 2, 1] and moved.labels.dtype == np.int64
    assert moved.classes == ["ant", "dog", "cat"]
    with pytest.raises(ValueError, match="the query images have classes that the training images lack: cat"):
        images.aligned(["dog"], "query")


def test_labelled_dataset__items(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", 1)
    save(tmp_path / "b" / "tiny.png", 2, 3, 100)  # evaluation sets are taken as they are
    dataset = LabelledDataset(read_labelled(tmp_path), 16)
    items = [dataset[index] for index in range(len(dataset))]
    assert [(item["label"], item["index"]) for item in items] == [(0, 0), (1, 1)]
    assert {(item["image"].shape, item["image"].dtype) for item in items} == {((3, 16, 16), np.dtype(np.uint8))}


def test_labelled_dataset__an_unreadable_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a" / "1.png")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"1\.png cannot be used \(truncated"):
        LabelledDataset(read_labelled(tmp_path), 16)[0]


@pytest.mark.parametrize("size", [16, 28, 224])
@pytest.mark.parametrize(
    ("width", "height"),
    [(60, 40), (40, 61), (64, 64), (17, 300), (20, 20), (301, 203), (333, 250), (10, 160), (9, 190)],
)
def test_centre_crop__as_torchvision(width: int, height: int, size: int) -> None:
    from torchvision.transforms import v2

    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = v2.CenterCrop(size)(v2.Resize(round(size * 256 / 224))(Image.fromarray(pixels)))
    found = centre_crop(pixels, size)
    assert found.shape == (3, size, size) and found.flags.c_contiguous
    np.testing.assert_array_equal(found.transpose(1, 2, 0), np.asarray(expected))


def test_centre_crop__a_strip_of_pixels_costs_nothing() -> None:
    strip = np.zeros((1, 400_000, 3), np.uint8)
    strip[:, 200_000:] = 255
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = centre_crop(strip, 224)
    assert found[:, :, :100].max() < 120 and found[:, :, 124:].min() > 135
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_centre_crop__square_keeps_everything() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 40:] = 255
    found = centre_crop(pixels, 20, square=True)
    assert (found[:, :, :8] == 0).all() and (found[:, :, 12:] == 255).all()


def test_read_labelled__known_set_by_name(tmp_path: Path) -> None:
    small_trees.save_food_101(tmp_path)
    images = read_labelled(f"food-101:{tmp_path}?split=test&partial=true")
    assert names(images, tmp_path / "food-101") == [
        ("images/apple_pie/3.jpg", "apple pie"), ("images/hot_and_sour_soup/6.jpg", "hot and sour soup"),
    ]  # fmt: skip
    assert LabelledDataset(images, 16)[1]["label"] == 1


def test_read_labelled__torchvision(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/2.png", "dog/3.png"):
        save(tmp_path / name)
    images = read_labelled(f"torchvision:ImageFolder?root={tmp_path}", "data.knn_bank")
    assert images.classes == ["cat", "dog"] and images.labels.tolist() == [0, 0, 1] and images.paths == []
    assert LabelledDataset(images, 16)[2]["image"].shape == (3, 16, 16)
    numbers = read_labelled("torchvision:FakeData?size=9&num_classes=3")  # knows no names, and no list of its labels
    assert set(numbers.classes) <= {"0", "1", "2"} and len(numbers) == 9
    with pytest.raises(
        ValueError, match=r"^data\.knn_bank: torchvision has no|^data\.knn_bank: torchvision:ImageFoldr"
    ):
        read_labelled("torchvision:ImageFoldr?root=.", "data.knn_bank")


def test_read_labelled__hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    image = {"bytes": save(tmp_path / "one.png").read_bytes(), "path": None}
    columns = {"image": [image] * 3, "label": [1, 0, 1], "kind": ["b", "a", "b"], "share": [0.1, 0.2, 0.3],
               "hidden": [-1, 0, 1]}  # fmt: skip
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "ant"]),
             "kind": datasets.Value("string"), "share": datasets.Value("float32"),
             "hidden": datasets.Value("int64")}  # fmt: skip
    datasets.Dataset.from_dict(columns, features=datasets.Features(kinds)).save_to_disk(tmp_path / "set")
    images = read_labelled(f"hf:{tmp_path}/set")
    assert images.classes == ["cat", "dog"] and images.labels.tolist() == [1, 0, 1] and images.paths == []
    texts = read_labelled(f"hf:{tmp_path}/set?label=kind")
    assert texts.classes == ["a", "b"] and texts.labels.tolist() == [1, 0, 1]
    for option, message in (("lable", "has no column lable; give label=NAME of label"), ("share", "holds float"),
                            ("hidden", "1 of 3 images have no label, such as image 0")):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^evaluation\.datasets: hf:.*{message}"):
            read_labelled(f"hf:{tmp_path}/set?label={option}")


def test_read_labelled__torchvision_s_edited_files_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    paths = [tmp_path / "class" / f"{number:03d}.png" for number in range(70)]
    for path in paths:
        Image.new("RGB", (4, 4)).save(path)

    def fingerprint() -> str:
        return read_labelled(f"torchvision:ImageFolder?root={tmp_path}").fingerprint()

    before, changed = fingerprint(), set()
    for path in paths:  # whichever it is
        os.utime(path, (1, 1))
        changed.add(fingerprint())
    assert len(changed) == 70 and before not in changed


def test_image_files__fingerprint_does_not_depend_on_the_place(tmp_path: Path) -> None:
    import shutil

    save(tmp_path / "a" / "cat" / "1.png")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, other = read_labelled(tmp_path / "a"), read_labelled(tmp_path / "b")
    assert one.fingerprint() == other.fingerprint() and one.paths != other.paths
    save(tmp_path / "b" / "cat" / "1.png", 1)
    assert other.fingerprint() == one.fingerprint()  # of the images as they were read
    assert read_labelled(tmp_path / "b").fingerprint() != one.fingerprint()


def test_shared_images__of_sources_without_files(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / "train" / "cat" / f"{number}.png", number)
    for number in (2, 3, 9):
        save(tmp_path / "test" / "cat" / f"{number}.png", number)
    (tmp_path / "test" / "cat" / "gone.png").symlink_to("nowhere")
    folders = [read_labelled(tmp_path / name) for name in ("train", "test")]
    assert shared_images(*folders) == 2
    rows = [read_labelled(f"torchvision:ImageFolder?root={tmp_path / name}") for name in ("train", "test")]
    assert shared_images(*rows) == shared_images(folders[0], rows[1]) == 2
    noise = [read_labelled(f"torchvision:FakeData?size={size}") for size in (3, 5)]
    assert shared_images(*noise) == 3 and shared_images(noise[0], folders[1]) == 0
