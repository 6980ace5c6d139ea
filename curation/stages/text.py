"""Written words: found, taken out, and the image embedded again without them."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lightning.pytorch import LightningModule
from torch import Tensor

from curation.encoders import ImageTextEncoder
from curation.images import ImageReader
from curation.prediction import Loop, Output, predict_chunks, predict_rows
from curation.stage import Context, Stage, plain, runtime
from curation.stages.embed import Embed, image_reader
from curation.stages.rows import alive
from curation.text import Fill, Polygons, RapidOCRDetector, TextDetector, remove_words, text_area
from curation.workspace import part_files, result_print, write_part
from datamodules.files import fingerprint


@dataclass(frozen=True)
class Text(Stage):
    """Detects text regions, takes them out and embeds the changed images again (paper section 3.3, third score).

    Two passes: the detector sees every image; the images with text, and no others, are decoded again, changed and
    embedded. Another fill, strength or encoder leaves the first pass as it is.

    Args:
        detector: RapidOCRDetector, or FAST as in the paper, whose weights must be downloaded; by `class_path`.
        fill: blur, as in the paper; mean fills a region with the mean colour around it, as T-MARS does.
        strength: Blur sigma as a share of a region's height; 0.5 leaves no word legible. Open in the paper.
        chunk_rows: Rows per output file.
        batch_size: Images per batch, of the detector and of the encoder.
        num_workers: Loader processes per rank; the free cores when null.
    """

    name: ClassVar[str] = "text"
    reads: ClassVar[tuple[str, ...]] = ("embed", "retrieve", "leakage", "duplicates")
    keeps: ClassVar[tuple[str, ...]] = ("found-*",)
    detector: TextDetector = field(default_factory=RapidOCRDetector)
    fill: Fill = "blur"
    strength: float = 0.5
    chunk_rows: int = 512
    batch_size: int = runtime(32)
    num_workers: int | None = runtime(None)

    def identity(self, context: Context) -> dict[str, Any]:
        """The detector's version and checksum."""
        return {"detector": self.detector.identity}

    def check(self, context: Context) -> None:
        """The detector must be installed, its weights its own, and the blur positive."""
        if self.strength <= 0:
            raise ValueError(f"curation.text.strength must be positive, got {self.strength}")
        _ = self.detector.identity
        self.detector.finder()

    def run(self, context: Context) -> dict[str, Any]:
        """Writes text_area, text_boxes, has_blurred and part-*.blurred.npy for the images that have text."""
        rows = alive(context, "retrieve", "leakage", "duplicates")
        found = self._find(context, rows)
        written = self._embed_again(context, found)
        return {"rows": len(rows), "summary": f"{written} of {len(rows)} images have text", "with_text": written}

    def _find(self, context: Context, rows: np.ndarray) -> "_Found":
        """First pass: text_boxes of every row, in a folder that is named by what decides them."""
        workspace = context.workspace
        records = {name: workspace.stage_record(name) for name in ("index", "ingest", "identical", *self.reads[1:])}
        decides = {
            "detector": [plain(self.detector), self.detector.identity], "precision": context.session.precision,
            "reads": {name: result_print(record) for name, record in records.items() if record},
        }  # fmt: skip
        folder = workspace.stage_folder(self.name) / f"found-{fingerprint([decides, self.chunk_rows])[:16]}"
        context.session.on_zero(lambda: _leave_only(folder))
        reader, prepare = image_reader(context), self.detector.prepare

        def finish(rows: np.ndarray, seen: dict[str, Any]) -> Output:
            boxes = pa.array(seen.get("text_boxes", []), pa.list_(pa.list_(pa.int32())))
            return {"text_boxes": boxes, "has_text": pc.greater(pc.list_value_length(boxes), 0)}, {}

        predict_rows(
            context.session, _Find(self.detector.finder()), title=self.name, folder=folder, keys=_keys(context),
            rows=rows, load=lambda row: prepare(reader.rgb(row)), finish=finish, loop=self._loop(),
        )  # fmt: skip
        return _Found(folder, self.chunk_rows)

    def _embed_again(self, context: Context, found: "_Found") -> int:
        """Second pass, over the rows with text; returns how many there are."""
        embed = context.stages["embed"]
        assert isinstance(embed, Embed)
        encoder = (embed.clipn or embed.image_text).load()
        session, folder, keys = context.session, context.workspace.stage_folder(self.name), _keys(context)
        chunks = found.rows_with_text()

        def write(number: int, rows: np.ndarray, made: dict[str, Any]) -> None:
            table = found.part(number)
            has = table["has_text"].to_numpy(zero_copy_only=False)
            area = np.zeros(len(has), np.float32)
            area[has] = made.get("text_area", [])
            blurred = made["blurred"].astype(np.float16) if len(rows) else np.empty((0, encoder.dim), np.float16)
            if not np.isfinite(blurred).all():
                key = keys[int(rows[~np.isfinite(blurred).all(axis=1)][0])]
                raise ValueError(
                    f"curation.text: the embedding of {key} without its words is not finite; if "
                    "curation.precision is 16-mixed, set it to 32-true or bf16-mixed"
                )
            columns = {"text_area": area, "text_boxes": table["text_boxes"].combine_chunks(), "has_blurred": has}
            write_part(folder, number, table["row"].to_numpy(), keys, columns, {"blurred": blurred})

        def done(number: int) -> bool:
            return (folder / f"part-{number:05d}.parquet").exists()

        look = _Look(image_reader(context), found, self.fill, self.strength, encoder.prepare)
        predict_chunks(
            session, _Again(encoder), title=self.name, chunks={n: rows for n, rows in chunks.items() if len(rows)},
            done=done, load=look, write=write, loop=self._loop(),
        )  # fmt: skip
        without = [number for number, rows in chunks.items() if not len(rows)]
        for number in without[session.rank :: session.world_size]:
            if not done(number):
                write(number, chunks[number], {})
        session.barrier()
        return sum(map(len, chunks.values()))

    def _loop(self) -> Loop:
        return Loop(self.chunk_rows, self.batch_size, self.num_workers)


