"""The prediction loop that every heavy stage shares: chunks of rows, one output file each, resumable on any ranks.

Rows of the index are cut into chunks of fixed ranges; a chunk is the unit of work, of output file and of resumption.
Batches are cut inside a chunk, never across, so that what a batch holds depends neither on the number of ranks nor on
what was done before: the same input gives the same bytes.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from curation.progress import Progress
from curation.session import Session
from curation.workspace import write_part

# What a chunk becomes: columns of its table (without row and key) and arrays, one row an image, for .npy files.
Output = tuple[dict[str, Any], dict[str, np.ndarray]]
# Writes a chunk: its number, its rows int64, and the outputs of `predict_step` over all of them.
Write = Callable[[int, np.ndarray, dict[str, Any]], None]


@dataclass(frozen=True)
class Loop:
    """How a stage's rows are cut and loaded. chunk_rows: rows of the index per output file."""

    chunk_rows: int = 1024
    batch_size: int = 64
    num_workers: int | None = None

    def workers(self) -> int:
        """Loader processes of this rank: the setting, or the cores that its share of the machine leaves free."""
        if self.num_workers is not None:
            return self.num_workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        return max(0, min(8, cores // ranks - 1))


class _Batches(Dataset):
    """The batches of this rank's chunks; an item is a whole batch, so that Lightning wraps no sampler of ours."""

    def __init__(self, load: Callable[[int], dict[str, Any]], chunks: list[np.ndarray], batch_size: int) -> None:
        self.load = load
        self.batches = [rows[i : i + batch_size] for rows in chunks for i in range(0, len(rows), batch_size)]
        self.memory = SharedBatches()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> dict[str, Any]:
        items = [{"row": row, **self.load(row)} for row in self.batches[number].tolist()]
        return _collate(
            items, lambda arrays: self.memory.stack(arrays, number) if get_worker_info() else _stack(arrays)
        )


class SharedBatches:
    """Memory in which a loader's worker hands its batches over; a batch that was used gives its memory to a later one.

    Fresh shared memory costs a worker more than the copy into it: the kernel clears every page, 0.4 ms an image.
    Batches of any size share it, else the last ones of the chunks would hold a piece for each of their sizes.
    """

    def __init__(self) -> None:
        self.used = torch.zeros(1, dtype=torch.int64).share_memory_()  # batches that the main process is through with
        self.held: list[tuple[int, Tensor]] = []  # of this worker: number of the batch, memory uint8 [bytes]

    def stack(self, arrays: list[np.ndarray], number: int) -> Tensor:
        """Arrays of one shape and type as a shared tensor [n, ...] of the batch of that number."""
        like, through = torch.from_numpy(arrays[0]), int(self.used)
        size = len(arrays) * like.nbytes
        free = [place for place, (owner, _) in enumerate(self.held) if owner < through]
        fits = [place for place in free if self.held[place][1].nbytes >= size]
        place = min(fits or free, key=lambda place: self.held[place][1].nbytes, default=None)
        memory = None if place is None else self.held.pop(place)[1]  # what is too small is let go
        if memory is None or memory.nbytes < size:
            memory = torch.empty(size, dtype=torch.uint8).share_memory_()
        batch = memory[:size].view(like.dtype).view(len(arrays), *like.shape)
        np.stack(arrays, out=batch.numpy())
        self.held.append((number, memory))
        return batch


def _stack(arrays: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _collate(items: list[dict[str, Any]], stack: Callable[[list[np.ndarray]], Tensor]) -> dict[str, Any]:
    """Stacks arrays of one shape into a tensor; everything else, and what is named *_list, stays a list."""
    batch: dict[str, Any] = {}
    for key in items[0]:
        values = [item[key] for item in items]
        arrays = not key.endswith("_list") and all(isinstance(value, np.ndarray) for value in values)
        alike = arrays and len({value.shape for value in values}) == 1
        batch[key] = stack(values) if alike else values
    return batch


def _as_it_is(batch: Any) -> Any:
    """For the loader, whose own conversion would turn the arrays in lists into tensors, and send them to the GPU."""
    return batch


class _ChunkWriter(Callback):
    """Collects a chunk's batches and hands them to `write` when they are complete."""

    def __init__(self, chunks: list[tuple[int, int]], write: Write, bar: Progress, used: Tensor) -> None:
        self.chunks, self.write, self.bar = chunks, write, bar  # chunks: (number, size) in order
        self.used = used  # int64 [1]: batches whose memory is free again
        self.current = 0
        self.rows: list[int] = []
        self.outputs: list[dict[str, Any]] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.rows += list(batch["row"])
        self.outputs.append({key: _host(value) for key, value in outputs.items()})
        self.used[0] = batch_idx + 1
        self.bar.step(len(batch["row"]))
        number, size = self.chunks[self.current]
        if len(self.rows) < size:
            return
        merged = {key: _merge([output[key] for output in self.outputs]) for key in self.outputs[0]}
        self.write(number, np.asarray(self.rows), merged)
        self.current += 1
        self.rows, self.outputs = [], []


def _host(value: Any) -> Any:
    """A copy of a tensor, whose memory may be the batch's; anything else as it is."""
    return np.array(value.float().cpu().numpy()) if isinstance(value, Tensor) else value


def _merge(parts: list[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [item for part in parts for item in part]


class Passing(LightningModule):
    """For stages whose work is done in the loader's workers: hands the batch on."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """The batch without its row numbers."""
        return {key: value for key, value in batch.items() if key != "row"}


def predict_rows(
    session: Session,
    module: LightningModule,
    *,
    title: str,
    folder: Path,
    keys: pa.Array,
    rows: np.ndarray,
    load: Callable[[int], dict[str, Any]],
    finish: Callable[[np.ndarray, dict[str, Any]], Output],
    loop: Loop,
) -> None:
    """Runs `module.predict_step` over the given rows of an index and writes part files into `folder`.

    rows: int64 [n], ascending. load(row): what the loader's workers make of a row (arrays of equal shape are stacked).
    finish(rows, outputs): the columns and arrays of one chunk. Parts that are there already are not done again.
    """
    chunk_of = rows // loop.chunk_rows
    starts = np.flatnonzero(np.diff(chunk_of, prepend=-1))
    chunks = dict(zip(chunk_of[starts].tolist(), np.split(rows, starts[1:]), strict=True)) if len(rows) else {}

    def write(number: int, rows: np.ndarray, outputs: dict[str, Any]) -> None:
        columns, arrays = finish(rows, outputs)  # arrays first, Parquet last as the sign that the part is whole
        write_part(folder, number, rows, keys, columns, arrays)

    def done(number: int) -> bool:
        return (folder / f"part-{number:05d}.parquet").exists()

    predict_chunks(session, module, title=title, chunks=chunks, done=done, load=load, write=write, loop=loop)
    if not rows.size:  # a stage that no row reached still has one, empty, part
        session.on_zero(lambda: write(0, np.empty(0, np.int64), {}))


def predict_chunks(
    session: Session,
    module: LightningModule,
    *,
    title: str,
    chunks: Mapping[int, np.ndarray],
    done: Callable[[int], bool],
    load: Callable[[int], dict[str, Any]],
    write: Write,
    loop: Loop,
    unit: str = "img",
) -> None:
    """Runs `module.predict_step` over chunks of rows (number -> rows int64) on all ranks, each chunk on one of them.

    done(number): whether a chunk was written before; it is not done again. write: must make a chunk appear whole or
    not at all. Of `loop`, `chunk_rows` is not used. unit: what a row is, for the progress bar. Returns when all ranks
    are through.
    """
    # Rank 0 looks once and tells the others, else a fast rank's first chunk would race a slow rank's look.
    todo = session.on_zero(lambda: [number for number in chunks if not done(number)])
    mine = todo[session.rank :: session.world_size]
    if todo:
        batches = _Batches(load, [chunks[number] for number in mine], loop.batch_size)
        workers = min(loop.workers(), len(batches))
        loader = DataLoader(
            batches, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if workers else None, collate_fn=_as_it_is,
        )  # fmt: skip
        total, left = (sum(len(chunks[number]) for number in numbers) for numbers in (chunks, todo))
        bar = Progress(title, total, total - left, unit, session.is_zero, session.world_size)
        writer = _ChunkWriter([(number, len(chunks[number])) for number in mine], write, bar, batches.memory.used)
        module.allow_zero_length_dataloader_with_multiple_devices = True
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*(LeafSpec|does not have many workers).*")
            try:
                session.trainer(callbacks=[writer]).predict(module, loader, return_predictions=False)
            finally:
                bar.close()
    session.barrier()
