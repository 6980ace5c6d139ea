"""Batches of images with masks or boxes: augmented ones for training, whole images to judge.

Every random number is drawn from (seed, epoch, row) alone: batches depend neither on workers, ranks nor restarts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from datamodules.batch_memory import BatchMemory, lent
from datamodules.dense import IGNORED, BoxedImages, DenseImages, MaskedImages, read_pixels
from datamodules.loaders import QuietLoader, RestartableLoader, as_it_is, place_of, worker_options
from datamodules.sampling import GlobalBatches, RankRows
from datamodules.views import uniforms

LONGEST = 4  # times the crop's side, of the image that it is cut from (mmsegmentation: 2048 to 512)
CROP_TRIES = 10  # after the first, for a crop in which no class has too much
FILL = (124, 116, 104)  # beside an image that is smaller than its crop: the mean colour, 0 when normalised
DRAWS = 11  # numbers of a view besides those of the crop
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, 0.5, 0.5, 18 / 180  # of mmsegmentation's photometric distortion


class MaskedCrops(Dataset):
    """Batches of random crops: (passes int64 [B], rows int64 [B]) -> {"image", "mask", "index"}.

    "image": uint8 [B, 3, S, S]. "mask": uint8 [B, S, S], IGNORED also beside the image. "index": the rows, int64 [B].
    As mmsegmentation has it: the image is resized to a random scale, cropped, mirrored half of the time, its colours
    are changed, and what it lacks is filled at the right and at the bottom. Raises ValueError naming a file that cannot
    be used.

    Args:
        images: With masks.
        side: Of the crops in pixels. At scale 1 the image's short side is as long.
        seed: Of all random numbers.
        scale: Least and largest.
        category_max: Another place is tried where one class has a larger share of a crop, ten times at most; 1 takes
            the first.
        photometry: Whether colours are changed.
        fill: Colour beside the image; that of the backbone's mean is 0 when normalised.
    """

    def __init__(
        self, images: MaskedImages, side: int, seed: int, scale: tuple[float, float] = (0.5, 2.0),
        category_max: float = 0.75, photometry: bool = True, fill: Sequence[int] = FILL,
    ) -> None:  # fmt: skip
        self.images, self.side, self.seed, self.scale = images, side, seed, scale
        self.category_max, self.photometry, self.fill = category_max, photometry, tuple(fill)
        self.memory: BatchMemory | None = None  # of the workers, see QuietLoader

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[np.ndarray, np.ndarray]) -> Any:
        passes, rows = place
        loan = lent(self.memory, len(rows), 3, self.side, self.side)
        pixels, masks = loan.tensor.numpy(), np.full((len(rows), self.side, self.side), IGNORED, np.uint8)
        pixels[:] = np.array(self.fill, np.uint8)[:, None, None]
        for i, (visit, row) in enumerate(zip(passes.tolist(), rows.tolist(), strict=True)):
            image, mask = self.crop(visit, row)
            height, width = mask.shape
            pixels[i, :, :height, :width] = image.transpose(2, 0, 1)
            masks[i, :height, :width] = mask
        index = torch.from_numpy(np.array(rows, np.int64))
        return loan.batch("image", {"mask": torch.from_numpy(masks), "index": index})

    def crop(self, visit: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 [h, w, 3], classes uint8 [h, w]) of an image in an epoch, h and w at most the side."""
        u = uniforms(self.seed, visit, row, 0, DRAWS + 2 * (CROP_TRIES + 1))
        pixels = read_pixels(self.images, row)
        mask = self.images.mask(row, (len(pixels), pixels.shape[1]))
        ratio = self.scale[0] + u[0] * (self.scale[1] - self.scale[0])
        height, width = fitted(mask.shape, int(self.side * ratio), int(self.side * ratio * LONGEST))
        across, down = _nearest(mask.shape[1], width), _nearest(mask.shape[0], height)
        high, wide = min(self.side, height), min(self.side, width)
        top, left = 0, 0
        for one, other in u[DRAWS:].reshape(-1, 2):
            top, left = int(one * (height - high + 1)), int(other * (width - wide + 1))
            classes = mask[down[top : top + high]][:, across[left : left + wide]]
            if self._mixed(classes):
                break
        box = (
            left * mask.shape[1] / width, top * mask.shape[0] / height,
            (left + wide) * mask.shape[1] / width, (top + high) * mask.shape[0] / height,
        )  # fmt: skip
        image = Image.fromarray(pixels).resize((wide, high), Image.Resampling.BILINEAR, box)
        changed = np.asarray(distorted(image, u[2:DRAWS]) if self.photometry else image)
        return (changed[:, ::-1], classes[:, ::-1]) if u[1] < 0.5 else (changed, classes)

    def _mixed(self, classes: np.ndarray) -> bool:
        """Whether several classes are there, none with too large a share of what counts."""
        if self.category_max >= 1:
            return True
        counts = np.bincount(classes.ravel(), minlength=IGNORED + 1)[:IGNORED]
        return bool((counts > 0).sum() > 1 and counts.max() < self.category_max * counts.sum())


