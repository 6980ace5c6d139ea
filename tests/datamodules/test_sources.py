import builtins
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.labelled import LIMITS
from datamodules.pretrain import PretrainDataModule
from datamodules.sources import SourceItem, check_sources, open_source, open_sources, placed, source_items
from tests.datamodules.datasets import small_trees


def save_images(folder: Path, count: int, first: int = 0, ending: str = "png") -> Path:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        noise = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.{ending}")
    return folder


def batch_of(source, **settings) -> dict:
    module = PretrainDataModule(source, **{"batch_size": 4, "image_size": 16, "num_workers": 0, **settings})
    module.setup("fit")
    return next(iter(module.train_dataloader()))


def test_torchvision__files_are_read_undecoded(tmp_path: Path) -> None:
    save_images(tmp_path / "cat", 3, ending="jpg")
    save_images(tmp_path / "dog", 2, first=3, ending="jpg")
    source = pickle.loads(pickle.dumps(open_source(f"torchvision:ImageFolder?root={tmp_path}")))
    assert len(source) == 5 and source.read(3) == (tmp_path / "dog" / "3.jpg").read_bytes()
    assert source.describe(0) == str(tmp_path / "cat" / "0.jpg") and not source.synthetic().any()
    assert source.fingerprint() == open_source(f"torchvision:ImageFolder?root={tmp_path}").fingerprint()
    batch = batch_of(f"torchvision:ImageFolder?root={tmp_path}", num_workers=1)
    assert batch["views"].shape == (2, 4, 3, 16, 16) and batch["replaced"].item() == 0


def test_torchvision__pictures_become_pixels() -> None:
    source = open_source("torchvision:FakeData?size=6")
    assert len(source) == 6 and source.pixels(2, LIMITS).shape == (224, 224, 3)
    assert batch_of("torchvision:FakeData?size=6")["index"].max() < 6


def test_torchvision__damaged_images_of_a_class_that_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    class Eager(datasets.VisionDataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, row: int) -> tuple[Image.Image, int]:
            if row == 2:
                raise SyntaxError("broken PNG file")  # Pillow's word for it
            return Image.open(io.BytesIO(b"no image" if row == 0 else image)).convert("RGB"), 0

    image = (save_images(tmp_path / "one", 1) / "0.png").read_bytes()
    monkeypatch.setattr(datasets, "Eager", Eager, raising=False)
    batch = batch_of("torchvision:Eager?root=.")
    assert sorted(batch["index"].tolist()) == [1, 1, 3, 3] and batch["replaced"].item() == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:ImageFoldr?root=.", r"torchvision has no data set ImageFoldr; did you mean .*ImageFolder"),
        ("torchvision:CIFAR10?root=.&splt=train", r"CIFAR10 has no splt; it takes root, train"),
        ("torchvision:CIFAR10?root=.&train=no", r"data\.source: .*: train must be true or false, got no"),
        ("torchvision:STL10?root=/nowhere&split=dev", r"STL10.*'?dev'?.*train"),
        ("torchvision:CIFAR10?root=/nowhere", r"data\.source: torchvision:CIFAR10\?root=/nowhere: Dataset not found"),
        ("torchvision:CIFAR10?root", r"root is no KEY=VALUE"),
        ("hf:x?spit=train", r"no option spit; there are split, column, label, config"),
        ("wds:/data", r"data\.source: wds:/data: no data set wds, and no such path; there are food-101, .*torchvision"),
        ("/nowhere", r"data\.source: /nowhere does not exist; give a manifest\.parquet, .*torchvision:CLASS"),
        ([], r"data\.source is empty"),
        ("", r"data\.source is empty"),
        (None, r"data\.source is missing"),
        ([SourceItem("a", 1.0), SourceItem("b", 0.0)], r"the weight of b must be above 0, got 0\.0"),
        ([SourceItem("a", -1.0)], r"the weight of a must be above 0, got -1\.0"),
        ([SourceItem("a", 1.0), "b"], r"b has no weight, but others have; give every data set one, or none"),
    ],
)
def test_open_sources__what_is_wrong_is_said(source, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_sources(source)


@pytest.mark.parametrize("source", ["/nowhere", ["torchvision:CIFAR?root=x"], "hf:x?spit=1", []])
def test_check_sources__before_anything_is_read(source) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=r"data\.source"):
        check_sources(source)
    check_sources(["torchvision:CIFAR10?root=/nowhere", "hf:unknown/name", "/"])


def test_open_sources__several_as_one(tmp_path: Path) -> None:
    one, two = save_images(tmp_path / "one", 3), save_images(tmp_path / "two", 4)
    joined = open_sources([str(one), SourceItem(str(two), synthetic=True)])
    assert len(joined) == 7 and joined.synthetic().tolist() == [False] * 3 + [True] * 4
    assert joined.read(3) == (two / "0.png").read_bytes()
    batch = batch_of([str(one), SourceItem(str(two), synthetic=True)], batch_size=7)
    assert batch["synthetic"].sum() == 4 and sorted(batch["index"].tolist()) == list(range(7))


