"""The whole stage on a real pipeline: captions in, shards out; on two ranks, after a kill, with other captions."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.ingest import Index
from curation.stages.synthesis import ImageToImage, Synthesis
from curation.workspace import Workspace, write_table
from datamodules.indexing import index_pool
from tests.curation.generation.tiny_diffusion import save_tiny_diffusion

CAPTIONS = [
    ("cod", "a cod"),
    ("cod", "two cods"),
    ("“crab” / 蟹", '一只螃蟹在 "盘子" 里'),
    ("../eel", "an eel's \\ head"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_diffusion(tmp_path_factory.mktemp("model") / "tiny")


def write_captions(root: Path, captions: list[tuple[str, str]]) -> None:
    """The table of the stage before, with one caption that it refused."""
    told = {"model": "m", "seed": 0, "valid": True, "reason": None}
    rows: list[dict] = [
        {"concept": concept, "caption": caption, "number": number, **told}
        for number, (concept, caption) in enumerate(captions)
    ]
    rows.append({**rows[0], "caption": "I cannot help with that.", "valid": False, "reason": "names no concept"})
    write_table(root / "captions" / "captions.parquet", pa.Table.from_pylist(rows))


def stage(folder: Path, **changes: Any) -> Synthesis:
    return Synthesis(
        **{"model": str(folder), "images_per_caption": 6, "steps": 2, "chunk_rows": 5, "batch_size": 2, **changes}
    )


def run(root: Path, synthesis: Synthesis) -> Path:
    context = Context(Workspace(root), Session(accelerator="cpu"), "fish", "", None)
    context.session.start()
    context.session.on_zero(lambda: synthesis.check(context))
    run_stage(synthesis, context)
    return context.workspace.stage_folder("synthesis")


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("0*"))}


def wanted(folder: Path) -> list[str]:
    return pq.read_table(folder / "wanted.parquet")["key"].to_pylist()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    root = tmp_path_factory.mktemp("unbroken")
    write_captions(root, CAPTIONS)
    return run(root, stage(model))


def test_run__every_caption_gives_its_images_with_their_provenance(unbroken: Path, model: Path) -> None:
    assert list(shards(unbroken)) == [f"0000{n}.{ending}" for n in range(5) for ending in ("parquet", "tar")]
    index = index_pool(unbroken, "synthetic", "synthetic")
    assert sorted(wanted(unbroken)) == index["key"].to_pylist() and index.num_rows == 24
    pairs = set(zip(index["made_for"].to_pylist(), index["caption"].to_pylist(), strict=True))
    assert pairs == set(CAPTIONS)
    assert set(index["model"].to_pylist()) == {str(model)} and index["revision"].null_count == 0
    row = pq.read_table(unbroken / "00000.parquet").to_pylist()[0]
    assert (row["status"], row["unsafe"], row["width"], row["height"], row["number"]) == ("success", None, 32, 32, 0)


def test_run__a_finished_stage_does_nothing(unbroken: Path, model: Path, capsys: pytest.CaptureFixture) -> None:
    before = shards(unbroken)
    run(unbroken.parent.parent, stage(model, batch_size=5, chunk_rows=9))  # what only changes its speed
    assert "finished before: 24 images" in capsys.readouterr().out
    assert shards(unbroken) == before


def test_run__two_ranks_write_what_one_writes(unbroken: Path, model: Path, tmp_path: Path, two_ranks: Callable) -> None:
    write_captions(tmp_path, CAPTIONS)
    two_ranks(lambda rank: run(tmp_path, stage(model)))
    assert shards(tmp_path / "images" / "synthetic") == shards(unbroken)


def test_run__a_kill_loses_the_shard_in_flight_only(unbroken: Path, model: Path, tmp_path: Path) -> None:
    write_captions(tmp_path, CAPTIONS)
    folder = tmp_path / "images" / "synthetic"
    child = os.fork()
    if child == 0:
        run(tmp_path, stage(model))
        os._exit(0)
    while not (folder / "00001.parquet").exists():
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("0*.parquet")}
    assert 2 <= len(made) < 5
    run(tmp_path, stage(model))
    assert shards(folder) == shards(unbroken)
    assert {name: (folder / name).stat().st_mtime_ns for name in made} == made


def test_run__captions_that_come_and_go_make_only_what_is_missing(
    unbroken: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_captions(tmp_path, CAPTIONS[:3])
    folder = run(tmp_path, stage(model))
    first, keys = shards(folder), wanted(folder)
    write_captions(tmp_path, CAPTIONS[1:])
    run(tmp_path, stage(model))
    assert "18 images (12 made before)" in capsys.readouterr().out
    assert {name: data for name, data in shards(folder).items() if name in first} == first
    assert set(wanted(folder)) == set(keys[6:]) | set(wanted(unbroken)[18:])
    new = pq.read_table(folder / "00004.parquet")  # the fifth shard: the first four are not touched
    assert set(new["caption"].to_pylist()) == {"an eel's \\ head"}
    write_captions(tmp_path, CAPTIONS)
    run(tmp_path, stage(model))
    assert "24 images (24 made before)" in capsys.readouterr().out
    assert set(wanted(folder)) == set(wanted(unbroken))


def test_run__what_was_deleted_is_made_again_and_indexed_anew(model: Path, tmp_path: Path) -> None:
    write_captions(tmp_path, CAPTIONS[:2])
    made = run(tmp_path, stage(model))
    (made / "00001.tar").unlink()
    stages = {"synthesis": stage(model), "index": Index()}
    context = Context(Workspace(tmp_path), Session(accelerator="cpu"), "fish", "", None, stages=stages)
    for _ in range(2):
        done = [run_stage(each, context) for each in stages.values()]
        assert sorted(wanted(made)) == context.workspace.index["key"].to_pylist()
    assert done == [False, False]
    (made / "00000.parquet").unlink()
    assert [run_stage(each, context) for each in stages.values()] == [True, True]
    assert sorted(wanted(made)) == context.workspace.index["key"].to_pylist()


def test_run__other_settings_make_other_images(unbroken: Path, model: Path, tmp_path: Path) -> None:
    write_captions(tmp_path, CAPTIONS[:1])
    keys = [set(wanted(run(tmp_path, stage(model, **change)))) for change in ({}, {"seed": 1}, {"guidance": 1.0})]
    assert keys[0] <= set(wanted(unbroken)) and not keys[0] & keys[1] and not keys[1] & keys[2]
    folder = tmp_path / "images" / "synthetic"
    assert index_pool(folder, "synthetic", "synthetic").num_rows == 18  # the old ones stay on disk


def test_run__image_to_image_begins_with_pictures_of_the_concept(model: Path, tmp_path: Path) -> None:
    write_captions(tmp_path, CAPTIONS)
    for name, colour in (("cod/1.png", "red"), ("crab_蟹/2.png", "blue")):
        (tmp_path / "real" / name).parent.mkdir(parents=True)
        Image.radial_gradient("L").convert("RGB").point(lambda v, c=colour: v // (1 + (c == "red"))).save(
            tmp_path / "real" / name
        )
    folder = run(tmp_path, stage(model, image_to_image=ImageToImage(str(tmp_path / "real"), 0.5)))
    table = pq.read_table(folder / "00000.parquet")
    assert set(table["picture"].to_pylist()) == {"cod/1.png"} and set(table["status"].to_pylist()) == {"success"}
    assert len(wanted(folder)) == 18  # not of eel, of which there is no picture


def test_run__a_model_that_draws_nothing_ends_the_run_at_the_first_shard(tmp_path: Path) -> None:
    broken = save_tiny_diffusion(tmp_path / "broken", spoil="numbers")
    write_captions(tmp_path, CAPTIONS)
    with pytest.raises(
        RuntimeError, match=r"all 16 images .* no numbers; .* set curation\.synthesis\.dtype to bfloat16"
    ):
        run(tmp_path, stage(broken, chunk_rows=16, batch_size=8))
    with pytest.raises(RuntimeError, match=r"none of 24 images could be made, .* its pixels are no numbers"):
        run(tmp_path, stage(broken, seed=1, chunk_rows=8, batch_size=8))  # shards too small to judge the model by


def test_run__a_finished_stage_needs_no_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--some--pipeline"
    shutil.copytree(model, repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    write_captions(tmp_path, CAPTIONS[:1])
    synthesis = stage(model, model="some/pipeline")
    folder = run(tmp_path, synthesis)
    assert pq.read_table(folder / "00000.parquet")["revision"].to_pylist() == ["0123abcd"] * 5
    shutil.rmtree(tmp_path / "cache")
    run_stage(synthesis, Context(Workspace(tmp_path), Session(accelerator="cpu"), "fish", "", None))
    assert "finished before: 6 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images_per_caption": 0}, "images_per_caption is 0; use a number from 1 up"),
        ({"height": 100}, "height is 100; use a multiple of 8"),
        ({"dtype": "half"}, "dtype is 'half'; use one of bfloat16, float16, float32, or null"),
        ({"scheduler": "Fast"}, "scheduler is 'Fast', which diffusers .* does not have"),
        ({"model": "no/such-model"}, "model is 'no/such-model', which .* `hf download no/such-model`"),
        ({"image_to_image": ImageToImage("none", 0.5)}, "image_to_image.folder: none is no folder"),
        ({"image_to_image": ImageToImage("none", 0.1)}, r"image_to_image.strength is 0.1; .*\(2\) times it"),
    ],
)
def test_check__names_the_key_and_the_remedy(model: Path, tmp_path: Path, changes: dict, told: str) -> None:
    write_captions(tmp_path, CAPTIONS)
    context = Context(Workspace(tmp_path), Session(accelerator="cpu"), "fish", "", None)
    with pytest.raises((ValueError, FileNotFoundError), match=f"^curation.synthesis.{told}"):
        stage(model, **changes).check(context)


def test_check__captions_there_must_be(model: Path, tmp_path: Path) -> None:
    context = Context(Workspace(tmp_path), Session(accelerator="cpu"), "fish", "", None)
    with pytest.raises(
        ValueError, match=r"curation\.captions is null; give curation\.captions\.model\.model, or put a table"
    ):
        stage(model).check(context)
    write_table(
        tmp_path / "captions" / "captions.parquet", pa.table({"concept": ["a"], "caption": ["b"], "valid": [False]})
    )
    with pytest.raises(ValueError, match="holds no valid caption"):
        run(tmp_path, stage(model))
