"""The embedding pass beside its two halves alone: `pytest -m benchmark -s` shows figures.

One loader process decodes and resizes for all encoders, one process embeds. The wall clock of a shared machine says
little, so that each process is measured by its own CPU time: with a core for each, the slower of the two sets the pace,
in the pass as alone.
"""

import io
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from curation.copy_descriptors import CopyDescriptor
from curation.image_encoder import ImageEncoder
from curation.prediction import Loop
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.embed import Embedder, embed_rows, image_reader
from curation.stages.ingest import Index, Ingest
from curation.workspace import Workspace
from tests.tiny import Pixels

ROWS, BATCH, BOUND = int(os.environ.get("PAS_ROWS", "600")), 32, 0.9


def photo(number: int) -> bytes:
    """A JPEG of about 80 kB and 500 x 375 px: blotches of colour under the noise of a camera."""
    rng = np.random.default_rng(number)
    size = (500, 375) if number % 3 else (375, 500)
    blotches = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    colours = np.asarray(blotches.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    grain = rng.normal(0, 12, (*colours.shape[:2], 1)).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray((colours + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("embedding")
    (folder / "pool").mkdir()
    for number in range(ROWS):
        (folder / "pool" / f"{number:05d}.jpg").write_bytes(photo(number))
    stages = {"index": Index(), "ingest": Ingest(num_workers=1)}
    space = Workspace(folder / "ws")
    context = Context(space, Session(accelerator="cpu"), "x", "", folder / "pool", stages=stages)
    for stage in stages.values():
        run_stage(stage, context)
    return context


def encoders(folder: Path, networks: dict[str, str]) -> dict[str, ImageEncoder]:
    """Random timm models at 224 px, and a light TorchScript descriptor at SSCD's 320."""
    import timm

    torch.manual_seed(0)
    torch.jit.save(torch.jit.trace(Pixels(), torch.zeros(1, 3, 320, 320)), str(folder / "copy.pt"))
    made: dict[str, ImageEncoder] = {"copy": CopyDescriptor.load(str(folder / "copy.pt"))}
    for name, network in networks.items():
        torch.save(timm.create_model(network).state_dict(), folder / f"{name}.pt")
        made[name] = CopyDescriptor.load(f"timm:{network}", pretrained=str(folder / f"{name}.pt"))
    return made


def cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "networks", [{"image": "test_vit3"}, {"image": "vit_tiny_patch16_224", "clipn": "resnet18"}],
    ids=["light models", "heavy models"],
)  # fmt: skip
def test_embed__as_fast_as_the_slower_of_decode_and_model(
    context: Context, tmp_path: Path, networks: dict[str, str]
) -> None:
    torch.set_num_threads(1)
    models = encoders(tmp_path, networks)
    module, reader, rows = Embedder(models), image_reader(context), np.arange(ROWS)
    prepare = module.prepare()

    for make in prepare.values():
        make(reader.rgb(0))  # compiles
    began = time.process_time()
    pictures = {name: [] for name in prepare}
    for row in rows.tolist():
        image = reader.rgb(row)
        for name, make in prepare.items():
            pictures[name].append(make(image))
    decode = time.process_time() - began

    batches = [
        {name: torch.from_numpy(np.stack(made[first : first + BATCH])) for name, made in pictures.items()}
        for first in range(0, ROWS, BATCH)
    ]
    with torch.inference_mode():
        module.predict_step(batches[0], 0)
        began = time.process_time()
        for batch in batches:
            module.predict_step(batch, 0)
        model = time.process_time() - began

    keys = context.workspace.index["key"].combine_chunks()
    before, wall = [cpu(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)], time.perf_counter()
    embed_rows(context, models, reader, rows, "embed", tmp_path / "out", keys, Loop(256, BATCH, 1))
    wall = time.perf_counter() - wall
    after = [cpu(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    embedding, loading = (late - early for late, early in zip(after, before, strict=True))

    share = max(decode, model) / max(embedding, loading)
    parts = {"decode alone": decode, "model alone": model, "in the pass": loading, "and": embedding, "wall": wall}
    told = ", ".join(f"{part} {seconds / ROWS * 1e3:.2f}" for part, seconds in parts.items())
    print(f"\n{ROWS} images of 500 x 375 px, {len(models)} encoders, ms an image: {told}; {share:.0%} of the slower")
    assert share >= BOUND
