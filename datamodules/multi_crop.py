"""Batches of two large and several small crops of an image (DINO's multi-crop), restartable at any step."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.decoding import ImageLimits
from datamodules.image_source import ImageSource
from datamodules.labelled import LIMITS
from datamodules.photometry import finish_views
from datamodules.pretrain import PretrainDataModule
from datamodules.sources import SourceItem
from datamodules.two_views import TwoViewDataset
from datamodules.views import PHOTOMETRY, ViewPair, ViewSettings

LARGE_1 = ViewSettings(crop_min=0.4)
LARGE_2 = ViewSettings(crop_min=0.4, blur=0.1, solarize=0.2)
SMALL = ViewSettings(crop_min=0.05, crop_max=0.4, blur=0.5)
# The small crops' numbers come from another stream than the large ones'; no seed of a person is so large.
SMALL_SEED = 2**40


class CropSet:
    """Makes the large and the small crops of one image; one object serves one thread.

    Args:
        large: side of the two large crops in pixels.
        small: side of the small ones.
        settings: of the first large crop, of the second, and of every small one.
        count: number of small crops.
        seed: of all random numbers.
    """

    def __init__(
        self, large: int, small: int, settings: tuple[ViewSettings, ViewSettings, ViewSettings], count: int, seed: int
    ) -> None:
        self.large = ViewPair(large, settings[:2], seed)
        self.small = ViewPair(small, (settings[2],) * count, seed + SMALL_SEED)

    @property
    def sets(self) -> tuple[ViewPair, ...]:
        """The makers of the large crops and, where there are any, of the small ones."""
        return (self.large, self.small) if self.small.settings else (self.large,)

    def compile(self) -> None:
        """Compiles the kernels, or loads them, before workers are forked."""
        self.large.compile()

    def reduction(self, height: int, width: int, epoch: int, sample: int) -> int:
        """By how much an image may be reduced before all of its crops are cut: 1, 2, 4 or 8."""
        return min(one.reduction(height, width, epoch, sample) for one in self.sets)


class MultiCropDataset(TwoViewDataset):
    """Batches of crops: (passes int64 [B], rows int64 [B]) -> a dictionary of tensors.

    views: uint8 [2, B, 3, S, S], the large crops; small_views: uint8 [C, B, 3, s, s]. The rest is as in
    `TwoViewDataset`; with finished=False also small_photometry and small_photometry_order.
    """

    def __init__(
        self, source: ImageSource, crops: CropSet, limits: ImageLimits, finished: bool = True, reduced: bool = False
    ) -> None:
        super().__init__(source, crops, limits, finished, reduced)  # type: ignore[arg-type]
        self.crops = crops

    def __getitem__(self, place: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
        passes, rows = place
        shown = np.array(rows, dtype=np.int64)
        failed: list[str] = []
        made = [_Crops(maker, len(rows)) for maker in self.crops.sets]
        for i, (visit, row) in enumerate(zip(passes.tolist(), rows.tolist(), strict=True)):
            picture, shown[i] = self.read(row, visit, failed)
            for crops in made:
                for number, view in enumerate(crops.maker.draw(picture.height, picture.width, visit, row)):
                    crops.maker.render(picture, view, crops.pixels[number, i], self.finished)
                    crops.photometry[number, i], crops.order[number, i] = view.photometry(), view.changes()
        batch: dict[str, Any] = {
            "index": torch.from_numpy(shown),
            "synthetic": torch.from_numpy(self.synthetic[shown]),
            "replaced": torch.tensor([int((shown != rows).sum())]),
        }
        for prefix, crops in zip(("", "small_"), made, strict=False):
            batch[f"{prefix}views"] = torch.from_numpy(crops.pixels)
            if not self.finished:
                batch[f"{prefix}photometry"] = torch.from_numpy(crops.photometry)
                batch[f"{prefix}photometry_order"] = torch.from_numpy(crops.order)
        return batch | ({"unreadable": failed} if failed else {})


class _Crops:
    """One size of crops of a batch, and what is left to do with them."""

    def __init__(self, maker: ViewPair, rows: int) -> None:
        count, side = len(maker.settings), maker.size
        self.maker = maker
        self.pixels = np.empty((count, rows, 3, side, side), np.uint8)
        self.photometry = np.empty((count, rows, PHOTOMETRY), np.float32)
        self.order = np.empty((count, rows, 4), np.int8)


class MultiCropDataModule(PretrainDataModule):
    """Images as two large and several small crops.

    Args:
        source: as in `PretrainDataModule`; to compare two data sets with ProtoSim, a list of both.
        batch_size: images of a step over all devices together.
        image_size: side of the large crops in pixels.
        view1: augmentation of the first large crop.
        view2: augmentation of the second large crop.
        small_size: side of the small crops in pixels.
        small_crops: number of small crops of an image; 0 for none.
        small_view: augmentation of the small crops.
        num_workers: loading processes per device; by default the cores of the machine shared among its devices.
        seed: of the order and the augmentations.
        limits: what an image must be to be decoded.
        common: what else `PretrainDataModule` takes.
    """

    def __init__(
        self,
        source: str | list[str | SourceItem] | None = None,
        batch_size: int = 128,
        image_size: int = 224,
        view1: ViewSettings = LARGE_1,
        view2: ViewSettings = LARGE_2,
        small_size: int = 96,
        small_crops: int = 8,
        small_view: ViewSettings = SMALL,
        num_workers: int | None = None,
        seed: int = 0,
        limits: ImageLimits = LIMITS,
        **common: Any,
    ) -> None:
        super().__init__(source, batch_size, image_size, view1, view2, num_workers, seed, limits=limits, **common)
        if small_crops < 0 or small_size < 1:
            raise ValueError(
                f"data.small_crops must be at least 0 and data.small_size at least 1, got {small_crops}, {small_size}"
            )
        self.small_size, self.small_crops, self.small_view = small_size, small_crops, small_view

    def _training_set(self, rows: ImageSource, finished: bool) -> Dataset:
        crops = CropSet(self.image_size, self.small_size, (*self.views, self.small_view), self.small_crops, self.seed)
        crops.compile()
        return MultiCropDataset(rows, crops, self.limits, finished, self.scaled_decoding)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turns crops and what is left to do with them into views, on the device."""
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        if not isinstance(batch, dict) or "small_photometry" not in batch:
            return batch
        photometry, order = batch.pop("small_photometry"), batch.pop("small_photometry_order")
        sigma: float = self.small_view.blur_sigma_max if self.small_view.blur else 0
        views: Tensor = finish_views(batch["small_views"], photometry, order, sigma)
        return batch | {"small_views": views}
