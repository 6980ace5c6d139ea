from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from datamodules import two_views
from datamodules.decoding import RefusedImage
from datamodules.image_source import ImageSource, JoinedSources
from datamodules.labelled import LIMITS
from datamodules.pretrain import PretrainDataModule
from datamodules.rows import read_rows
from datamodules.two_views import TwoViewDataset
from datamodules.views import VIEW_1, VIEW_2, ViewPair

COUNT, SIZE = 12, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        small = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((80, 60), Image.Resampling.BICUBIC).save(path / f"{number:02d}.jpg", quality=95)
    return path


def dataset(source: ImageSource, **options: bool) -> TwoViewDataset:
    return TwoViewDataset(source, ViewPair(SIZE, (VIEW_1, VIEW_2), 5), LIMITS, **options)


class Keeper(LightningModule):
    """Keeps what the training steps get."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.batches: list[dict[str, torch.Tensor]] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.batches.append(batch)
        return self.weight * batch["views"].float().mean()

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        raise AssertionError("there is nothing to validate on")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trained_on(folder: Path, photometry: str, accelerator: str = "cpu") -> list[dict[str, torch.Tensor]]:
    data = PretrainDataModule(str(folder), 4, SIZE, num_workers=0, seed=5, photometry=photometry)
    module = Keeper()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator=accelerator, devices=1, enable_model_summary=False, **options)
    trainer.fit(module, datamodule=data)
    return module.batches


def assert_same_views(first: list[dict[str, torch.Tensor]], second: list[dict[str, torch.Tensor]]) -> None:
    assert len(first) == len(second) == COUNT // 4
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys() == {"views", "index", "synthetic", "replaced"}
        assert one["index"].tolist() == other["index"].tolist()
        assert one["views"].dtype == other["views"].dtype == torch.uint8
        apart = (one["views"].cpu().int() - other["views"].cpu().int()).abs()
        assert apart.float().mean() < 0.02 and (apart <= 2).float().mean() > 0.999


def test_photometry__device_gives_the_worker_s_views(folder: Path) -> None:
    worker = trained_on(folder, "worker")
    assert_same_views(worker, trained_on(folder, "device"))
    automatic = trained_on(folder, "auto")  # without a GPU the worker's
    assert all((a["views"] == b["views"]).all() for a, b in zip(worker, automatic, strict=True))


@pytest.mark.gpu
def test_photometry__automatic_on_a_gpu(folder: Path) -> None:
    on_gpu = trained_on(folder, "auto", "cuda")
    assert on_gpu[0]["views"].is_cuda
    assert_same_views(trained_on(folder, "worker"), on_gpu)


def test_dataset__crops_carry_what_is_left_to_do(folder: Path) -> None:
    batch = dataset(read_rows(folder), finished=False)[np.zeros(4, int), np.arange(4)]
    assert batch["photometry"].shape == (2, 4, 7) and batch["photometry_order"].shape == (2, 4, 4)
    pair = ViewPair(SIZE, (VIEW_1, VIEW_2), 5)
    view = pair.draw(60, 80, 0, 3)[1]
    np.testing.assert_array_equal(batch["photometry"][1, 3], view.photometry())
    assert batch["photometry_order"][1, 3].tolist() == view.changes().tolist()


def test_dataset__unreadable_image_gives_place_and_changes_no_other(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: len(data) // 2] if path.name == "03.jpg" else data)
    place = np.zeros(6, int), np.arange(6)
    whole, damaged = dataset(read_rows(folder))[place], dataset(read_rows(tmp_path))[place]
    assert damaged["index"].tolist() == [0, 1, 2, 4, 4, 5] and damaged["replaced"].item() == 1
    assert "03.jpg: truncated" in damaged["unreadable"][0]
    others = [0, 1, 2, 4, 5]
    assert (whole["views"][:, others] == damaged["views"][:, others]).all()
    assert (damaged["views"][:, 3] != damaged["views"][:, 4]).any()  # the same image, but drawn for row 3


class Damaged(ImageSource):
    """Grey images; those of `bad` cannot be read, those of `made` are generated."""

    def __init__(self, count: int, bad: set[int], made: set[int]) -> None:
        self.count, self.bad, self.made = count, bad, made

    def __len__(self) -> int:
        return self.count

    def read(self, row: int) -> np.ndarray:
        if row in self.bad:
            raise RefusedImage("truncated")
        return np.full((40, 40, 3), row, np.uint8)

    def describe(self, row: int) -> str:
        return f"image {row}"

    def synthetic(self) -> np.ndarray:
        return np.isin(np.arange(self.count), list(self.made))


def test_dataset__unreadable_image_gives_place_to_one_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_views, "STRETCH", 2)
    parts = Damaged(6, bad={1, 5}, made={2, 3}), Damaged(3, bad={0, 2}, made=set())
    shown = dataset(JoinedSources(parts))[np.zeros(9, int), np.arange(9)]
    assert shown["index"].tolist() == [0, 4, 2, 3, 4, 0, 7, 7, 7] and shown["replaced"].item() == 4
    assert shown["synthetic"].sum() == 2
    only = Damaged(6, bad={2, 3}, made={2, 3})
    with pytest.raises(ValueError, match=r"data\.source: 2 images in a row cannot be read, the last .*truncated"):
        dataset(only)[np.zeros(1, int), np.array([3])]


def test_dataset__reduced_images_give_nearly_the_same_views(tmp_path: Path) -> None:
    for number in range(6):
        small = np.random.default_rng(number).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        large = Image.fromarray(small).resize((561, 401), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = number + 1
        large.save(tmp_path / f"{number}.jpg", quality=95, exif=exif)
    plain = replace(VIEW_1, jitter=0, grey=0, blur=0)
    sets = [
        TwoViewDataset(read_rows(tmp_path), ViewPair(SIZE, (plain, plain), 5), LIMITS, reduced=reduced)
        for reduced in (False, True)
    ]
    whole, reduced = (each[np.zeros(6, int), np.arange(6)]["views"].int() for each in sets)
    assert 0 < (whole - reduced).abs().float().mean() < 1


def test_dataset__workers_hand_over_the_same_batches(folder: Path) -> None:
    def batches(workers: int) -> list[dict[str, torch.Tensor]]:
        data = PretrainDataModule(str(folder), 4, SIZE, num_workers=workers, seed=5, photometry="device")
        data.setup("fit")
        return list(data.train_dataloader())

    plain, shared = batches(0), batches(1)
    assert len(plain) == len(shared) == COUNT // 4
    for one, other in zip(plain, shared, strict=True):
        assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)