def _keys(context: Context) -> pa.Array:
    return context.workspace.index["key"].combine_chunks()


def _leave_only(folder: Path) -> None:
    """Removes what other settings of the detector left beside the folder."""
    for other in folder.parent.glob("found-*"):
        if other != folder:
            shutil.rmtree(other)


class _Found:
    """The first pass's parts. Reads one at a time and keeps it, for rows come chunk by chunk; goes to workers."""

    def __init__(self, folder: Path, chunk_rows: int) -> None:
        self.folder, self.chunk_rows = folder, chunk_rows
        self.last: tuple[int, pa.Table] | None = None

    def part(self, number: int) -> pa.Table:
        """row, key, text_boxes, has_text of a chunk."""
        if self.last is None or self.last[0] != number:
            self.last = number, pq.read_table(self.folder / f"part-{number:05d}.parquet", use_threads=False)
        return self.last[1]

    def rows_with_text(self) -> dict[int, np.ndarray]:
        """Number of every chunk -> its rows with text, int64."""
        tables = {
            int(path.stem.removeprefix("part-")): pq.read_table(path, columns=["row", "has_text"])
            for path in part_files(self.folder)
        }
        return {number: table.filter(table["has_text"])["row"].to_numpy() for number, table in tables.items()}

    def polygons(self, row: int) -> Polygons:
        """Of one row."""
        table = self.part(row // self.chunk_rows)
        place = int(np.searchsorted(table["row"].to_numpy(), row))
        return [np.asarray(flat, np.int32).reshape(-1, 2) for flat in table["text_boxes"][place].as_py()]


class _Find(LightningModule):
    """The detector's second half over a batch."""

    def __init__(self, find: Callable[[dict[str, Any]], list[Polygons]]) -> None:
        super().__init__()
        self.find = find

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        found = self.find(batch)
        return {"text_boxes": [[polygon.ravel().tolist() for polygon in polygons] for polygons in found]}


class _Look:
    """An image without its words, in a loader's worker."""

    def __init__(self, reader: ImageReader, found: _Found, fill: Fill, strength: float, prepare: Any) -> None:
        self.reader, self.found, self.fill, self.strength, self.prepare = reader, found, fill, strength, prepare

    def __call__(self, row: int) -> dict[str, Any]:
        image, polygons = self.reader.rgb(row), self.found.polygons(row)
        changed = remove_words(image, polygons, self.fill, self.strength)
        return {"text_area": text_area(polygons, *image.shape[:2]), "image": self.prepare(changed)}


class _Again(LightningModule):
    """Embeds the changed images of a batch."""

    def __init__(self, encoder: ImageTextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, list[float] | Tensor]:
        return {"text_area": list(batch["text_area"]), "blurred": self.encoder.embed_images(batch["image"]).float()}
