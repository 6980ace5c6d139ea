"""Speeds of this machine for a plan: a few seconds of each model that is at hand."""

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from curation.language import LanguageModel, Request, ask, release
from curation.stage import Context
from curation.stages.embed import Embedder
from datamodules.decoding import ImageLimits, decode_rgb

if TYPE_CHECKING:
    from curation.pipeline import Curation
    from curation.stages.text import Text

SECONDS = 3.0  # of each measurement, after one round to warm up
PICTURE_PX = (500, 375)  # about an image of the web
PROMPT = "Name ten dishes, one a line, without explanations. ({})"


def measure(curation: "Curation", context: Context) -> tuple[dict[str, float], list[str]]:
    """Rates (names of planning.Rates) measured here, and a line for each model that could not be tried.

    Images are random pictures of 500 x 375 pixels; a language model answers a short question; a generator draws one
    batch. On several GPUs the figures are those of one of them.
    """
    found: dict[str, float] = {}
    missing: list[str] = []
    for name, work in _measurements(curation, context).items():
        try:
            found[name] = work()
        except (ValueError, OSError, RuntimeError) as error:
            missing.append(f"{name}: not measured, as {' '.join(str(error).split())}")
    return found, missing


def _measurements(curation: "Curation", context: Context) -> dict[str, Callable[[], float]]:
    works: dict[str, Callable[[], float]] = {
        "decoded_per_s": lambda: _decoded() * curation_loaders(curation),
        "embedded_per_s": lambda: _embedded(curation, context),
    }
    if curation.text is not None:
        text = curation.text
        if text.detector.kind == "fast":
            works["read_on_gpu_per_s"] = lambda: _read_batches(text, context)
        else:
            works["read_per_s"] = lambda: _read(text.detector) * curation_loaders(curation)
    if curation.synthesis is not None:
        works["generated_per_s"] = lambda: _generated(curation, context)
    asked = [curation.captions.model] if curation.captions else []
    asked += [curation.concepts.discover.generator] if curation.concepts.discover else []
    if asked:
        model = asked[0]
        works["endpoint_s" if model.endpoint else "answers_per_s"] = lambda: _answered(model, context)
    return works


def curation_loaders(curation: "Curation") -> int:
    """Processes of this machine that decode images."""
    from curation.prediction import Loop

    return max(1, Loop(num_workers=curation.ingest.num_workers).workers())


def _repeat(work: Callable[[], int]) -> float:
    """Items a second of a work that returns how many it did."""
    work()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        done += work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return done / (time.perf_counter() - began)


def _picture(number: int) -> np.ndarray:
    small = np.random.default_rng(number).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(PICTURE_PX, Image.Resampling.BICUBIC))


def _decoded() -> float:
    buffer = io.BytesIO()
    Image.fromarray(_picture(0)).save(buffer, "JPEG", quality=88)
    data, limits = buffer.getvalue(), ImageLimits()

    def work() -> int:
        for _ in range(16):
            decode_rgb(data, limits)
        return 16

    return _repeat(work)


def _device(context: Context) -> str:
    return "cuda" if context.session.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


@torch.inference_mode()
def _embedded(curation: "Curation", context: Context) -> float:
    encoders = curation.embed.encoders()
    module = Embedder(encoders).to(_device(context))
    picture, size = _picture(1), curation.embed.batch_size if _device(context) == "cuda" else 8
    batch = {name: torch.from_numpy(np.stack([prepare(picture)] * size)) for name, prepare in module.prepare().items()}

    def work() -> int:
        module.predict_step(batch, 0)
        return size

    with torch.autocast(_device(context), torch.bfloat16, enabled="bf16" in context.session.precision):
        return _repeat(work)


def _read(detector: Any) -> float:
    picture = _picture(2)

    def work() -> int:
        detector.detect(picture)
        return 1

    return _repeat(work)


@torch.inference_mode()
def _read_batches(text: "Text", context: Context) -> float:
    device = _device(context)
    finder: Any = text.detector.finder()
    prepared, size = text.detector.prepare(_picture(2)), text.batch_size if device == "cuda" else 2
    batch = {name: torch.from_numpy(np.stack([value] * size)).to(device) for name, value in prepared.items()}
    finder.to(device)

    def work() -> int:
        finder(batch)
        return size

    with torch.autocast(device, torch.bfloat16, enabled="bf16" in context.session.precision):
        return _repeat(work)


@torch.inference_mode()
def _generated(curation: "Curation", context: Context) -> float:
    assert curation.synthesis is not None
    curation.synthesis.check(context)
    generator = curation.synthesis.generator(context).to(_device(context))
    size = generator.limit
    batch = {"caption": ["a photo"] * size, "seed": list(range(size)), "picture_list": [None] * size}

    def work() -> int:
        generator.predict_step(batch, 0)
        return size

    return _repeat(work)


def _answered(model: LanguageModel, context: Context) -> float:
    """Answers a second of a local model; seconds for one answer of an endpoint."""
    key = "curation.captions.model"
    model.check(key)
    count = model.concurrency if model.endpoint else model.batch_size

    def answer(folder: Path, first: int) -> float:
        requests = [Request(PROMPT.format(number), seed=number) for number in range(first, first + count)]
        began = time.perf_counter()
        ask(model, requests, folder=folder, session=context.session, key=key, title="measure")
        return time.perf_counter() - began

    with tempfile.TemporaryDirectory() as folder:
        answer(Path(folder), 0)  # loads the model
        seconds = answer(Path(folder), count)
    release()
    return seconds if model.endpoint else count / seconds