def test_placed__workspace_paths_are_made_real() -> None:
    assert placed("workspace:pool", Path("/w")) == "/w/pool" and placed("hf:x?split=a", Path("/w")) == "hf:x?split=a"
    items = placed(["workspace:a", SourceItem("b", synthetic=True)], Path("/w"))
    assert items == [SourceItem("/w/a"), SourceItem("b", synthetic=True)] and source_items(items) == items


def test_hugging_face__without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"hf:food101 needs Hugging Face's library; run `pip install datasets`"):
        open_source("hf:food101")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A data set with two columns of images, a label and one missing picture, saved in two splits."""
    datasets = pytest.importorskip("datasets")

    def encoded(number: int) -> bytes:
        buffer = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "JPEG")
        return buffer.getvalue()

    images = [{"bytes": encoded(number), "path": f"{number}.jpg"} for number in range(5)] + [None]
    columns = {"image": images, "thumbnail": images, "label": list(range(6))}
    kinds = {"image": datasets.Image(), "thumbnail": datasets.Image(), "label": datasets.Value("int64")}
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    datasets.DatasetDict({"train": rows, "test": rows.select(range(4))}).save_to_disk(tmp_path / "set")
    return tmp_path / "set"


def test_hugging_face__saved_folder(saved: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(f"hf:{saved}?column=image")))
    image = source.read(1)
    assert len(source) == 6 and isinstance(image, bytes) and image.startswith(b"\xff\xd8")
    assert source.describe(1).endswith("(1.jpg)") and len(open_source(f"hf:{saved}?split=test&column=image")) == 4
    batch = batch_of(f"hf:{saved}?column=image", batch_size=6, num_workers=1)
    assert batch["replaced"].item() == 1 and "image 5 of hf:" in batch["unreadable"][0]


def test_hugging_face__wrong_split_and_column(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"no split valid; it has train, test"):
        open_source(f"hf:{saved}?split=valid&column=image")
    with pytest.raises(ValueError, match=r"has no column imag; did you mean image\? Give column=NAME of image, thumb"):
        open_source(f"hf:{saved}?column=imag")
    with pytest.raises(ValueError, match=r"has not one column of images alone"):
        open_source(f"hf:{saved}")
    with pytest.raises(ValueError, match=r"the column label holds no images; those that do: image, thumbnail"):
        open_source(f"hf:{saved}?column=label")


def test_hugging_face__folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    save_images(tmp_path / "set" / "train", 3)
    source = open_source(f"hf:{tmp_path / 'set'}?split=train[:2]")
    assert len(source) == 2 and source.read(0) == (tmp_path / "set" / "train" / "0.png").read_bytes()
    with pytest.raises(ValueError, match=r"data\.source: hf:.*split=dev: .*dev"):
        open_source(f"hf:{tmp_path / 'set'}?split=dev")


def test_known_set__its_training_images_by_name(tmp_path: Path) -> None:
    small_trees.save_food_101(tmp_path)
    text = f"food-101:{tmp_path}?partial=true"
    check_sources(text)
    source = pickle.loads(pickle.dumps(open_source(text)))
    assert source.keys().to_pylist()[0] == "images/apple_pie/1.jpg" and len(source) == 4
    assert len(open_source(f"{text}&split=test")) == 2
    assert batch_of(text)["views"].shape == (2, 4, 3, 16, 16)
    with pytest.raises(ValueError, match=r"^data\.source: food-101:.* has no split dev; write split=train"):
        check_sources(f"{text}&split=dev")
    with pytest.raises(FileNotFoundError, match=r"^data\.source: .*/no does not exist; it is to be the folder of Food"):
        check_sources(f"food-101:{tmp_path}/no")


def test_csv__the_images_of_its_paths(tmp_path: Path) -> None:
    save_images(tmp_path / "a", 3)
    (tmp_path / "some.csv").write_text("label,path\nx,a/2.png\ny,a/0.png\n")
    source = open_source(str(tmp_path / "some.csv"))
    assert source.keys().to_pylist() == ["a/2.png", "a/0.png"] and source.describe(0) == str(tmp_path / "a/2.png")
    (tmp_path / "some.csv").write_text("path\na/2.png\na/7.png\n")
    with pytest.raises(
        FileNotFoundError, match=r"^data\.source: .*some\.csv names 1 files that are not there, such as"
    ):
        open_source(str(tmp_path / "some.csv"))


def test_coco_file__is_its_images(tmp_path: Path) -> None:
    save_images(tmp_path / "images", 4)
    entries = {"images": [{"id": n, "file_name": f"{n}.png"} for n in range(3)], "annotations": [],
               "categories": [{"id": 1, "name": "cup"}]}  # fmt: skip
    (tmp_path / "tray.json").write_text(json.dumps(entries))
    text = f"{tmp_path / 'tray.json'}?images={tmp_path / 'images'}"
    check_sources(text)
    source = open_source(text)
    assert len(source) == 3 and source.read(2) == (tmp_path / "images" / "2.png").read_bytes()
    assert placed("workspace:a.json?images=workspace:b", tmp_path) == f"{tmp_path / 'a.json'}?images={tmp_path / 'b'}"
    with pytest.raises(FileNotFoundError, match=r"^data\.source: .*gone\.json does not exist"):
        check_sources(str(tmp_path / "gone.json"))
