"""The embedding pass beside its two halves alone: `pytest -m benchmark -s` shows figures.

One loader process decodes and resizes for all encoders, one process embeds. The wall clock of a shared machine says
little, so that each process is measured by its own CPU time: with a core for each, the slower of the two sets the pace,
in the pass as alone. Alone means side by side without exchanging anything.
"""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from curation.copy_descriptors import CopyDescriptor
from curation.image_encoder import ImageEncoder
from curation.prediction import Loop
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.embed import Embedder, embed_rows, image_reader
from curation.stages.ingest import Index, Ingest
from curation.workspace import Workspace
from tests.benchmarks.processes import measured, run_beside

ROWS, BATCH, TRIES, BOUND = int(os.environ.get("PAS_ROWS", "1024")), 32, 3, 0.9


class Grid(nn.Module):
    """Some pixels: a descriptor that costs nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::20, ::20].flatten(1)


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


def encoders(folder: Path, networks: list[str]) -> dict[str, ImageEncoder]:
    """A light TorchScript descriptor at SSCD's 320 px and another at 224, and random timm models."""
    import timm

    torch.manual_seed(0)
    torch.jit.save(torch.jit.trace(Grid(), torch.zeros(1, 3, 320, 320)), str(folder / "copy.pt"))
    made: dict[str, ImageEncoder] = {
        "copy": CopyDescriptor.load(str(folder / "copy.pt")), "small": CopyDescriptor.load(str(folder / "copy.pt"), 224)
    }  # fmt: skip
    for network in networks:
        torch.save(timm.create_model(network).state_dict(), folder / f"{network}.pt")
        made[network] = CopyDescriptor.load(f"timm:{network}", pretrained=str(folder / f"{network}.pt"))
    return made


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("networks", "count"), [([], ROWS), (["vit_tiny_patch16_224", "resnet18"], ROWS // 4)],
    ids=["slow decode", "slow model"],
)  # fmt: skip
def test_embed__as_fast_as_the_slower_of_decode_and_model(
    context: Context, tmp_path: Path, networks: list[str], count: int
) -> None:
    torch.set_num_threads(1)
    models = encoders(tmp_path, networks)
    module, reader, rows = Embedder(models), image_reader(context), np.arange(count)
    prepare = module.prepare()

    pictures: dict[str, np.ndarray] = {name: np.empty((0,)) for name in prepare}

    def decode() -> None:
        for row in rows.tolist():
            image = reader.rgb(row)
            for name, make in prepare.items():
                made = make(image)
                if not pictures[name].size:
                    pictures[name] = np.empty((BATCH, *made.shape), np.uint8)
                pictures[name][row % BATCH] = made

    @torch.inference_mode()
    def embed() -> None:
        batch = {name: torch.from_numpy(made) for name, made in pictures.items()}
        for _ in range(count // BATCH):
            module.predict_step(batch, 0)

    def together(number: int) -> tuple[float, float, float]:
        """Both halves at once without exchanging anything, so that they disturb each other as much as in the pass."""
        return measured(lambda: run_beside(decode, embed))

    def whole(number: int) -> tuple[float, float, float]:
        keys, loop = context.workspace.index["key"].combine_chunks(), Loop(256, BATCH, 1)
        folder = tmp_path / str(number)
        return measured(lambda: embed_rows(context, models, reader, rows, "embed", folder, keys, loop))

    decode(), embed()  # compiles
    tries = [(together(number), whole(number)) for number in range(TRIES)]  # in turn; the fastest of each counts
    halves, (loading, embedding, wall) = np.min(tries, axis=0)
    share = max(halves[:2]) / max(embedding, loading)
    parts = {"decode alone": halves[0], "model alone": halves[1], "in the pass": loading, "and": embedding,
             "wall": wall}  # fmt: skip
    told = ", ".join(f"{part} {taken / count * 1e3:.2f}" for part, taken in parts.items())
    print(f"\n{count} images of 500 x 375 px, {len(models)} encoders, ms an image: {told}; {share:.0%} of the slower")
    assert share >= BOUND
