from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.classification import LabelledCrops
from datamodules.labelled import LabelledImages, read_labelled

SIZE = 16


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    folder = tmp_path_factory.mktemp("images")
    for number in range(8):
        name = folder / f"class-{number % 2}" / f"{number}.png"
        name.parent.mkdir(exist_ok=True)
        ramp = np.linspace(0, 255, 40).astype(np.uint8)  # dark left, bright right; blue says which image it is
        pixels = np.stack([np.tile(ramp, (30, 1)), np.zeros((30, 40), np.uint8), np.full((30, 40), 20 * number)], 2)
        Image.fromarray(pixels.astype(np.uint8)).save(name)
    return read_labelled(folder)


def batch(crops: LabelledCrops, rows: list[int], epoch: int = 0) -> dict[str, torch.Tensor]:
    return crops[np.full(len(rows), epoch), np.array(rows)]


def test_crops__labels_and_rows_belong_to_the_pixels(images: LabelledImages) -> None:
    made = batch(LabelledCrops(images, SIZE, 0.08, 0), [5, 0, 7])
    assert made["image"].shape == (3, 3, SIZE, SIZE) and made["image"].dtype == torch.uint8
    assert made["index"].tolist() == [5, 0, 7] and made["label"].tolist() == images.labels[[5, 0, 7]].tolist()
    numbers = [int(images.source.describe(row).split("/")[-1][:-4]) for row in (5, 0, 7)]
    assert made["image"][:, 2].float().mean(dim=(1, 2)).tolist() == [20.0 * number for number in numbers]


def test_crops__depend_on_seed_epoch_and_row_alone(images: LabelledImages) -> None:
    crops = LabelledCrops(images, SIZE, 0.08, 3)
    whole = batch(crops, [0, 1, 2, 3], epoch=2)["image"]
    assert torch.equal(whole[2:], batch(LabelledCrops(images, SIZE, 0.08, 3), [2, 3], epoch=2)["image"])
    assert not torch.equal(whole, batch(crops, [0, 1, 2, 3], epoch=1)["image"])
    assert not torch.equal(whole, batch(LabelledCrops(images, SIZE, 0.08, 4), [0, 1, 2, 3], epoch=2)["image"])


def test_crops__are_mirrored_half_of_the_time_and_keep_their_colours(images: LabelledImages) -> None:
    crops = LabelledCrops(images, SIZE, 0.08, 0)
    red = torch.stack([batch(crops, [0], epoch)["image"][0, 0].float() for epoch in range(200)])
    mirrored = (red[..., 0] > red[..., -1]).all(dim=1)
    assert 0.4 < mirrored.float().mean() < 0.6
    rising = torch.where(mirrored[:, None, None], red.flip(-1), red)
    assert (rising.diff(dim=-1) >= 0).all()
    spans = (rising[:, 0, -1] - rising[:, 0, 0]) / 255  # of the width, by the ramp
    assert spans.min() < 0.4 < 0.8 < spans.max()


def test_crops__an_unreadable_image_is_named(images: LabelledImages, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "page.jpg").write_bytes(b"<!doctype html>")
    with pytest.raises(ValueError, match=r"evaluation image .*a/page\.jpg cannot be used .*repair or remove it"):
        batch(LabelledCrops(read_labelled(tmp_path), SIZE, 0.08, 0), [0])
