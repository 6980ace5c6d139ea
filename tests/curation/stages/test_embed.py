"""The embedding pass: one decode for every encoder, and outputs that nobody could use are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from curation.encoders import ImageTextEncoder
from curation.images import ImageReader
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.embed import Copy, Embed, Embedder, ImageText
from curation.stages.ingest import Index, Ingest
from curation.workspace import Workspace
from tests.tiny import picture, save_clip, save_descriptor


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_clip(folder / "clip")
    save_clip(folder / "clipn")
    save_descriptor(folder / "copy.pt")
    (folder / "pool").mkdir()
    for number in range(7):
        picture(number).resize((48 + number % 3, 50)).save(folder / "pool" / f"{number}.png")
    return folder


def embed(home: Path, workspace: Path, copy: Copy, precision: str = "32-true", **changes: object) -> Workspace:
    clip = ImageText(str(home / "clip"), None)
    stages = {
        "index": Index(), "ingest": Ingest(num_workers=0),
        "embed": Embed(image_text=clip, copy=copy, chunk_rows=4, batch_size=3, num_workers=0, **changes),
    }  # fmt: skip
    session = Session(accelerator="cpu", precision=precision)
    context = Context(Workspace(workspace), session, "x", "", home / "pool", stages=stages)
    for stage in stages.values():
        run_stage(stage, context)
    return context.workspace


def test_embed__decodes_once_for_every_encoder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    rgb = ImageReader.rgb
    embed(home, tmp_path / "ws", Copy(str(home / "copy.pt"), 24))  # so that ingest's own look is over
    (tmp_path / "ws/columns/embed/stage.json").unlink()
    monkeypatch.setattr(ImageReader, "rgb", lambda self, row: seen.append(row) or rgb(self, row))
    space = embed(home, tmp_path / "ws", Copy(str(home / "copy.pt"), 24), clipn=ImageText(str(home / "clipn"), None))
    assert seen == list(range(7))
    shapes = {name: space.embeddings("embed", name)[1].shape for name in ("image", "copy", "clipn")}
    assert shapes == {"image": (7, 16), "copy": (7, 108), "clipn": (7, 16)}


def test_embedder__encoders_that_prepare_alike_share_the_pictures(home: Path) -> None:
    encoders = {
        "image": ImageTextEncoder.load(str(home / "clip")), "copy": Copy(str(home / "copy.pt"), 24).load(),
        "clipn": ImageTextEncoder.load(str(home / "clipn")),
    }  # fmt: skip
    module = Embedder(encoders)
    image = np.asarray(picture(0))
    batch = {name: torch.from_numpy(prepare(image)[None]) for name, prepare in module.prepare().items()}
    assert {name: pixels.shape for name, pixels in batch.items()} == {"image": (1, 3, 16, 16), "copy": (1, 3, 24, 24)}
    found = module.predict_step(batch, 0)
    for name, encoder in encoders.items():
        alone = encoder.embed_images(torch.from_numpy(encoder.prepare(image)[None]))
        assert torch.equal(found[name], alone)


def test_embed__mixed_precision_is_near_and_unit(home: Path, tmp_path: Path) -> None:
    clip = ImageText(str(home / "clip"), None)
    exact, rough = (
        embed(home, tmp_path / precision, Copy(str(home / "clip")), precision, clipn=clip).embeddings("embed", "copy")[
            1
        ]
        for precision in ("32-true", "bf16-mixed")
    )
    difference = np.abs(exact[:] - rough[:]).max()
    assert 0 < difference < 0.05
    np.testing.assert_allclose(np.linalg.norm(rough[:], axis=1), 1, atol=1e-6)


def test_embed__short_side_of_pictures_of_many_shapes(home: Path, tmp_path: Path) -> None:
    copy = Copy(str(home / "copy.pt"), 24, resize="short")
    found = embed(home, tmp_path / "ws", copy).embeddings("embed", "copy")[1][:]
    descriptor = copy.load()
    pictures = [np.asarray(picture(number).resize((48 + number % 3, 50))) for number in range(7)]
    alone = [descriptor.embed_images([descriptor.prepare(image)])[0].numpy() for image in pictures]
    np.testing.assert_allclose(found, alone, atol=1e-3)


class Dark(nn.Module):
    """Takes the root of an image's mean: NaN for a dark one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)).sum(1, keepdim=True).add(5.5).sqrt().expand(-1, 4)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_embed__embedding_that_is_not_finite_is_refused(home: Path, tmp_path: Path, precision: str) -> None:
    (tmp_path / "pool").mkdir()
    for number in range(7):
        picture(number).point(lambda value, n=number: value // 40 if n == 5 else value // 8 + 200).save(
            tmp_path / "pool" / f"{number}.png"
        )
    torch.jit.save(torch.jit.trace(Dark(), torch.zeros(1, 3, 24, 24)), str(tmp_path / "dark.pt"))
    for name in ("clip", "clipn", "copy.pt"):
        (tmp_path / name).symlink_to(home / name)
    told = (
        r"embed: 5\.png \(row 5\) has an embedding that is not finite, from curation\.embed\.copy\.model .*dark\.pt; "
    )
    more = "its weights" if precision == "32-true" else "run again with curation.precision: 32-true"
    with pytest.raises(ValueError, match=told + more):
        embed(tmp_path, tmp_path / "ws", Copy(str(tmp_path / "dark.pt"), 24), precision)
    assert not (tmp_path / "ws/columns/embed/part-00001.parquet").exists()
