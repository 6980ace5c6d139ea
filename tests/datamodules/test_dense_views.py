from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from datamodules.dense import IGNORED, BoxedImages, MaskedImages
from datamodules.dense_views import BoxedViews, MaskedCrops, WholeImages, dense_loader, distorted, fitted, whole_loader
from datamodules.labelled import ImageFiles

CLASSES = ["cloth", "disc", "square"]
COLOURS = np.array([[30, 30, 30], [220, 30, 30], [30, 220, 30]], np.uint8)
HEIGHT, WIDTH = 60, 90


def scene(number: int) -> np.ndarray:
    """Classes of a picture: a disc at the left, a square at the right, elsewhere with every number."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    mask[(y - 25 - number) ** 2 + (x - 25) ** 2 < 200] = 1
    mask[10 + number : 40 + number, 55:80] = 2
    return mask


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> MaskedImages:
    folder = tmp_path_factory.mktemp("masked")
    for number in range(6):
        Image.fromarray(COLOURS[scene(number)]).save(folder / f"{number}.jpg", quality=98, subsampling=0)
        Image.fromarray(scene(number)).save(folder / f"{number}.png")
    images = ImageFiles([f"{number}.jpg" for number in range(6)], folder)
    return MaskedImages(images, [folder / f"{number}.png" for number in range(6)], CLASSES)


@pytest.fixture(scope="module")
def boxed(masked: MaskedImages) -> BoxedImages:
    boxes = [np.array([[55, 10 + number, 80, 40 + number, 1]], np.float32) for number in range(5)]
    return BoxedImages(masked.source, [*boxes, np.zeros((0, 5), np.float32)], ["disc", "square"])


def batch(views: MaskedCrops | BoxedViews, rows: list[int], epoch: int = 0) -> dict[str, torch.Tensor]:
    return views[np.full(len(rows), epoch), np.array(rows)]


def agreeing(image: torch.Tensor, mask: torch.Tensor) -> float:
    """The share of pixels whose colour is that of their class."""
    seen = image.permute(0, 2, 3, 1).long()
    nearest = (seen[..., None, :] - torch.from_numpy(COLOURS).long()).abs().sum(-1).argmin(-1)
    counted = mask != IGNORED
    return float((nearest == mask)[counted].float().mean())


def test_crops__image_and_mask_stay_together(masked: MaskedImages) -> None:
    for epoch in range(12):
        made = batch(MaskedCrops(masked, 40, 0, photometry=False), [0, 3, 5], epoch)
        assert made["image"].shape == (3, 3, 40, 40) and made["mask"].shape == (3, 40, 40)
        assert made["image"].dtype == made["mask"].dtype == torch.uint8 and made["index"].tolist() == [0, 3, 5]
        assert agreeing(made["image"], made["mask"]) > 0.97


def test_crops__depend_on_seed_epoch_and_row_alone(masked: MaskedImages) -> None:
    whole = batch(MaskedCrops(masked, 32, 3), [0, 1, 2, 3], epoch=2)
    part = batch(MaskedCrops(masked, 32, 3), [2, 3], epoch=2)
    assert torch.equal(whole["image"][2:], part["image"]) and torch.equal(whole["mask"][2:], part["mask"])
    assert not torch.equal(whole["image"], batch(MaskedCrops(masked, 32, 3), [0, 1, 2, 3], epoch=1)["image"])
    assert not torch.equal(whole["image"], batch(MaskedCrops(masked, 32, 4), [0, 1, 2, 3], epoch=2)["image"])


def test_crops__what_lies_beside_the_image_counts_nowhere(masked: MaskedImages) -> None:
    made = batch(MaskedCrops(masked, 40, 0, scale=(0.5, 0.5), photometry=False, fill=(1, 2, 3)), [0])
    assert (made["mask"][0, 20:] == IGNORED).all() and (made["mask"][0, :, 30:] == IGNORED).all()
    assert (made["image"][0, :, 20:] == torch.tensor([1, 2, 3])[:, None, None]).all()
    assert (made["mask"][0, :20, :30] != IGNORED).all()


def test_crops__a_part_is_that_of_the_whole_resized_image(masked: MaskedImages) -> None:
    crops = MaskedCrops(masked, 48, 0, scale=(1.5, 1.5), category_max=1.0, photometry=False)
    crops_of_72 = [crops.crop(epoch, 0)[0] for epoch in range(8)]
    whole = np.asarray(Image.open(masked.paths[0]).resize((108, 72), Image.Resampling.BILINEAR)).astype(int)
    for made in crops_of_72:
        places = [
            (turned[y : y + 48, x : x + 48] - made).__abs__().max()
            for turned in (whole, whole[:, ::-1]) for y in range(25) for x in range(61)
        ]  # fmt: skip
        assert min(places) <= 1


def test_crops__are_mirrored_half_of_the_time_at_scales_of_the_range(masked: MaskedImages) -> None:
    crops = MaskedCrops(masked, 200, 0, photometry=False)
    made = [crops.crop(epoch, 0)[1] for epoch in range(120)]
    square = [np.argwhere(mask == 2)[:, 1].mean() / mask.shape[1] for mask in made if mask.shape[1] < 200]
    assert 0.3 < np.mean([place < 0.5 for place in square]) < 0.7
    heights = [mask.shape[0] for mask in made]
    assert min(heights) < 110 and max(heights) == 200


def test_crops__a_class_with_too_large_a_share_is_tried_again(masked: MaskedImages) -> None:
    def share(category_max: float) -> float:
        crops = MaskedCrops(masked, 24, 0, scale=(4.0, 4.0), category_max=category_max, photometry=False)
        shares = [np.bincount(crops.crop(epoch, 0)[1].ravel()).max() / 576 for epoch in range(60)]
        return float(np.mean([one >= 0.75 for one in shares]))

    assert share(0.75) < 0.1 < 0.4 < share(1.0)


def test_crops__at_the_least_and_largest_number_lie_inside() -> None:
    for u in (0.0, 1 - 2**-53):
        image = distorted(Image.new("RGB", (4, 4), (250, 3, 128)), np.full(9, u))
        assert np.asarray(image).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [(1, 1 - 2**-53, (232, 42, 131)), (1, 0.0, (168, 0, 67)), (3, 0.0, (100, 5, 49)), (3, 1 - 2**-53, (255, 15, 148))],
)
def test_distorted__changes_brightness_and_contrast_by_at_most_their_strength(
    place: int, value: float, expected: tuple[int, int, int]
) -> None:
    numbers = np.full(9, 0.9)
    numbers[place - 1], numbers[place] = 0.1, value
    changed = np.asarray(distorted(Image.new("RGB", (1, 1), (200, 10, 99)), numbers))[0, 0]
    assert np.abs(changed.astype(int) - expected).max() <= 1


def test_distorted__shifts_the_hue_and_changes_the_saturation() -> None:
    red = Image.new("RGB", (1, 1), (200, 20, 20))
    numbers = np.full(9, 0.9)
    assert np.array_equal(np.asarray(distorted(red, numbers)), np.asarray(red))
    numbers[6:8] = 0.1, 1 - 2**-53  # by 36 degrees, to orange
    orange = np.asarray(distorted(red, numbers))[0, 0].astype(int)
    assert np.abs(orange - [200, 128, 20]).max() <= 4
    numbers[4:8] = 0.1, 0.0, 0.9, 0.9  # to half
    assert np.abs(np.asarray(distorted(red, numbers))[0, 0].astype(int) - [200, 110, 110]).max() <= 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 200), (80, 160)), ((200, 100), (160, 80)), ((100, 900), (22, 200)), ((1, 999), (1, 200))],
)
def test_fitted__short_side_unless_the_long_one_is_longer(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted(size, 80, 200) == expected


def test_boxed_views__boxes_stay_on_what_they_are_around(boxed: BoxedImages) -> None:
    sides = set()
    for epoch in range(8):
        made = batch(BoxedViews(boxed, (80, 200)), [0, 4], epoch)
        for image, boxes, label in zip(made["image"], made["boxes"], made["label"], strict=True):
            assert image.shape == (3, 80, 120) and image.dtype == torch.uint8 and image.is_contiguous()
            assert boxes.dtype == torch.float32 and label.tolist() == [1] and label.dtype == torch.int64
            left, top, right, bottom = boxes[0].round().int().tolist()
            green = (image[1].int() > 125) & (image[0] < 125)
            rows, columns = torch.where(green)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert max(abs(int(a) - b) for a, b in zip(edges, (left, top, right, bottom), strict=True)) <= 2
            sides.add(left > 60)
    assert sides == {True, False}


def test_boxed_views__images_without_boxes_stay(boxed: BoxedImages) -> None:
    made = batch(BoxedViews(boxed, (60, 90)), [5, 1])
    assert [len(boxes) for boxes in made["boxes"]] == [0, 1] and made["boxes"][0].shape == (0, 4)
    assert made["label"][0].shape == (0,) and made["index"].tolist() == [5, 1]


def test_boxed_views__leave_the_boxes_of_the_set_as_they_are(boxed: BoxedImages) -> None:
    before = [boxes.copy() for boxes in boxed.boxes]
    for epoch in range(4):
        batch(BoxedViews(boxed, (30, 90), scale=(0.5, 2.0)), [0, 1, 2], epoch)
    assert all(np.array_equal(one, other) for one, other in zip(before, boxed.boxes, strict=True))


def test_whole__the_truth_is_that_of_the_original(masked: MaskedImages, boxed: BoxedImages) -> None:
    item = WholeImages(masked, 30, 100)[2]
    assert item["image"].shape == (3, 30, 45) and item["size"].tolist() == [HEIGHT, WIDTH] and int(item["index"]) == 2
    assert np.array_equal(item["mask"], scene(2))
    item = WholeImages(boxed, 30, 100)[2]
    assert item["boxes"].tolist() == [[55, 12, 80, 42]] and item["label"].tolist() == [1]


def test_loaders__batches_depend_neither_on_workers_nor_on_ranks(masked: MaskedImages, boxed: BoxedImages) -> None:
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    trainer.fit_loop.max_epochs = 1
    crops = MaskedCrops(masked, 32, 0)
    alone = list(dense_loader(crops, 2, 7, trainer, 0))
    helped = list(dense_loader(MaskedCrops(masked, 32, 0), 2, 7, trainer, 2))
    assert len(alone) == 3 and sorted(row for one in alone for row in one["index"].tolist()) == list(range(6))
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("image", "mask", "index"))
    lists = [list(dense_loader(BoxedViews(boxed, (32, 64)), 2, 7, trainer, workers)) for workers in (0, 2)]
    for one, other in zip(*lists, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one["image"], other["image"], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(one["boxes"], other["boxes"], strict=True))
    rows = [int(item["index"]) for item in whole_loader(masked, 30, 90, trainer, 1)]
    assert rows == list(range(6))


def test_an_unreadable_image__is_named(boxed: BoxedImages, tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"<!doctype html>")
    broken = BoxedImages(ImageFiles(["page.jpg", "gone.jpg"], tmp_path), boxed.boxes[:2], boxed.classes)
    with pytest.raises(ValueError, match=r"evaluation image .*page\.jpg cannot be used \(not_an_image\); repair"):
        batch(BoxedViews(broken), [0])
    with pytest.raises(ValueError, match=r"evaluation image .*gone\.jpg cannot be used \(No such file"):
        _ = WholeImages(broken, 8, 8)[1]
