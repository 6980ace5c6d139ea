"""Written words: found, blurred, and the image embedded again without them."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch import LightningModule

from curation.encoders import ImageTextEncoder
from curation.images import ImageReader
from curation.prediction import Loop, Output, predict_rows
from curation.stage import Context, Stage, runtime
from curation.stages.embed import Embed, image_reader
from curation.stages.rows import alive
from curation.text import RapidOCRDetector, TextDetector, blur_regions, text_area
from curation.workspace import read_parts


@dataclass(frozen=True)
class Text(Stage):
    """Detects text regions, blurs them and embeds the changed images again (paper section 3.3, third score).

    Only images that have text are embedded a second time; the others keep their embedding.

    Args:
        detector: Settings of the detector.
        strength: Blur sigma as a share of a region's height; 0.5 leaves no word legible. Open in the paper.
        chunk_rows: Rows per output file.
        batch_size: Images per batch.
        num_workers: Loader processes per rank; the free cores when null.
    """

    name: ClassVar[str] = "text"
    reads: ClassVar[tuple[str, ...]] = ("embed", "retrieve", "leakage", "duplicates")
    detector: RapidOCRDetector = field(default_factory=RapidOCRDetector)
    strength: float = 0.5
    chunk_rows: int = 512
    batch_size: int = runtime(16)
    num_workers: int | None = runtime(None)

    def identity(self, context: Context) -> dict[str, Any]:
        """The detector's version and checksum."""
        return {"detector": self.detector.identity}

    def check(self, context: Context) -> None:
        """The detector must be installed and the blur positive."""
        if self.strength <= 0:
            raise ValueError(f"curation.text.strength must be positive, got {self.strength}")
        _ = self.detector.identity

    def run(self, context: Context) -> dict[str, Any]:
        """Writes text_area, text_boxes, has_blurred and part-*.blurred.npy for the images that have text."""
        embed = context.stages["embed"]
        assert isinstance(embed, Embed)
        encoder = (embed.clipn or embed.image_text).load()
        rows = alive(context, "retrieve", "leakage", "duplicates")
        look = _Look(image_reader(context), self.detector, self.strength, encoder.prepare)

        def finish(rows: np.ndarray, seen: dict[str, Any]) -> Output:
            area = pa.array(seen.get("text_area", []), pa.float32())
            boxes = pa.array(seen.get("text_boxes", []), pa.list_(pa.list_(pa.int32())))
            has = np.asarray(seen.get("has_blurred", []), bool)
            blurred = seen["blurred"].astype(np.float16) if len(rows) else np.empty((0, encoder.dim), np.float16)
            return {"text_area": area, "text_boxes": boxes, "has_blurred": has}, {"blurred": blurred[has]}

        predict_rows(
            context.session, _Again(encoder), title=self.name, folder=context.workspace.stage_folder(self.name),
            keys=context.workspace.index["key"].combine_chunks(), rows=rows, load=look, finish=finish,
            loop=Loop(self.chunk_rows, self.batch_size, self.num_workers),
        )  # fmt: skip
        folder = context.workspace.stage_folder(self.name)
        written = int(np.sum(read_parts(folder)["has_blurred"].to_numpy(zero_copy_only=False)))
        return {"rows": len(rows), "summary": f"{written} of {len(rows)} images have text"}


class _Look:
    """Detection and blur of one image, in a loader's worker."""

    def __init__(self, reader: ImageReader, detector: TextDetector, strength: float, prepare: Any) -> None:
        self.reader, self.detector, self.strength, self.prepare = reader, detector, strength, prepare

    def __call__(self, row: int) -> dict[str, Any]:
        image = self.reader.rgb(row)
        polygons = self.detector.detect(image)
        if not polygons:
            return {"text_area": 0.0, "text_boxes": [], "has_blurred": False, "image_list": None}
        return {
            "text_area": text_area(polygons, *image.shape[:2]),
            "text_boxes": [polygon.ravel().tolist() for polygon in polygons],
            "has_blurred": True,
            "image_list": self.prepare(blur_regions(image, polygons, self.strength)),
        }


class _Again(LightningModule):
    """Embeds the blurred images of a batch; rows without text get zeros that are not stored."""

    def __init__(self, encoder: ImageTextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        images = [image for image in batch["image_list"] if image is not None]
        blurred = torch.zeros(len(batch["row"]), self.encoder.dim, device=self.device)
        if images:
            stacked = torch.from_numpy(np.stack(images)).to(self.device)
            places = torch.tensor([i for i, image in enumerate(batch["image_list"]) if image is not None])
            blurred[places.to(self.device)] = self.encoder.embed_images(stacked).float()
        keep = ("text_area", "text_boxes", "has_blurred")
        return {**{key: list(batch[key]) for key in keep}, "blurred": blurred}
