"""Features on the disk: extracted once per backbone, data set and transform, by all ranks; a kill loses one part.

    features/<backbone>-<data set>-<transform>-<fingerprint>/
        part-00000.npy ...   float32, up to 4096 images each, until all are there
        features.npy         float32 [N, D], opened as a memory map
        record.json          what the fingerprint is of; its presence means that the features are whole

Another checkpoint, other images or another transform have another fingerprint, and so another folder. The folders can
be removed at any time.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datamodules.files import atomic, fingerprint, read_json, write_json
from datamodules.labelled import LabelledDataset, LabelledImages
from datamodules.progress import Progress
from pas_train.evaluation.features import Embedder, Transform, embed_parts
from pas_train.ranks import Meeting

SMALLEST, LARGEST, PARTS = 512, 4096, 64  # images of a part, and how many parts there should be
FILE, RECORD = "features.npy", "record.json"
REVISION = 1  # of how images become features; another number extracts anew what was extracted before
DAMAGED = (ValueError, OSError, EOFError)  # what reading a file raises that is not there or not whole


class StoredFeatures:
    """The features of one set of images by one backbone.

    root: folder of all. title: what a person calls both. of: identity of the backbone, of the images and the transform.
    """

    def __init__(self, root: Path, title: str, images: int, of: dict[str, Any]) -> None:
        self.images, self.record = images, json.loads(json.dumps({**of, "images": images}))  # as it will be read
        # By the number of images alone, so that another number of ranks can go on; whole batches, if they are as usual.
        self.size = min(LARGEST, max(SMALLEST, round(images / PARTS / SMALLEST) * SMALLEST))
        name = f"{slug(title)}-{fingerprint(self.record)}"
        same = sorted(root.glob(f"*-{fingerprint(self.record)}"))  # another name for the same backbone or images
        self.folder = same[0] if same else root / name

    @property
    def whole(self) -> bool:
        """Whether all features are there; a file that was cut off, as by a full disk while copying, counts as none."""
        try:
            return read_json(self.folder / RECORD) == self.record and len(self.open()) == self.images
        except DAMAGED:
            return False

    def open(self) -> np.ndarray:
        """Float32 [N, D], a memory map; what is written into it stays in memory."""
        return np.load(self.folder / FILE, mmap_mode="c")

    def part(self, number: int) -> Path:
        """The file of some rows."""
        return self.folder / f"part-{number:05d}.npy"

    def rows(self, number: int) -> np.ndarray:
        """int64: those of a part."""
        return np.arange(number * self.size, min((number + 1) * self.size, self.images))

    def missing(self, rank: int = 0, world_size: int = 1) -> list[int]:
        """Parts of this rank that are not there, or damaged."""
        return [number for number in range(rank, self._parts, world_size) if not self._sound(number)]

    def _sound(self, number: int) -> bool:
        try:
            return len(np.load(self.part(number), mmap_mode="r")) == len(self.rows(number))
        except DAMAGED:
            return False

    def write(self, number: int, values: np.ndarray) -> None:
        """Writes a part, whole or not at all."""
        with atomic(self.part(number)) as temporary, open(temporary, "wb") as file:
            np.save(file, values)

    def finish(self) -> None:
        """Joins the parts."""
        try:
            if not self.whole:
                self._join()
        except FileNotFoundError:  # another run has just joined them
            if not self.whole:
                raise
        for part in self.folder.glob("part-*.npy"):
            part.unlink(missing_ok=True)

    def _join(self) -> None:
        parts = [np.load(self.part(number), mmap_mode="r") for number in range(self._parts)]
        with atomic(self.folder / FILE) as temporary:
            joined = np.lib.format.open_memmap(temporary, "w+", np.float32, (self.images, parts[0].shape[1]))
            np.concatenate(parts, out=joined)
            joined.flush()
        write_json(self.folder / RECORD, self.record)

    @property
    def _parts(self) -> int:
        return -(-self.images // self.size)


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^\w.]+", "-", text).strip("-")[:80]


def stored(
    root: Path, backbone: str, identity: str, name: str, images: LabelledImages, transform: Transform
) -> StoredFeatures:
    """The features of a set, there or not. backbone, name: what a person calls the backbone and the set."""
    # The labels have no part in it: other labels of the same images find the same features.
    of = {
        "revision": REVISION,
        "backbone": identity,
        "source": images.source_fingerprint,
        "transform": asdict(transform),
    }
    return StoredFeatures(root, f"{backbone}-{name}-{transform}", len(images), of)


def extract(
    sets: Sequence[tuple[StoredFeatures, LabelledImages]], backbone: nn.Module | None, transform: Transform,
    device: torch.device, batch_size: int, num_workers: int, meeting: Meeting, title: str,
) -> None:  # fmt: skip
    """Extracts what is missing of some sets, each rank its share of the parts; all ranks call it.

    title: for the person who waits. Raises ValueError on every rank for an image that cannot be read on one.
    """
    todo = meeting.told([number for number, (store, _) in enumerate(sets) if not store.whole])
    for number in todo:
        store, images = sets[number]
        missing = store.missing(meeting.rank, meeting.world_size)
        done = len(images) - meeting.world_size * sum(len(store.rows(part)) for part in missing)
        bar = Progress(title, len(images), max(0, done), "img", meeting.rank == 0, meeting.world_size)
        dataset = LabelledDataset(images, transform.image_size)

        def work(store=store, missing=missing, bar=bar, dataset=dataset) -> None:  # type: ignore[no-untyped-def]
            with Embedder(backbone, transform, device) as embedder:
                parts = [store.rows(part) for part in missing]
                values = embed_parts(embedder, dataset, parts, batch_size, num_workers, bar.step)
                for part, embedded in zip(missing, values, strict=True):
                    store.write(part, embedded)

        try:
            meeting.together(work)
        finally:
            bar.close()
        meeting.together(lambda store=store: store.finish() if meeting.rank == 0 else None)  # type: ignore[misc]
