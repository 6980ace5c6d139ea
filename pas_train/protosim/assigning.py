"""The prototype of every token of every image, kept in parts, so that a kill loses little."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.decoding import ImageLimits, RefusedImage
from datamodules.files import atomic, fingerprint, read_json, write_json
from datamodules.image_source import ImageSource
from datamodules.loaders import QuietLoader, as_it_is
from datamodules.progress import Progress
from datamodules.store import StoreError
from pas_train.losses import world

PART = 1024  # images
BATCH = 32


class TestImages(Dataset):
    """Images as the published analysis sees them, a batch an item: short side to S * 256 / 224, bicubic, centre crop S.

    Items are {"image": uint8 [B, 3, S, S], "row": int64 [B]}; an image that cannot be read has no row.
    """

    __test__ = False  # no test, whatever its name

    def __init__(self, source: ImageSource, image_size: int, limits: ImageLimits, batches: list[range]) -> None:
        self.source, self.image_size, self.limits, self.batches = source, image_size, limits, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        images, rows = [], []
        for row in self.batches[place]:
            try:
                images.append(test_crop(self.source.pixels(row, self.limits), self.image_size))
                rows.append(row)
            except (RefusedImage, StoreError, OSError):
                continue
        shape = (0, 3, self.image_size, self.image_size)
        stacked = np.stack(images) if images else np.empty(shape, np.uint8)
        return {"image": torch.from_numpy(stacked), "row": torch.tensor(rows, dtype=torch.int64)}


def test_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [3, S, S] of uint8 [H, W, 3]: short side to S * 256 / 224, bicubic, centre crop."""
    from PIL import Image

    image = Image.fromarray(pixels)
    short = round(size * 256 / 224)
    width, height = (max(size, int(short * side / min(image.size))) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    # Only what the crop keeps is resized: of a strip the whole might fill the memory.
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    cut = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.ascontiguousarray(np.asarray(cut).transpose(2, 0, 1))


test_crop.__test__ = False  # type: ignore[attr-defined]


class Assignments:
    """The stored prototypes of all tokens: parts of PART rows, each an .npz of row int64 [n] and prototype [n, T].

    folder: where they lie. identity: of model, images and transform; parts of another are removed.
    """

    def __init__(self, folder: Path, images: int, identity: dict[str, Any]) -> None:
        self.folder, self.images = folder, images
        self.record = {"images": images, "part": PART, **identity}
        self.count = -(-images // PART)

    def begin(self) -> None:
        """Makes the folder ready; of one process only."""
        told = read_json(self.folder / "record.json")
        if told is not None and fingerprint(told) != fingerprint(self.record):
            for path in self.folder.glob("part-*.npz"):
                path.unlink()
        write_json(self.folder / "record.json", self.record)

    def path(self, part: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{part:05d}.npz"

    def missing(self) -> list[int]:
        """Parts that are not there."""
        return [part for part in range(self.count) if not self.path(part).exists()]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, prototypes) of each part in order."""
        for part in range(self.count):
            with np.load(self.path(part)) as stored:
                yield stored["row"], stored["prototype"]


@torch.no_grad()
def assign(
    module: Any, source: ImageSource, limits: ImageLimits, store: Assignments, todo: Sequence[int], workers: int,
    device: torch.device,
) -> None:  # fmt: skip
    """Writes the parts of `todo`, the same on all ranks, that are this rank's."""
    rank, ranks = world()
    todo = todo[rank::ranks]
    batches, part_of = [], []
    for part in todo:
        stop = min((part + 1) * PART, store.images)
        mine = [range(start, min(start + BATCH, stop)) for start in range(part * PART, stop, BATCH)]
        batches += mine
        part_of += [part] * len(mine)
    dataset = TestImages(source, module.image_size, limits, batches)
    loader = QuietLoader(dataset, batch_size=None, collate_fn=as_it_is, num_workers=workers if len(todo) else 0,
                         pin_memory=device.type == "cuda")  # fmt: skip
    kind = np.uint16 if len(module.student.prototypes) <= 2**16 else np.uint32
    held: list[tuple[np.ndarray, np.ndarray]] = []
    progress = Progress("protosim", sum(map(len, batches)), show=rank == 0)
    for number, batch in enumerate(loader):
        found = module.assign(batch["image"].to(device, non_blocking=True)) if len(batch["row"]) else None
        if found is not None:
            held.append((batch["row"].numpy(), found.cpu().numpy().astype(kind)))
        progress.step(len(batches[number]))
        if number + 1 == len(batches) or part_of[number + 1] != part_of[number]:
            rows, prototypes = zip(*held, strict=True) if held else ([np.empty(0, int)], [np.empty((0, 1), kind)])
            with atomic(store.path(part_of[number])) as temporary, open(temporary, "wb") as file:
                np.savez(file, row=np.concatenate(rows), prototype=np.concatenate(prototypes))
            held = []
    progress.close()
