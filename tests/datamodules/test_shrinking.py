import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from datamodules import shrinking
from datamodules.indexing import index_pool
from datamodules.labelled import LIMITS
from datamodules.pretrain import PretrainDataModule
from datamodules.rows import read_rows
from datamodules.shrinking import Shrinking, shrink_image, shrunk
from datamodules.sources import SourceItem, open_source


def encoded(number: int, width: int, height: int, kind: str = "JPEG", **options) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Seven images, large, small and damaged, in a manifest."""
    pool, home = tmp_path / "pool", tmp_path / "dataset"
    pool.mkdir()
    home.mkdir()
    for number in range(5):
        (pool / f"{number}.jpg").write_bytes(encoded(number, 160, 120))
    (pool / "small.png").write_bytes(encoded(7, 48, 40, "PNG"))
    (pool / "zdamaged.jpg").write_bytes(encoded(8, 160, 120)[:900])
    pq.write_table(index_pool(pool), home / "manifest.parquet")
    (home / "roots.json").write_text(json.dumps({"pool": str(pool)}))
    return home / "manifest.parquet"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinking, "SHARD_ROWS", 3)


def sizes_of(rows) -> list[tuple[int, int]]:
    return [Image.open(io.BytesIO(rows.read(row))).size for row in range(len(rows))]


def test_shrink_image__short_side_upright_and_near_the_original() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    data, new = shrink_image(encoded(0, 320, 160, exif=turned, quality=95), Shrinking(80, 95), LIMITS)
    picture = Image.open(io.BytesIO(data))
    assert new and picture.size == (80, 160) and picture.getexif().get(0x0112, 1) == 1
    whole = Image.open(io.BytesIO(encoded(0, 320, 160, quality=95))).rotate(-90, expand=True)
    buffer = io.BytesIO()
    whole.resize((80, 160), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(Image.open(buffer))).mean() < 1


@pytest.mark.parametrize("image", [encoded(1, 120, 80), encoded(1, 80, 500), b"nothing", encoded(1, 400, 300)[:2000]])
def test_shrink_image__small_and_damaged_ones_stay(image: bytes) -> None:
    assert shrink_image(image, Shrinking(80), LIMITS) == (image, False)


def test_shrink_image__pixels_without_a_file() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data, new = shrink_image(pixels, Shrinking(64), LIMITS)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    assert not new and Image.open(io.BytesIO(shrink_image(pixels, Shrinking(20), LIMITS)[0])).size == (25, 20)


@pytest.mark.parametrize("workers", [0, 2])
def test_shrunk__rows_keys_and_record(manifest: Path, workers: int) -> None:
    originals = read_rows(manifest)
    rows = shrunk(originals, str(manifest), manifest.parent, Shrinking(64), LIMITS, workers)
    assert rows.keys().to_pylist() == originals.keys().to_pylist() and rows.fingerprint() != originals.fingerprint()
    assert sizes_of(rows)[:6] == [(85, 64)] * 5 + [(48, 40)]
    assert rows.read(5) == originals.read(5) and rows.read(6) == originals.read(6)
    (folder,) = manifest.parent.glob("short-side-64-*")
    record = json.loads((folder / "short-side.json").read_text())
    assert (record["images"], record["re_encoded"], record["kept"], record["quality"]) == (7, 5, 2, 90)
    assert record["source"] == str(manifest) and record["bytes"] < record["bytes_before"]
    with tarfile.open(folder / "00001.tar") as tar:  # ordinary shards
        assert tar.getnames() == ["000000003.jpg", "000000004.jpg", "000000005.png"]


def test_shrunk__images_that_are_gone_are_told(manifest: Path) -> None:
    originals = read_rows(manifest)
    (manifest.parent.parent / "pool" / "3.jpg").unlink()
    with pytest.warns(UserWarning, match=r"data\.short_side: 1 of 7 images of .* could not be read"):
        rows = shrunk(originals, str(manifest), manifest.parent, Shrinking(64), LIMITS)
    (folder,) = manifest.parent.glob("short-side-64-*")
    record = json.loads((folder / "short-side.json").read_text())
    assert (record["re_encoded"], record["kept"], record["unread"]) == (4, 2, 1) and rows.read(3) == b""


def test_shrunk__goes_on_where_it_was_killed_and_is_made_once(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    originals, read = read_rows(manifest), []
    whole = shrunk(originals, "", manifest.parent / "whole", Shrinking(64), LIMITS)

    def counted(row: int) -> bytes:
        if len(read) == 5:
            raise KeyboardInterrupt
        read.append(row)
        return read_rows(manifest).read(row)

    monkeypatch.setattr(originals, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        shrunk(originals, "", manifest.parent, Shrinking(64), LIMITS)
    read.clear()
    monkeypatch.setattr(originals, "read", lambda row: read.append(row) or read_rows(manifest).read(row))
    rows = shrunk(originals, "", manifest.parent, Shrinking(64), LIMITS)
    assert read == [3, 4, 5, 6] and [rows.read(row) for row in range(7)] == [whole.read(row) for row in range(7)]
    read.clear()
    shrunk(originals, "", manifest.parent, Shrinking(64), LIMITS)
    assert not read
    shrunk(originals, "", manifest.parent, Shrinking(64, 80), LIMITS)  # another quality is another folder
    assert len(read) == 7 and len(list(manifest.parent.glob("short-side-64-*"))) == 2


def test_shrunk__leaves_the_random_state_alone(manifest: Path) -> None:
    torch.manual_seed(0)
    shrunk(read_rows(manifest), "", manifest.parent, Shrinking(64), LIMITS)
    after = torch.rand(())
    torch.manual_seed(0)
    assert torch.rand(()) == after


def test_pretrain__trains_on_the_short_side(manifest: Path, tmp_path: Path) -> None:
    options = {"batch_size": 6, "image_size": 32, "num_workers": 0, "short_side": 64}
    module = PretrainDataModule(str(manifest), **options)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch["views"].shape == (2, 6, 3, 32, 32) and module.rows is not None
    assert module.state_dict()["images"] == module.rows.fingerprint()
    made = [SourceItem(str(manifest), 1), SourceItem("torchvision:FakeData?size=4", 1, True)]
    with pytest.raises(ValueError, match=r"data\.short_side: torchvision:.* has no manifest .*data\.cache_folder"):
        PretrainDataModule(made, **options).setup("fit")
    module = PretrainDataModule(made, **options, cache_folder=str(tmp_path / "cache"))
    module.setup("fit")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert next(iter(module.train_dataloader()))["synthetic"].sum() == 3


class Counter(LightningModule):
    """Counts the images that it is to predict."""

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> int:
        return len(batch["image"])


def test_pretrain__predicts_on_what_one_process_has_written(manifest: Path) -> None:
    written = []

    class Watched(PretrainDataModule):
        def setup(self, stage: str) -> None:
            written.append(len(list(manifest.parent.glob("short-side-64-*"))))
            super().setup(stage)

    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    module = Watched(str(manifest), batch_size=6, image_size=32, num_workers=0, short_side=64)
    assert sum(trainer.predict(Counter(), datamodule=module)) == 6 and written == [1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"short_side": 31}, r"data\.short_side must be at least data\.image_size 32, got 31"),
        ({"short_side_quality": 0}, r"data\.short_side_quality must be between 1 and 100, got 0"),
    ],
)
def test_pretrain__wrong_short_side(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainDataModule("x", image_size=32, **settings)


def test_shrunk__of_pictures_in_memory(tmp_path: Path) -> None:
    rows = shrunk(open_source("torchvision:FakeData?size=4"), "fake", tmp_path, Shrinking(100), LIMITS)
    assert sizes_of(rows) == [(100, 100)] * 4 and rows.keys().to_pylist()[0] == "00000000"
