"""Image-caption pairs for training an image-text model's towers."""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.decoding import RefusedImage, decode_rgb
from datamodules.indexing import index_pool
from datamodules.labelled import LIMITS
from datamodules.store import ImageStore


class CaptionDataModule(LightningDataModule):
    """Images with captions from shards (KEY.txt), a folder of images named by what they show, or a CSV.

    The module that is trained says how images become arrays: it has a `prepare` (uint8 [H, W, 3] -> [3, S, S]).

    Args:
        sources: Shards or folders with .txt captions, CSVs of path and label, or folders whose file names are labels
            (n07747607_orange.jpg; WordNet ids and numbers are dropped).
        batch_size: Pairs of a step over all devices together.
        template: Caption of a label, with one {}; captions of shards are taken as they are.
        label_column: The CSVs' column of labels.
        num_workers: Loader processes per device.
        seed: Of the order.
    """

    def __init__(
        self, sources: list[str], batch_size: int = 512, template: str = "a photo of a {}.", label_column: str = "label",
        num_workers: int = 2, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if template.count("{}") != 1:
            raise ValueError(f"data.template: {template!r} must hold exactly one {{}}")
        if batch_size < 2:
            raise ValueError(f"data.batch_size must be at least 2, got {batch_size}: other pairs are the negatives")
        self.sources, self.batch_size, self.template = sources, batch_size, template
        self.label_column, self.num_workers, self.seed = label_column, num_workers, seed
        self.source: str | None = None
        self.image_size = 0

    def setup(self, stage: str) -> None:
        """Reads the pairs' places and captions."""
        pairs = [pair for number, path in enumerate(self.sources) for pair in self._read(number, Path(path))]
        if len(pairs) < self.batch_size:
            raise ValueError(
                f"data.sources: {len(pairs)} image-caption pairs in {', '.join(self.sources) or 'no source'} are fewer "
                f"than data.batch_size {self.batch_size}"
            )
        columns = list(zip(*pairs, strict=True))
        names = ("root", "shard", "offset", "size", "caption")
        self.table = pa.table(dict(zip(names, map(list, columns), strict=True))).combine_chunks()

    def _read(self, number: int, path: Path) -> list[tuple[str, str, int, int, str]]:
        root = f"source-{number}"
        if not path.exists():
            raise FileNotFoundError(f"data.sources: {path} does not exist")
        if path.suffix == ".csv":
            with open(path, newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
            files = [path.parent / row["path"] for row in rows]
            return [
                (root, row["path"], 0, place.stat().st_size, self.caption(row[self.label_column]))
                for row, place in zip(rows, files, strict=True)
            ]
        index = index_pool(path)
        pairs = []
        for row in index.select(["shard", "offset", "size", "caption", "key"]).to_pylist():
            if row["size"] is not None:
                text = row["caption"] or self.caption(Path(row["key"]).stem)
                pairs.append((root, row["shard"], row["offset"], row["size"], text))
        return pairs

    def caption(self, label: str) -> str:
        """The caption of a label: ids and numbers dropped, underscores and dashes to spaces."""
        words = re.sub(r"^n\d{8}_|_\d+$", "", label)
        return self.template.format(re.sub(r"[_\-]+", " ", words).strip().lower())

    def train_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        """Batches {"image": uint8 [B, 3, S, S], "caption": list of str}, this rank's share of each."""
        assert self.trainer is not None
        world, rank = self.trainer.world_size, self.trainer.global_rank
        roots = {f"source-{n}": Path(p).parent if p.endswith(".csv") else Path(p) for n, p in enumerate(self.sources)}
        dataset = _Pairs(self.table, roots, self.trainer.lightning_module.prepare)
        order = _Order(len(dataset), self.batch_size, self.seed, world, rank)
        self.trainer.lightning_module.order = order
        return DataLoader(dataset, batch_sampler=order, num_workers=self.num_workers, collate_fn=_collate)


class _Order:
    """Shuffled batches by (seed, epoch); the last, smaller one is dropped."""

    def __init__(self, count: int, batch_size: int, seed: int, world: int, rank: int) -> None:
        self.count, self.batch_size, self.seed, self.world, self.rank = count, batch_size, seed, world, rank
        self.epoch = 0

    def __iter__(self) -> Any:
        rows = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        self.epoch += 1
        for first in range(0, self.count - self.batch_size + 1, self.batch_size):
            yield rows[first : first + self.batch_size][self.rank :: self.world].tolist()

    def __len__(self) -> int:
        return self.count // self.batch_size


class _Pairs(Dataset):  # type: ignore[type-arg]
    def __init__(self, table: pa.Table, roots: dict[str, Path], prepare: Callable[[np.ndarray], np.ndarray]) -> None:
        self.columns = [table[name].combine_chunks() for name in ("root", "shard", "offset", "size", "caption")]
        self.store, self.prepare = ImageStore(roots), prepare

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, row: int) -> tuple[np.ndarray, str]:
        for tries in range(100):  # a pair that cannot be decoded gives way to the next
            root, shard, offset, size, caption = (c[(row + tries) % len(self)].as_py() for c in self.columns)
            try:
                return self.prepare(decode_rgb(self.store.read(root, shard, offset, size), LIMITS)), caption
            except RefusedImage:
                continue
        raise ValueError(f"data.sources: 100 images in a row cannot be decoded, the last {shard}")


def _collate(pairs: Sequence[tuple[np.ndarray, str]]) -> dict[str, Tensor | list[str]]:
    return {"image": torch.from_numpy(np.stack([image for image, _ in pairs])), "caption": [text for _, text in pairs]}
