"""The out-of-domain scores of a small workspace's images."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.encoders import ImageTextEncoder, embed_words
from curation.ood import score_images
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.concepts import Concepts
from curation.stages.embed import Embed, ImageText
from curation.stages.ood import Ood
from curation.workspace import Workspace, write_part
from tests.curation.small_workspace import KEYS, finish, save_workspace
from tests.tiny import save_clip

pytest.importorskip("open_clip")
BANK, GENERAL = ["red square", "blue circle"], ["shape", "red square"]
ROWS = np.arange(1, 8)  # row 0 cannot be read


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


def unit_rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def context(root: Path, clip: Path, ood: Ood, bank: list[str] = BANK, images: np.ndarray | None = None) -> Context:
    """With stored embeddings in place of the stages that make them."""
    space = Workspace(root)
    if not root.exists():
        shutil.rmtree(save_workspace(root).stage_folder("ood"))
    images = unit_rows(7, 0) if images is None else images
    write_part(space.stage_folder("embed"), 0, ROWS, pa.array(KEYS), {}, {"image": images})
    finish(space, "embed")
    stages: dict[str, Any] = {"embed": Embed(image_text=ImageText(str(clip), None)),
                              "concepts": Concepts(words=bank, general=GENERAL), "ood": ood}  # fmt: skip
    made = Context(space, Session(accelerator="cpu"), "shapes", "", None, stages=stages)
    for stage in (stages["concepts"], ood):
        stage.check(made)
        run_stage(stage, made)
    return made


def files(made: Context) -> dict[str, int]:
    return {
        path.name: path.stat().st_mtime_ns for path in made.workspace.stage_folder("ood").rglob("text_features/*/*")
    }


def test_ood__scores_against_both_banks(tmp_path: Path, clip: Path) -> None:
    made = context(tmp_path / "ws", clip, Ood(templates=["a {}", "{}"]))
    encoder = ImageTextEncoder.load(str(clip))
    _, images = made.workspace.embeddings("embed", "image")
    texts = {str(words): [embed_words(encoder, words, ["a {}", "{}"], no=no) for no in (False, True)]
             for words in (BANK, GENERAL)}  # fmt: skip
    table = made.workspace.columns("ood")
    scores, best, similarity = score_images(images, *texts[str(BANK)])
    assert table["key"].to_pylist() == KEYS[1:]
    assert table["concept"].to_pylist() == [BANK[place] for place in best]
    for name, expected in (
        ("ood", scores), ("ood_general", score_images(images, *texts[str(GENERAL)])[0]), ("text_gap", np.zeros(7)),
        ("concept_similarity", similarity),
    ):  # fmt: skip
        np.testing.assert_allclose(table[name].to_numpy(), expected, atol=2e-5)
        assert table[name].type == pa.float32()


def test_ood__concepts_that_are_there_are_not_embedded_again(tmp_path: Path, clip: Path) -> None:
    before = files(context(tmp_path / "ws", clip, Ood()))
    assert len(before) == 1
    assert files(context(tmp_path / "ws", clip, Ood(rule="ctw"))) == before
    after = files(context(tmp_path / "ws", clip, Ood(), bank=[*BANK, "green noise"]))
    assert len(after) == 2 and before.items() < after.items()


def test_ood__concepts_are_kept_for_one_architecture(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"the same file, which both architectures can load")

    def folder(name: str) -> Path:
        stages: dict[str, Any] = {"embed": Embed(clipn=ImageText(name, str(weights)))}
        return (
            Ood()._features(Context(Workspace(tmp_path), Session(accelerator="cpu"), "x", "", None, 0, stages)).folder
        )

    assert folder("ViT-B-16") == folder("ViT-B-16") != folder("ViT-B-16-quickgelu")


def test_ood__an_embedding_that_is_nan_is_named(tmp_path: Path, clip: Path) -> None:
    images = unit_rows(7, 0)
    images[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"the embedding of e\.jpg \(row 4\) in .*embed holds NaN.*Delete .*run again"):
        context(tmp_path / "ws", clip, Ood(), images=images)


def test_ood__one_concept_and_equal_images(tmp_path: Path, clip: Path) -> None:
    made = context(tmp_path / "ws", clip, Ood(), bank=["red square"], images=np.repeat(unit_rows(1, 0), 7, axis=0))
    table = made.workspace.columns("ood")
    assert set(table["concept"].to_pylist()) == {"red square"} and len(set(table["ood"].to_pylist())) == 1


@pytest.mark.parametrize(
    ("ood", "message"),
    [
        (Ood(rule="msp"), "rule must be atd or ctw, got 'msp'"),
        (Ood(templates="clpn"), "templates: 'clpn' is no set of prompts"),
        (Ood(templates=["a photo"]), r"templates: 'a photo' must hold exactly one \{\}"),
        (Ood(logit_scale=0), "logit_scale must be positive, got 0"),
    ],
)
def test_ood__wrong_settings_are_named(tmp_path: Path, clip: Path, ood: Ood, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^curation\.ood\.{message}"):
        context(tmp_path / "ws", clip, ood)
