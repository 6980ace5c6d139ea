"""A diffusers pipeline as a Lightning module: captions and seeds in, JPEGs out."""

import io
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor, nn

from curation.generation.pipelines import Sampling, call_arguments, quiet

BLACK = 2  # of 255: no pixel of a black image is brighter
IS_BLACK, NO_NUMBERS = "it is black", "its pixels are no numbers"
IS_UNSAFE = "the model's safety checker flagged it and hands out a black image in its place"


class ImageGenerator(LightningModule):
    """A text-to-image or image-to-image pipeline. Each image has a generator of its own, on the CPU, seeded by its row.

    batch_size: at most so many images at once. Where they do not fit into the GPU's memory, half as many: again and
    again if the size is `automatic`, once if it is the person's.
    key: the yaml key of the stage, which errors name.
    """

    def __init__(self, pipeline: Any, sampling: Sampling, key: str, batch_size: int, automatic: bool) -> None:
        super().__init__()
        self.pipeline, self.sampling, self.key = pipeline, sampling, key
        self.limit, self.may_halve, self.automatic = batch_size, True, automatic
        # Registered here, the networks go to the rank's device with this module.
        self.networks = nn.ModuleList(part for part in pipeline.components.values() if isinstance(part, nn.Module))
        self.arguments = call_arguments(pipeline, sampling, key)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, list]:
        """Of each row: the JPEG's bytes (None: failed), why it failed, the safety checker's verdict, width, height."""
        rows = list(zip(batch["caption"], batch["seed"], batch["picture_list"], strict=True))
        results: list[tuple] = []
        while len(results) < len(rows):
            part = rows[len(results) : len(results) + self.limit]
            drawn = self._draw_if_it_fits(part)
            if drawn is None:
                self._halve(len(part))
            else:
                results += drawn
        names = ("jpeg_list", "error_list", "unsafe_list", "width_list", "height_list")
        return dict(zip(names, map(list, zip(*results, strict=True)), strict=True))

    def _draw_if_it_fits(self, rows: list[tuple]) -> list[tuple] | None:
        """`_draw`, or None where the memory does not suffice; what it held is free again only after the return."""
        try:
            return self._draw(rows)
        except torch.OutOfMemoryError:
            return None

    def _draw(self, rows: list[tuple]) -> list[tuple]:
        """(jpeg, error, unsafe, width, height) of each (caption, seed, picture: uint8 [H, W, 3], None, or an error)."""
        good = [row for row in rows if not isinstance(row[2], str)]  # else it says why a picture cannot be read
        drawn = iter(self._sample(*map(list, zip(*good, strict=True))) if good else [])
        return [(None, row[2], None, None, None) if isinstance(row[2], str) else next(drawn) for row in rows]

    def _sample(self, captions: list[str], seeds: list[int], pictures: list[np.ndarray | None]) -> list[tuple]:
        arguments = dict(self.arguments)
        if "negative_prompt" in arguments:
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(captions)
        starts = [Image.fromarray(picture) for picture in pictures if picture is not None]
        if starts:  # of all images, or of none
            arguments["image"] = starts
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        # The weights' own precision holds, whatever the encoders' is.
        with torch.autocast(self.device.type, enabled=False), quiet():
            output = self.pipeline(prompt=captions, generator=generators, output_type="pt", **arguments)
        images: Tensor = output.images
        numbers = images.isfinite().flatten(1).all(1).tolist()
        pixels = images.float().nan_to_num().mul(255).round().clamp(0, 255).to(torch.uint8)
        flagged = getattr(output, "nsfw_content_detected", None) or [None] * len(captions)
        return list(map(self._finish, pixels.permute(0, 2, 3, 1).cpu().numpy(), numbers, flagged))

    def _finish(self, pixels: np.ndarray, number: bool, flagged: bool | None) -> tuple:
        error = IS_UNSAFE if flagged else None if number else NO_NUMBERS
        if error is None and pixels.max() <= BLACK:
            error = IS_BLACK
        unsafe = None if flagged is None else bool(flagged)
        jpeg = encode_jpeg(pixels, self.sampling.quality) if error is None else None
        return jpeg, error, unsafe, pixels.shape[1], pixels.shape[0]

    def _halve(self, size: int) -> None:
        """Draws fewer images at once from here on. Raises RuntimeError where that is at its end."""
        torch.cuda.empty_cache()  # does nothing without a GPU
        if size == 1 or not self.may_halve:
            remedy = (
                f"set {self.key}.batch_size to less, or to null, which finds out what fits" if size > 1 else
                f"set {self.key}.dtype to bfloat16 or {self.key}.height and {self.key}.width to less, or take a "
                f"smaller {self.key}.model"
            )  # fmt: skip
            raise RuntimeError(f"{self.key}: {size} image(s) at once do not fit into the memory of the GPU; {remedy}")
        self.limit, self.may_halve = size // 2, self.automatic
        print(f"{'synthesis':<10} {size} images at once do not fit into memory: {self.limit} from here on", flush=True)


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """A JPEG of uint8 [H, W, 3]; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
