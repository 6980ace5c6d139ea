"""Batches of two augmented views of images, read and cropped in the workers."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.batch_memory import BatchMemory, lent
from datamodules.decoding import ImageLimits, Picture, RefusedImage, decode_picture
from datamodules.image_source import ImageSource
from datamodules.store import StoreError
from datamodules.views import PHOTOMETRY, ViewPair

MAX_TRIES = 1000  # images in a row that cannot be read before the training says that something is wrong
STRETCH = 4096  # rows that are looked at in one go for one of the same kind


class TwoViewDataset(Dataset):
    """Batches of two views: (passes int64 [B], rows int64 [B]) -> a dictionary of tensors.

    views: uint8 [2, B, 3, S, S]. index: int64 [B], the row that is shown. synthetic: bool [B], whether it is
    generated. replaced: int64 [1], how many images could not be read and gave place to the next row of their
    kind (of the same data set, real or synthetic alike), so that shares stay as they were set. unreadable: where there
    are such, a list of sentences that say which and why.
    With finished=False the views are crops, and what is left to do comes with them: photometry float32 [2, B, P] and
    photometry_order int8 [2, B, 4], see `photometry.finish_views`. With reduced=True a JPEG is decoded at a half, a
    quarter or an eighth where its crops have more pixels than are needed.
    A pass is how often the row has been due before: the numbers of its views are drawn from (seed, pass, row).
    """

    def __init__(
        self, source: ImageSource, pair: ViewPair, limits: ImageLimits, finished: bool = True, reduced: bool = False
    ) -> None:
        self.source = source
        self.synthetic, self.kinds = source.synthetic(), source.kinds()
        self.pair = pair
        self.limits = limits
        self.finished = finished
        self.reduced = reduced
        self.memory: BatchMemory | None = None  # of the workers, see QuietLoader

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place: tuple[np.ndarray, np.ndarray]) -> Any:
        passes, rows = place
        size = self.pair.size
        loan = lent(self.memory, 2, len(rows), 3, size, size)
        shown = np.array(rows, dtype=np.int64)
        failed: list[str] = []
        photometry = torch.empty((2, len(rows), PHOTOMETRY), dtype=torch.float32)
        order = torch.empty((2, len(rows), 4), dtype=torch.int8)
        written, parameters, orders = loan.tensor.numpy(), photometry.numpy(), order.numpy()
        for i, (visit, row) in enumerate(zip(passes.tolist(), rows.tolist(), strict=True)):
            picture, shown[i] = self.read(row, visit, failed)
            # The numbers are drawn for the row that was due, so a repaired image changes nothing else.
            for number, view in enumerate(self.pair.draw(picture.height, picture.width, visit, row)):
                self.pair.render(picture, view, written[number, i], self.finished)
                parameters[number, i], orders[number, i] = view.photometry(), view.changes()
        replaced = int((shown != rows).sum())
        batch = {
            "index": torch.from_numpy(shown),
            "synthetic": torch.from_numpy(self.synthetic[shown]),
            "replaced": torch.tensor([replaced]),
        }
        if not self.finished:
            batch |= {"photometry": photometry, "photometry_order": order}
        return loan.batch("views", batch | ({"unreadable": failed} if failed else {}))

    def read(self, row: int, visit: int, failed: list[str]) -> tuple[Picture, int]:
        """The picture of a row and its number, or of the next of its kind that can be read; says in `failed` why."""

        def factor(height: int, width: int) -> int:
            return self.pair.reduction(height, width, visit, row)

        tries = 0
        for candidate in islice(self._alike(row), MAX_TRIES):
            tries += 1
            try:
                image = self.source.read(candidate)
                if isinstance(image, bytes):
                    return decode_picture(image, self.limits, factor if self.reduced else None), candidate
                return Picture.whole(image), candidate
            except (RefusedImage, StoreError, OSError) as error:
                reason = error
                failed.append(f"{self.source.describe(candidate)}: {error}")
        raise ValueError(
            f"data.source: {tries} images in a row cannot be read, the last for this reason: {reason}. Curate the "
            "pool, or check that its files are where they were"
        )

    def _alike(self, row: int) -> Iterator[int]:
        """A row, those of its kind that follow, and from the first on those before it."""
        yield row
        for begin, end in ((row + 1, len(self)), (0, row)):
            for start in range(begin, end, STRETCH):
                stretch = self.kinds[start : min(start + STRETCH, end)]
                yield from (start + np.flatnonzero(stretch == self.kinds[row])).tolist()
