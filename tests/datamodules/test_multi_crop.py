"""Two large and several small crops of each image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.labelled import LIMITS
from datamodules.multi_crop import LARGE_1, LARGE_2, SMALL, CropSet, MultiCropDataModule, MultiCropDataset
from datamodules.photometry import finish_views
from datamodules.rows import read_rows
from tests.tiny import picture

PLACE = (np.array([0, 0, 1]), np.array([2, 0, 1]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    return tmp_path


def dataset(folder: Path, finished: bool = True, count: int = 3) -> MultiCropDataset:
    crops = CropSet(32, 16, (LARGE_1, LARGE_2, SMALL), count, seed=5)
    return MultiCropDataset(read_rows(folder), crops, LIMITS, finished)


def test_multi_crop__shapes_and_rows(folder: Path) -> None:
    batch = dataset(folder)[PLACE]
    assert batch["views"].shape == (2, 3, 3, 32, 32) and batch["views"].dtype == torch.uint8
    assert batch["small_views"].shape == (3, 3, 3, 16, 16)
    assert batch["index"].tolist() == [2, 0, 1] and not batch["synthetic"].any()
    assert "small_views" not in dataset(folder, count=0)[PLACE]


def test_multi_crop__depends_on_seed_pass_and_row_alone(folder: Path) -> None:
    batch, alone = dataset(folder)[PLACE], dataset(folder)[(PLACE[0][1:2], PLACE[1][1:2])]
    assert torch.equal(batch["views"][:, 1:2], alone["views"])
    assert torch.equal(batch["small_views"][:, 1:2], alone["small_views"])
    crops = batch["small_views"][:, 0]
    assert not torch.equal(crops[0], crops[1]) and not torch.equal(crops[1], crops[2])


def test_multi_crop__the_device_finishes_as_the_worker_does(folder: Path) -> None:
    whole, begun = dataset(folder)[PLACE], dataset(folder, finished=False)[PLACE]
    for prefix in ("", "small_"):
        crops = [begun[f"{prefix}{name}"] for name in ("views", "photometry", "photometry_order")]
        assert not torch.equal(crops[0], whole[f"{prefix}views"])
        difference = finish_views(*crops, 2.0).int() - whole[f"{prefix}views"].int()
        assert difference.abs().max() <= 2 and difference.abs().float().mean() < 0.1


def test_multi_crop__an_unreadable_image_gives_place(folder: Path) -> None:
    (folder / "2.png").write_bytes(b"no image")
    batch = dataset(folder)[PLACE]
    assert batch["index"].tolist() == [3, 0, 1] and batch["replaced"].tolist() == [1]
    assert "2.png" in batch["unreadable"][0]


def test_multi_crop_data__refuses_negative_crops(folder: Path) -> None:
    with pytest.raises(ValueError, match="data.small_crops must be at least 0"):
        MultiCropDataModule(str(folder), 2, small_crops=-1)


def test_multi_crop_data__loads_batches_of_all_sizes(folder: Path) -> None:
    data = MultiCropDataModule(str(folder), 2, 32, small_size=16, small_crops=2, num_workers=0)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 2 and sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == [0, 1, 2, 3]
    assert all(batch["small_views"].shape == (2, 2, 3, 16, 16) for batch in batches)
