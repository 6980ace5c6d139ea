import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from datamodules.captions import COLUMNS, CaptionDataModule, CaptionDataset, random_crop

TEMPLATE = "a photo of a {}."


def picture(seed: int, width: int = 60, height: int = 40) -> bytes:
    buffer = io.BytesIO()
    cells = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(cells).resize((width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


class Prepare:
    """An encoder's: resize to a square, skewing."""

    size = 8

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(rgb).resize((8, 8))).transpose(2, 0, 1)


def captions(sources: list[Path], **settings: Any) -> list[str]:
    data = CaptionDataModule([str(path) for path in sources], batch_size=2, template=TEMPLATE, **settings)
    data.setup("fit")
    assert data.table is not None
    return data.table["caption"].to_pylist()


def test_captions__of_shards_folders_and_tables(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "0.tar", {"1.png": picture(1), "1.txt": b"two cats", "2_dog.png": picture(2)})
    folder = write(tmp_path / "folder", {"Red_Panda/1.png": picture(3), "n07747607_orange.png": picture(4)})
    write(folder, {"Red_Panda/2.png": picture(5), "Red_Panda/2.txt": b"one of them"})
    table = write(tmp_path / "table", {"a.png": picture(6), "set.csv": b"path,label\na.png,Ice-Cream_3\n"}) / "set.csv"
    found = captions([shard, folder, table])
    assert found == ["two cats", "a photo of a 2 dog.", "a photo of a red panda.", "one of them",
                     "a photo of a orange.", "a photo of a ice cream."]  # fmt: skip


def test_captions__another_label_column(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": picture(0), "b.png": picture(1), "s.csv": b"path,kind,label\na.png,x,1\nb.png,y,2\n"})
    assert captions([tmp_path / "s.csv"], label_column="kind") == ["a photo of a x.", "a photo of a y."]


def test_captions__failed_downloads_are_no_pairs(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {f"{key}.png": picture(key) for key in range(2)})
    rows = {"key": ["0", "1", "2"], "caption": ["zero", "one", "two"], "status": ["success", "success", "failed"]}
    pq.write_table(pa.table(rows), tmp_path / "0.parquet")
    assert captions([tmp_path]) == ["zero", "one"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"s.csv": b"path,name\na.png,x\n"}, "s.csv has no rows with the column label"),
        ({"s.csv": b"path,label\n"}, "s.csv has no rows"),
        ({"s.csv": b"path,label\nmissing.png,x\n"}, "s.csv names missing.png, which is not in"),
        ({"s.csv": b"path,label\na.png\n", "a.png": picture(0)}, "s.csv line 2 has no label"),
        ({"s.csv": b"path,label\na.png,x\n", "a.png": picture(0)}, "hold 1 image-caption pairs, fewer than"),
    ],
)
def test_captions__wrong_sources_are_named(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    write(tmp_path, files)
    with pytest.raises((ValueError, FileNotFoundError), match="data.sources: ") as error:
        captions([tmp_path / "s.csv"])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "no place"}, "data.template"),
        ({"template": "a {} and {}"}, "data.template"),
        ({"template": "a {} of {kind}"}, "data.template"),
        ({"batch_size": 1}, "data.batch_size"),
        ({"crop_scale": 0.0}, "data.crop_scale"),
        ({"crop_scale": 1.5}, "data.crop_scale"),
    ],
)
def test_captions__wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptionDataModule(["x"], **settings)


def test_captions__no_source_or_none_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.sources is empty"):
        captions([])
    with pytest.raises(FileNotFoundError, match="data.sources: .*nothing does not exist"):
        captions([tmp_path / "nothing"])


def dataset(folder: Path, crop_scale: float = 1.0, seed: int = 0) -> CaptionDataset:
    data = CaptionDataModule([str(folder)], batch_size=2)
    data.setup("fit")
    return CaptionDataset(data.table, {"source-0": folder}, Prepare(), crop_scale, seed)


def test_caption_dataset__pairs_stay_together(tmp_path: Path) -> None:
    write(tmp_path, {f"{number}.png": picture(number) for number in range(5)})
    write(tmp_path, {f"{number}.txt": b"%d" % number for number in range(5)})
    batch = dataset(tmp_path)[[0, 0, 0], [3, 0, 4]]
    assert batch["caption"] == ["3", "0", "4"] and batch["image"].shape == (3, 3, 8, 8)
    expected = [Prepare()(np.asarray(Image.open(tmp_path / f"{number}.png"))) for number in (3, 0, 4)]
    np.testing.assert_array_equal(batch["image"].numpy(), expected)


def test_caption_dataset__an_unreadable_pair_gives_way_to_the_next(tmp_path: Path) -> None:
    files = {"0.png": picture(0), "1.png": b"broken", "2.png": picture(2), "3.png": b""}
    data = dataset(write(tmp_path, files | {f"{number}.txt": b"%d" % number for number in range(4)}))
    assert data[[0] * 4, [0, 1, 2, 3]]["caption"] == ["0", "2", "2", "0"]
    data = dataset(tmp_path)
    (tmp_path / "0.png").unlink()
    assert data[[0], [0]]["caption"] == ["2"]
    (tmp_path / "2.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="data.sources: 4 images in a row cannot be read"):
        data[[0], [0]]


def test_caption_dataset__crops_by_seed_epoch_and_row(tmp_path: Path) -> None:
    write(tmp_path, {f"{number}.png": picture(7) for number in range(2)})

    def image(seed: int = 0, epoch: int = 0, row: int = 0) -> torch.Tensor:
        return dataset(tmp_path, 0.3, seed)[[epoch], [row]]["image"]

    assert (image() == image()).all()
    assert all((image(**other) != image()).any() for other in ({"seed": 1}, {"epoch": 1}, {"row": 1}))


def test_random_crop__shares_and_sides() -> None:
    height, width = 120, 200
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x, y, 0 * x], -1).astype(np.uint8)
    for seed in range(200):
        crop = random_crop(rgb, 100, 0.5, np.random.default_rng(seed)).astype(float)
        across, down = np.ptp(crop[..., 0]) * 100 / 99, np.ptp(crop[..., 1]) * 100 / 99  # sides in pixels, about
        assert 0.45 * height * width < across * down < 1.1 * height * width
        assert 0.7 < across / down < 1.4


@pytest.mark.parametrize(("height", "width"), [(10, 300), (300, 10), (1, 1)])
def test_random_crop__extreme_images_are_cropped_at_the_middle(height: int, width: int) -> None:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[max(0, height // 2 - 1) : height // 2 + 1, max(0, width // 2 - 1) : width // 2 + 1] = 255
    crop = random_crop(rgb, 9, 1.0, np.random.default_rng(0))
    assert crop.shape == (9, 9, 3) and crop[3:6, 3:6].max() > 100


class Seen(LightningModule):
    """Notes the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.prepare = Prepare()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[str]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        assert batch["image"].shape == (2, 3, 8, 8)
        self.seen.append(batch["caption"])
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_captions__train_epochs_in_orders_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, {f"{number}.png": picture(number) for number in range(6)})
    write(tmp_path, {f"{number}.txt": b"%d" % number for number in range(6)})
    data = CaptionDataModule([str(tmp_path)], batch_size=2, num_workers=0)
    module = Seen()
    trainer = Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    epochs = [sum(module.seen[:3], []), sum(module.seen[3:], [])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list("012345") and epochs[0] != epochs[1]
    assert set(COLUMNS) == set(data.table.column_names)
