"""Image-caption pairs for training an image-text model's towers."""

import csv
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.decoding import RefusedImage, decode_rgb
from datamodules.indexing import index_pool
from datamodules.labelled import LIMITS
from datamodules.loaders import RestartableLoader, place_of
from datamodules.sampling import GlobalBatches
from datamodules.store import ImageStore, StoreError

COLUMNS = ("root", "shard", "offset", "size", "caption")
MAX_TRIES = 100  # pairs in a row that cannot be read before the training says that something is wrong
# A pair's place: root, shard, offset, size; and its caption.
Pair = tuple[str, str, int, int, str]


class CaptionDataModule(LightningDataModule):
    """Images with captions from shards (KEY.txt), folders of images, or CSVs of path and label.

    The module that is trained says how an image becomes an array: its `prepare` (uint8 [H, W, 3] -> [3, S, S], with
    the side S as `prepare.size`), so sizes and resampling are the encoder's.

    Args:
        sources: Folders of shards or images, single .tar shards, or .csv files with columns path (relative to the
            file) and label. An image's caption is its .txt; without one its label is the name of its class folder,
            or, directly in the source, of the file (n07747607_orange.jpg is "orange").
        batch_size: Pairs of a step over all devices together; the others of a batch are a pair's negatives.
        template: Caption of a label, with one `{}`; captions of shards are taken as they are.
        label_column: The CSVs' column of labels.
        crop_scale: Least share of an image's area that a random crop keeps (CLIPN: 0.9); 1 takes the encoder's own
            resize and centre crop.
        num_workers: Loader processes per device.
        seed: Of the order and the crops.
    """

    def __init__(
        self, sources: list[str], batch_size: int = 512, template: str = "a photo of a {}.",
        label_column: str = "label", crop_scale: float = 0.9, num_workers: int = 2, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if [template.count(mark) for mark in ("{}", "{", "}")] != [1, 1, 1]:
            raise ValueError(f"data.template: {template!r} must hold exactly one {{}}, and no other brace")
        if batch_size < 2:
            raise ValueError(f"data.batch_size must be at least 2, got {batch_size}: other pairs are the negatives")
        if not 0 < crop_scale <= 1:
            raise ValueError(f"data.crop_scale must be above 0 and at most 1, got {crop_scale}")
        self.sources, self.batch_size, self.template, self.label_column = sources, batch_size, template, label_column
        self.crop_scale, self.num_workers, self.seed = crop_scale, num_workers, seed
        self.table: pa.Table | None = None

    def setup(self, stage: str) -> None:
        """Reads where the pairs lie and what they say. Raises ValueError or FileNotFoundError naming `data.sources`."""
        if not self.sources:
            raise ValueError(
                "data.sources is empty; give folders or shards of captioned images, or .csv files of path and label"
            )
        pairs = [pair for number, path in enumerate(self.sources) for pair in self._read(number, Path(path))]
        if len(pairs) < self.batch_size:
            raise ValueError(
                f"data.sources: {', '.join(self.sources)} hold {len(pairs)} image-caption pairs, fewer than "
                f"data.batch_size {self.batch_size}; lower it or add sources"
            )
        columns = [list(column) for column in zip(*pairs, strict=True)]
        self.table = pa.table(dict(zip(COLUMNS, columns, strict=True)))

    def _read(self, number: int, path: Path) -> list[Pair]:
        root = f"source-{number}"
        if not path.exists():
            raise FileNotFoundError(f"data.sources: {path} does not exist")
        if path.suffix == ".csv":
            return self._read_csv(root, path)
        pairs = []
        for row in index_pool(path).select(["shard", "offset", "size", "caption", "key"]).to_pylist():
            if row["size"] is not None:
                key = Path(row["key"])
                in_class_folder = key.parent.name and not row["shard"].lower().endswith(".tar")
                caption = row["caption"] or self.caption(key.parent.name if in_class_folder else key.stem)
                pairs.append((root, row["shard"], row["offset"], row["size"], caption))
        return pairs

    def _read_csv(self, root: str, path: Path) -> list[Pair]:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
        missing = {"path", self.label_column} - set(rows[0][1] if rows else [])
        if missing:
            raise ValueError(f"data.sources: {path} has no rows with the column {' and '.join(sorted(missing))}")
        pairs = []
        for line, row in rows:
            for column in ("path", self.label_column):
                if not row[column]:
                    raise ValueError(f"data.sources: {path} line {line} has no {column}")
            place = path.parent / row["path"]
            if not place.is_file():
                raise FileNotFoundError(f"data.sources: {path} names {row['path']}, which is not in {path.parent}")
            pairs.append((root, row["path"], 0, place.stat().st_size, self.caption(row[self.label_column])))
        return pairs

    def caption(self, label: str) -> str:
        """The caption of a label: WordNet id and trailing number dropped, underscores and dashes to spaces."""
        words = re.sub(r"^n\d{8}_|_\d+$", "", label)
        return self.template.format(re.sub(r"[_\-]+", " ", words).strip().lower())

    def train_dataloader(self) -> RestartableLoader:
        """Batches {"image": uint8 [B, 3, S, S], "caption": list of str}, this rank's share of each."""
        assert self.trainer is not None and self.table is not None
        trainer, world_size = self.trainer, self.trainer.world_size
        module: Any = trainer.lightning_module
        if self.batch_size % world_size:
            raise ValueError(
                f"data.batch_size {self.batch_size} cannot be shared among {world_size} devices; it is the batch of "
                f"all together, so make it a multiple of {world_size}"
            )
        roots = {f"source-{n}": Path(p).parent if Path(p).is_file() else Path(p) for n, p in enumerate(self.sources)}
        dataset = CaptionDataset(self.table, roots, module.prepare, self.crop_scale, self.seed)
        sampler = GlobalBatches(len(dataset), self.batch_size, self.seed, trainer.global_rank, world_size)
        sampler.place = lambda: place_of(trainer, len(sampler))
        return RestartableLoader(dataset, batch_size=None, sampler=sampler, num_workers=self.num_workers)


class CaptionDataset(Dataset[dict[str, Any]]):
    """(passes, rows) -> one batch of pairs; a pair that cannot be read gives way to the next."""

    def __init__(
        self, table: pa.Table, roots: dict[str, Path], prepare: Callable[[np.ndarray], np.ndarray], crop_scale: float,
        seed: int,
    ) -> None:  # fmt: skip
        self.columns = [table[name].combine_chunks() for name in COLUMNS]
        self.store, self.prepare, self.crop_scale, self.seed = ImageStore(roots), prepare, crop_scale, seed

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, place: tuple[Sequence[int], Sequence[int]]) -> dict[str, Tensor | list[str]]:
        images, captions = zip(
            *(self.read(int(visit), int(row)) for visit, row in zip(*place, strict=True)), strict=True
        )
        return {"image": torch.from_numpy(np.stack(images)), "caption": list(captions)}

    def read(self, visit: int, row: int) -> tuple[np.ndarray, str]:
        """uint8 [3, S, S] and the caption of a row, cropped as (seed, visit, row) say."""
        for tries in range(min(len(self), MAX_TRIES)):
            root, shard, offset, size, caption = (column[(row + tries) % len(self)].as_py() for column in self.columns)
            try:
                rgb = decode_rgb(self.store.read(root, shard, offset, size), LIMITS)
            except (RefusedImage, StoreError, OSError) as error:
                reason = error
                continue
            if self.crop_scale < 1:
                draw = np.random.default_rng([self.seed, visit, row])
                rgb = random_crop(rgb, self.prepare.size, self.crop_scale, draw)  # type: ignore[attr-defined]
            return self.prepare(rgb), caption
        raise ValueError(
            f"data.sources: {min(len(self), MAX_TRIES)} images in a row cannot be read, the last, {shard}, for this "
            f"reason: {reason}"
        )


def random_crop(rgb: np.ndarray, size: int, least: float, draw: np.random.Generator) -> np.ndarray:
    """uint8 [size, size, 3]: a random part of `least` to all of the area, its sides in 3:4 to 4:3, bicubic.

    The draws are those of torchvision's RandomResizedCrop, with its fall back on the middle.
    """
    height, width = rgb.shape[:2]
    for _ in range(10):
        area = draw.uniform(least, 1) * height * width
        ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(draw.integers(width - w + 1)), int(draw.integers(height - h + 1))
            break
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        x, y = (width - w) // 2, (height - h) // 2
    box = (x, y, x + w, y + h)
    return np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC, box=box))