def fitted(size: tuple[int, ...], short: int, longest: int) -> tuple[int, int]:
    """Height and width of an image whose short side becomes `short`, or its long one `longest` where that is less."""
    factor = min(short / min(size), longest / max(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def _nearest(given: int, wanted: int) -> np.ndarray:
    """For each of the wanted rows that of the given ones whose centre is nearest, int64 [wanted]."""
    return ((np.arange(wanted) + 0.5) * (given / wanted)).astype(np.int64)


def distorted(image: Image.Image, u: np.ndarray) -> Image.Image:
    """An image with other brightness, contrast, saturation and hue, each half of the time; u: nine uniform numbers.

    The contrast comes before the colours or after them (mmsegmentation's PhotoMetricDistortion).
    """
    levels = np.arange(256)
    if u[0] < 0.5:
        image = image.point(_table(levels + (2 * u[1] - 1) * BRIGHTNESS))
    contrast = _table(levels * (1 + (2 * u[3] - 1) * CONTRAST)) if u[2] < 0.5 else None
    if contrast and u[8] < 0.5:
        image, contrast = image.point(contrast), None
    saturation = 1 + (2 * u[5] - 1) * SATURATION if u[4] < 0.5 else 1.0
    shift = round((2 * u[7] - 1) * HUE * 256) if u[6] < 0.5 else 0
    if saturation != 1 or shift:
        hue, strength, value = image.convert("HSV").split()
        hue = hue.point(((levels + shift) % 256).tolist())
        strength = strength.point(_table(levels * saturation, channels=1))
        image = Image.merge("HSV", (hue, strength, value)).convert("RGB")
    return image.point(contrast) if contrast else image


def _table(values: np.ndarray, channels: int = 3) -> list[int]:
    return values.clip(0, 255).astype(np.uint8).tolist() * channels


class BoxedViews(Dataset):
    """Batches of whole images: (passes int64 [B], rows int64 [B]) -> {"image", "boxes", "label", "index"}.

    "image": a list of uint8 [3, H, W]. "boxes": of float32 [K, 4], x1, y1, x2, y2 in its pixels; none for an image
    without. "label": of int64 [K], places in the classes. "index": the rows, int64 [B]. Images are resized with their
    aspect kept and mirrored half of the time. Raises ValueError naming a file that cannot be used.

    Args:
        images: With boxes.
        sides: The short side in pixels, and what the long one has at most.
        seed: Of all random numbers.
        scale: Least and largest factor of the sides; 1 and 1 for one size (mmdetection's).
    """

    def __init__(
        self, images: BoxedImages, sides: tuple[int, int] = (800, 1333), seed: int = 0,
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> None:  # fmt: skip
        self.images, self.sides, self.seed, self.scale = images, sides, seed, scale

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
        passes, rows = place
        views = [self.view(visit, row) for visit, row in zip(passes.tolist(), rows.tolist(), strict=True)]
        pixels, boxes, labels = (list(column) for column in zip(*views, strict=True))
        return {"image": pixels, "boxes": boxes, "label": labels, "index": torch.from_numpy(np.array(rows, np.int64))}

    def view(self, visit: int, row: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(uint8 [3, H, W], boxes float32 [K, 4], labels int64 [K]) of an image in an epoch."""
        ratio, mirror = uniforms(self.seed, visit, row, 0, 2)
        factor = self.scale[0] + ratio * (self.scale[1] - self.scale[0])
        pixels = read_pixels(self.images, row)
        image = resized(pixels, int(self.sides[0] * factor), int(self.sides[1] * factor))
        _, height, width = image.shape
        boxes = self.images.boxes[row][:, :4] * _factors(pixels, height, width)
        if mirror < 0.5:
            image = image[:, :, ::-1]
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        return _tensor(image), torch.from_numpy(boxes), _labels(self.images.boxes[row])


def resized(pixels: np.ndarray, short: int, longest: int) -> np.ndarray:
    """uint8 [3, h, w] of uint8 [H, W, 3], see `fitted`."""
    height, width = fitted(pixels.shape[:2], short, longest)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _factors(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """What boxes of an image are multiplied with when it becomes of this height and width, float32 [4]."""
    return np.array([width / pixels.shape[1], height / len(pixels)] * 2, np.float32)


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.require(image, requirements=["C", "W"]))


def _labels(boxes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(boxes[:, 4].astype(np.int64))


class WholeImages(Dataset):
    """Test images, one at a time, resized with their aspect kept, and the truth in the pixels of the original.

    Items are {"image": uint8 [3, h, w], "size": height and width of the original, int64 [2], "index": the row, int64}
    with "mask" uint8 [H, W], or with "boxes" float32 [K, 4] and "label" int64 [K].

    Args:
        images: With masks or boxes.
        short: Short side in pixels.
        longest: What the long one has at most.
    """

    def __init__(self, images: DenseImages, short: int, longest: int) -> None:
        self.images, self.short, self.longest = images, short, longest

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, Any]:
        pixels = read_pixels(self.images, row)
        height, width, _ = pixels.shape
        image = _tensor(resized(pixels, self.short, self.longest))
        item = {"image": image, "size": torch.tensor([height, width]), "index": torch.tensor(row)}
        if isinstance(self.images, MaskedImages):
            return {**item, "mask": torch.from_numpy(self.images.mask(row, (height, width)))}
        boxes = self.images.boxes[row]
        return {**item, "boxes": torch.from_numpy(boxes[:, :4].copy()), "label": _labels(boxes)}


def dense_loader(
    views: MaskedCrops | BoxedViews, batch_size: int, seed: int, trainer: Trainer, num_workers: int
) -> DataLoader:
    """This rank's share of batches of batch_size images, which depend neither on ranks nor on restarts."""
    sampler = GlobalBatches(len(views), batch_size, seed, trainer.global_rank, trainer.world_size)
    sampler.place = lambda: place_of(trainer, len(sampler))
    return RestartableLoader(
        views, batch_size=None, sampler=sampler, collate_fn=as_it_is, **worker_options(num_workers, kept=True)
    )


def whole_loader(images: DenseImages, short: int, longest: int, trainer: Trainer, num_workers: int) -> DataLoader:
    """This rank's share of the test images, see `WholeImages`; the first come again where ranks would differ."""
    sampler = RankRows(len(images), trainer.global_rank, trainer.world_size)
    return QuietLoader(
        WholeImages(images, short, longest), batch_size=None, sampler=sampler, collate_fn=as_it_is,
        **worker_options(num_workers),
    )  # fmt: skip
