"""Diffusers pipelines: loaded whole, and called with the settings that they know."""

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curation.generation.weights import components, variant
from curation.repositories import stored_numbers

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Sampling:
    """How a pipeline draws an image; see the settings of the stage. dtype: of torch. strength: image to image, or None.

    height, width: pixels, None for the pipeline's own.
    """

    steps: int
    guidance: float
    scheduler: str | None
    height: int | None
    width: int | None
    negative_prompt: str | None
    dtype: str
    strength: float | None
    quality: int


def load_pipeline(folder: Path, sampling: Sampling, key: str) -> Any:
    """The pipeline in `folder`, on the CPU. Raises ValueError, naming `key`, where it cannot be used."""
    from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image

    kind = AutoPipelineForText2Image if sampling.strength is None else AutoPipelineForImage2Image
    try:
        with quiet():
            pipeline = kind.from_pretrained(
                folder, dtype=getattr(torch, sampling.dtype), variant=variant(folder), local_files_only=True
            )  # fmt: skip
    except (OSError, ValueError, KeyError, ImportError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{key}.model: diffusers cannot load {folder} as {kind.__name__} ({error})") from error
    pipeline.set_progress_bar_config(disable=True)
    _check_complete(pipeline, folder, key)
    _set_scheduler(pipeline, sampling.scheduler, key)
    if hasattr(getattr(pipeline, "vae", None), "enable_slicing"):
        pipeline.vae.enable_slicing()  # decoding image by image, a batch's memory is the denoiser's
    return pipeline


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' progress bars and notes; what is missing is our error."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        diffusers_logging.enable_progress_bar()
        transformers_logging.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_complete(pipeline: Any, folder: Path, key: str) -> None:
    """Raises ValueError where a network has more parameters than its files: libraries would draw the rest at random."""
    for name in components(folder):
        part = getattr(pipeline, name, None)
        if isinstance(part, nn.Module):
            wanted = sum(parameter.numel() for parameter in part.parameters())
            stored = _stored_numbers(folder / name)
            if stored < wanted:
                raise ValueError(
                    f"{key}.model: {folder / name} holds {stored:,} of the {wanted:,} parameters of its architecture; "
                    "it is damaged or another model's: copy the model's folder anew"
                )


def _stored_numbers(folder: Path) -> int:
    """How many parameters the files of a network hold."""
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return sum(map(stored_numbers, files))
    states = (torch.load(file, map_location="meta", weights_only=True) for file in sorted(folder.glob("*.bin")))
    return sum(tensor.numel() for state in states for tensor in state.values())


def _set_scheduler(pipeline: Any, name: str | None, key: str) -> None:
    if name is None:
        return
    fitting = {kind.__name__: kind for kind in pipeline.scheduler.compatibles}
    if name not in fitting:
        raise ValueError(
            f"{key}.scheduler is {name!r}; {type(pipeline).__name__} takes one of {', '.join(sorted(fitting))}, or "
            f"null for its own ({type(pipeline.scheduler).__name__})"
        )
    pipeline.scheduler = fitting[name].from_config(pipeline.scheduler.config)


def call_arguments(pipeline: Any, sampling: Sampling, key: str) -> dict[str, Any]:
    """What a call of the pipeline is given besides captions and generators.

    Raises ValueError for a setting that this pipeline does not know.
    """
    known = inspect.signature(type(pipeline).__call__).parameters
    given = {
        "num_inference_steps": ("steps", sampling.steps), "guidance_scale": ("guidance", sampling.guidance),
        "negative_prompt": ("negative_prompt", sampling.negative_prompt), "height": ("height", sampling.height),
        "width": ("width", sampling.width), "strength": ("image_to_image.strength", sampling.strength),
    }  # fmt: skip
    if sampling.strength is not None and "height" not in known:  # the picture's size decides
        del given["height"], given["width"]
    unknown = [setting for name, (setting, value) in given.items() if value is not None and name not in known]
    unknown = [setting for setting in unknown if setting != "guidance"]  # distilled models have none
    if unknown or "generator" not in known:
        what = f"{key}.{unknown[0]}" if unknown else "a seed for each image"
        remedy = "set it to null, or take another model" if unknown else "take another model"
        raise ValueError(f"{key}.model: {type(pipeline).__name__} knows no {what}; {remedy}")
    return {name: value for name, (_, value) in given.items() if value is not None and name in known}


def picture_size(pipeline: Any, sampling: Sampling, key: str) -> tuple[int, int]:
    """(height, width) in pixels of the pictures that image to image begins with: the settings, or the model's own."""
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    config = getattr(denoiser, "config", None)
    side = getattr(pipeline, "default_sample_size", None) or getattr(config, "sample_size", None)
    own = side * getattr(pipeline, "vae_scale_factor", 0) if isinstance(side, int) else 0
    height, width = sampling.height or own, sampling.width or own
    if not height or not width:
        raise ValueError(f"{key}.model states no size of its own; give {key}.height and {key}.width")
    return height, width
