"""Labelled images for training a classifier: random crops by row and epoch, and the test images of each rank."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from datamodules.batch_memory import BatchMemory, lent
from datamodules.decoding import Picture, RefusedImage
from datamodules.labelled import LIMITS, LabelledDataset, LabelledImages
from datamodules.loaders import QuietLoader, RestartableLoader, as_it_is, place_of, worker_options
from datamodules.sampling import GlobalBatches, RankRows
from datamodules.views import ViewPair, ViewSettings


def crops_alone(crop_min: float) -> ViewSettings:
    """A random crop of crop_min to all of the image's area, mirrored half of the time, in its own colours."""
    return ViewSettings(crop_min=crop_min, jitter=0, grey=0, blur=0, solarize=0)


class LabelledCrops(Dataset):
    """Batches of random crops: (passes int64 [B], rows int64 [B]) -> {"image": uint8 [B, 3, S, S], "label", "index"}.

    Labels and rows are int64 [B]. The numbers of a crop are drawn from (seed, pass, row) alone, a pass being the epoch.
    An image that cannot be decoded is an error that names the file: leaving it out would change the accuracy silently.
    """

    def __init__(self, images: LabelledImages, image_size: int, crop_min: float, seed: int) -> None:
        self.images, self.image_size = images, image_size
        self.crops = ViewPair(image_size, (crops_alone(crop_min),), seed)
        self.memory: BatchMemory | None = None  # of the workers, see QuietLoader

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[np.ndarray, np.ndarray]) -> Any:
        passes, rows = place
        loan = lent(self.memory, len(rows), 3, self.image_size, self.image_size)
        written = loan.tensor.numpy()
        for i, (visit, row) in enumerate(zip(passes.tolist(), rows.tolist(), strict=True)):
            picture = self._read(row)
            (crop,) = self.crops.draw(picture.height, picture.width, visit, row)
            self.crops.render(picture, crop, written[i])
        labels, index = torch.from_numpy(self.images.labels[rows]), torch.from_numpy(np.array(rows, np.int64))
        return loan.batch("image", {"label": labels, "index": index})

    def _read(self, row: int) -> Picture:
        try:
            return Picture.whole(self.images.source.pixels(row, LIMITS))
        except RefusedImage as error:
            name = self.images.source.describe(row)
            raise ValueError(f"evaluation image {name} cannot be used ({error}); repair or remove it") from None


def crop_loader(crops: LabelledCrops, batch_size: int, seed: int, trainer: Trainer, num_workers: int) -> DataLoader:
    """This rank's share of batches of batch_size images, which depend neither on ranks nor on restarts."""
    sampler = GlobalBatches(len(crops), batch_size, seed, trainer.global_rank, trainer.world_size)
    sampler.place = lambda: place_of(trainer, len(sampler))
    crops.crops.compile()
    return RestartableLoader(
        crops, batch_size=None, sampler=sampler, collate_fn=as_it_is, **worker_options(num_workers, kept=True)
    )


def centre_loader(
    images: LabelledImages, image_size: int, batch_size: int, trainer: Trainer, num_workers: int
) -> DataLoader:
    """This rank's share of images with the usual test transform; the first come again where ranks would differ."""
    dataset = LabelledDataset(images, image_size)
    sampler = RankRows(len(images), trainer.global_rank, trainer.world_size)
    return QuietLoader(dataset, batch_size=batch_size, sampler=sampler, **worker_options(num_workers))
