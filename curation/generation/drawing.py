"""The prediction loop that draws planned images and writes them as shards."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.generation.generator import IS_BLACK, NO_NUMBERS, ImageGenerator
from curation.generation.pictures import SeedPictures
from curation.generation.pipelines import picture_size
from curation.generation.shards import FAILED, SUCCESS, Sample, is_whole, write_shard
from curation.prediction import Loop, predict_chunks
from curation.session import Session

FAULTY = 16  # so many images of a shard, all of them black or no numbers, are the model's or its precision's fault
OUTPUTS = ("jpeg", "error", "unsafe", "width", "height")  # of ImageGenerator.predict_step, each as NAME_list


def draw_shards(
    session: Session, generator: ImageGenerator, folder: Path, plan: pa.Table, shards: Mapping[int, np.ndarray],
    batch_size: int, pictures: SeedPictures | None, made_by: Mapping[str, str | None],
) -> None:  # fmt: skip
    """Draws the images of every shard (number -> rows of `plan`) that is not whole; a shard is one rank's work.

    Batches are cut inside a shard, so that neither the number of ranks nor a kill changes what a batch holds.
    made_by: the columns `model` and `revision`.
    """
    sampling, key = generator.sampling, generator.key
    height, width = picture_size(generator.pipeline, sampling, key) if pictures else (0, 0)
    recipe = {**dataclasses.asdict(sampling), "scheduler": type(generator.pipeline.scheduler).__name__}
    del recipe["height"], recipe["width"]  # the image's own are columns of its row

    def load(row: int) -> dict[str, Any]:
        name = plan["picture"][row].as_py()
        picture = pictures.load(name, height, width) if pictures and name else None
        return {"caption": plan["caption"][row].as_py(), "seed": plan["seed"][row].as_py(), "picture_list": picture}

    def write(number: int, rows: np.ndarray, outputs: dict[str, Any]) -> None:
        planned = plan.take(pa.array(rows)).drop_columns("shard").to_pylist()
        results = zip(*(outputs[f"{name}_list"] for name in OUTPUTS), strict=True)
        samples = [_sample({**row, **made_by}, *result) for row, result in zip(planned, results, strict=True)]
        _check_model(samples, sampling.dtype, key)
        write_shard(folder, number, samples, recipe)

    predict_chunks(
        session, generator, title="synthesis", chunks=shards, done=lambda number: is_whole(folder, number), load=load,
        write=write, loop=Loop(batch_size=batch_size, num_workers=0),
    )  # fmt: skip


def _sample(
    row: dict[str, Any], jpeg: bytes | None, error: str | None, unsafe: bool | None, width: int | None,
    height: int | None,
) -> Sample:  # fmt: skip
    columns = {
        **row, "status": FAILED if error else SUCCESS, "error_message": error, "unsafe": unsafe, "width": width,
        "height": height, "sha256": None if jpeg is None else hashlib.sha256(jpeg).hexdigest(),
    }  # fmt: skip
    return Sample(columns, jpeg)


def _check_model(samples: Sequence[Sample], dtype: str, key: str) -> None:
    """Raises RuntimeError, before days are spent, where a model draws nothing but black or undefined images."""
    errors = [sample.columns["error_message"] for sample in samples]
    if len(errors) >= FAULTY and set(errors) <= {IS_BLACK, NO_NUMBERS}:
        raise RuntimeError(
            f"{key}: all {len(errors)} images of a shard failed, the first as {errors[0]}; the model computes in "
            f"{dtype}: set {key}.dtype to bfloat16 or float32, or look at {key}.scheduler, .steps and .guidance"
        )
