"""The stage of written words, with a real FAST network that takes red for text."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from curation.pipeline import Curation
from curation.session import Session
from curation.stage import run_stage
from curation.stages.concepts import Concepts
from curation.stages.duplicates import Duplicates
from curation.stages.embed import Copy, Embed, ImageText
from curation.stages.ingest import Ingest
from curation.stages.text import Text
from curation.text import FAST, RapidOCRDetector, remove_words, text_area
from curation.workspace import Workspace
from tests.curation.text.red_finder import save_red_finder
from tests.tiny import picture, save_clip, save_descriptor

WITH_TEXT = [1, 2, 7, 8, 9]
COUNT = 14


def save_pictures(folder: Path, with_text: list[int], count: int = COUNT) -> Path:
    """Bluish pictures of several shapes, some with a red box."""
    folder.mkdir()
    for number in range(count):
        rgb = np.array(picture(number))[: 40 + number % 8].copy()
        rgb[..., 0] //= 2  # nothing red by chance
        if number in with_text:
            rgb[10:18, 8:40] = (255, 0, 0)
        Image.fromarray(rgb).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_clip(folder / "clip")
    save_descriptor(folder / "copy.pt")
    save_red_finder(folder / "red.pth")
    prepare(folder, folder / "prepared", save_pictures(folder / "pool", WITH_TEXT))
    return folder


def curation(home: Path, **changes: object) -> Curation:
    settings: dict = {"chunk_rows": 4, "batch_size": 2, "num_workers": 0, "detector": red(home), **changes}
    return Curation(
        domain="patterns", concepts=Concepts(words=["red squares"]), ingest=Ingest(num_workers=0),
        embed=Embed(ImageText(str(home / "clip"), None), Copy(str(home / "copy.pt"), 24), num_workers=0),
        duplicates=Duplicates(threshold=0.999), text=Text(**settings),
    )  # fmt: skip


def prepare(home: Path, workspace: Path, pool: Path) -> Path:
    """A workspace in which all before the stage is finished."""
    curation(home).run(workspace, pool, Session(accelerator="cpu"), stop_after="duplicates")
    return workspace


def run(home: Path, workspace: Path, **changes: object) -> Workspace:
    made = curation(home, **changes)
    session = Session(accelerator="cpu")
    session.start()
    context = made.context(workspace, home / "pool", session)
    run_stage(context.stages["text"], context)
    return Workspace(workspace)


def red(home: Path) -> FAST:
    return FAST(str(home / "red.pth"), square_px=64, min_area=10)


def contents(space: Workspace) -> dict[str, bytes]:
    folder = space.stage_folder("text")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("part-*"))}


@pytest.fixture
def prepared(home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(home / "prepared", tmp_path / "ws"))


@pytest.fixture(scope="module")
def finished(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return run(home, shutil.copytree(home / "prepared", tmp_path_factory.mktemp("finished") / "ws"))


@pytest.mark.parametrize("fill", ["blur", "mean"])
def test_text__only_images_with_text_are_embedded_again(home: Path, prepared: Path, fill: str) -> None:
    space = run(home, prepared, num_workers=1, fill=fill)
    table = space.columns("text")
    has = table["has_blurred"].to_numpy()
    assert [int(key[:3]) for key, text in zip(table["key"].to_pylist(), has, strict=True) if text] == WITH_TEXT
    rows, blurred = space.embeddings("text", "blurred")
    assert rows.tolist() == table["row"].to_numpy()[has].tolist()
    encoder = ImageText(str(home / "clip"), None).load()
    for number, row in enumerate(rows.tolist()):
        rgb = np.array(Image.open(home / "pool" / table["key"][row].as_py()))
        polygons = [np.array(flat).reshape(-1, 2) for flat in table["text_boxes"][row].as_py()]
        area = text_area(polygons, *rgb.shape[:2])
        assert table["text_area"][row].as_py() == pytest.approx(area) and area > 0.1
        changed = encoder.prepare(remove_words(rgb, polygons, fill))  # type: ignore[arg-type]
        expected = encoder.embed_images(torch.from_numpy(changed)[None])[0].numpy()
        np.testing.assert_allclose(blurred[number : number + 1][0], expected, atol=2e-3)
    without = table.filter(pc.invert(table["has_blurred"]))
    assert set(without["text_area"].to_pylist()) == {0.0} and not any(without["text_boxes"].to_pylist())


def test_text__every_image_with_text(home: Path, tmp_path: Path) -> None:
    pool = save_pictures(tmp_path / "pool", list(range(6)), 6)
    space = run(home, prepare(home, tmp_path / "ws", pool))
    rows, blurred = space.embeddings("text", "blurred")
    assert rows.tolist() == list(range(6)) and blurred.shape == (6, 16)


def test_text__no_image_with_text(home: Path, prepared: Path) -> None:
    space = run(home, prepared, detector=dataclasses.replace(red(home), min_area=10**6))
    assert space.embeddings("text", "blurred")[1].shape == (0, 16)
    record = space.stage_record("text")
    assert record is not None and record["summary"] == f"0 of {COUNT} images have text"


def test_text__goes_on_after_a_kill_to_the_same_bytes(home: Path, finished: Workspace, tmp_path: Path) -> None:
    shutil.copytree(finished.root, tmp_path / "ws")
    folder = tmp_path / "ws/columns/text"
    record = json.loads((folder / "stage.json").read_text())
    (folder / "begun.json").write_text(json.dumps({"fingerprint": record["fingerprint"], **record["print"]}))
    (folder / "stage.json").unlink()
    (found,) = folder.glob("found-*")
    for path in (*folder.glob("part-0000[13]*"), *found.glob("part-0000[03]*")):
        path.unlink()
    kept = (folder / "part-00002.parquet").stat().st_mtime_ns
    space = run(home, tmp_path / "ws")
    assert contents(space) == contents(finished)
    assert (folder / "part-00002.parquet").stat().st_mtime_ns == kept


def test_text__two_ranks_write_what_one_writes(
    home: Path, finished: Workspace, prepared: Path, two_ranks: Callable[[Callable[[int], None]], None]
) -> None:
    two_ranks(lambda rank: run(home, prepared) and None)
    assert contents(Workspace(prepared)) == contents(finished)


def test_text__another_strength_does_not_search_again(home: Path, finished: Workspace, tmp_path: Path) -> None:
    shutil.copytree(finished.root, tmp_path / "ws")
    (found,) = (tmp_path / "ws/columns/text").glob("found-*")
    before = {path: path.stat().st_mtime_ns for path in found.iterdir()}
    space = run(home, tmp_path / "ws", strength=2.0)
    assert before == {path: path.stat().st_mtime_ns for path in found.iterdir()}
    again, first = (one.embeddings("text", "blurred")[1][:] for one in (space, finished))
    assert not np.allclose(again, first)
    run(home, tmp_path / "ws", detector=dataclasses.replace(red(home), min_score=0.5))
    assert not found.exists()


def test_text__names_the_detector(home: Path, finished: Workspace) -> None:
    record = finished.stage_record("text")
    assert record is not None
    assert record["models"]["detector"] == red(home).identity
    assert record["settings"]["detector"]["kind"] == "fast"


def test_check__missing_and_wrong_weights_stop_before_any_work(home: Path, tmp_path: Path) -> None:
    def check(**changes: object) -> None:
        context = curation(home, **changes).context(tmp_path / "ws", home / "pool", Session(accelerator="cpu"))
        context.stages["text"].check(context)

    with pytest.raises(FileNotFoundError, match=r"curation\.text\.detector\.model: no file"):
        check(detector=FAST(str(tmp_path / "none.pth")))
    with pytest.raises(ValueError, match=r"curation\.text\.detector\.model: .*copy\.pt"):
        check(detector=FAST(str(home / "copy.pt")))
    with pytest.raises(ValueError, match=r"curation\.text\.strength must be positive, got 0"):
        check(strength=0.0)


def test_text__an_embedding_that_is_no_number_names_its_image(home: Path, prepared: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(home / "clip", tmp_path / "clip")) / "open_clip_pytorch_model.bin"
    weights = torch.load(broken)
    weights["visual.proj"][0, 0] = torch.nan
    torch.save(weights, broken)
    embed = Embed(ImageText(str(tmp_path / "clip"), None), Copy(str(home / "copy.pt"), 24), num_workers=0)
    context = dataclasses.replace(curation(home), embed=embed).context(
        prepared, home / "pool", Session(accelerator="cpu")
    )
    with pytest.raises(ValueError, match=r"embedding of 001\.png without its words is not finite.*curation\.precision"):
        run_stage(context.stages["text"], context)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], Text()),
        (["--text.detector.threshold=0.6"], Text(detector=RapidOCRDetector(threshold=0.6))),
        (["--text.detector=FAST", "--text.fill=mean"], Text(detector=FAST(), fill="mean")),
        (["--text.detector=FAST", "--text.detector.model=mine.pth"], Text(detector=FAST("mine.pth"))),
        (['--text.detector={"class_path": "curation.text.FAST"}'], Text(detector=FAST())),
    ],
)
def test_text__a_yaml_chooses_the_detector(words: list[str], expected: Text) -> None:
    parser = ArgumentParser()
    parser.add_argument("--text", type=Text, default=Text())
    assert parser.instantiate(parser.parse_args(words)).text == expected
