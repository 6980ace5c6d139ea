"""The leakage gate on a pool whose embeddings are stored by hand, with a real small copy descriptor for the tests."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curation.evaluation_sets import checksums
from curation.screening import read_certificate, screened_checksums, unscreened_rows
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.embed import Copy, Embed
from curation.stages.leakage import Leakage
from curation.stages.score_normalisation import ScoreNormalisation
from curation.workspace import Workspace, write_part, write_table
from datamodules.descriptions import INDEX_SCHEMA
from datamodules.files import sha256_file
from tests.curation.small_workspace import finish
from tests.datamodules.datasets import small_trees
from tests.tiny import picture, save_descriptor

COUNT = 12  # images of the pool: pictures 0, 1, ...


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy descriptor, the pool's pictures, and two test sets: one has a picture of the pool, larger."""
    folder = tmp_path_factory.mktemp("home")
    save_descriptor(folder / "copy.pt")
    for name, numbers in (("birds", [5, 1000]), ("food", [1001, 1002, 1003])):
        (folder / name / "class").mkdir(parents=True)
        for number in numbers:
            picture(number, 60 if number < COUNT else 48).save(folder / name / "class" / f"{number}.png")
    return folder


def saved(home: Path, root: Path, vectors: np.ndarray | None = None) -> Workspace:
    """A workspace that has been embedded: by the descriptor, or with the given vectors."""
    copy = Copy(str(home / "copy.pt"), 24).load()
    if vectors is None:
        images = np.stack([copy.prepare(np.asarray(picture(number))) for number in range(COUNT)])
        vectors = copy.embed_images(torch.from_numpy(images)).numpy()
    space, keys = Workspace(root), [f"{number:02d}.png" for number in range(COUNT)]
    columns = {name: keys if name == "key" else [None] * COUNT for name in INDEX_SCHEMA.names}
    space.write_index(pa.table(columns, schema=INDEX_SCHEMA), {"pool": root})
    finish(space, "index")
    looks = {"readable": [bool(len(vectors))] * COUNT, "sha256": [f"sum-{key}" for key in keys]}
    write_part(space.stage_folder("ingest"), 0, np.arange(COUNT), pa.array(keys), looks, {})
    stored = {"copy": vectors.astype(np.float16)}
    write_part(space.stage_folder("embed"), 0, np.arange(len(vectors)), pa.array(keys), {}, stored)
    for stage in ("ingest", "embed"):
        finish(space, stage)
    return space


def screen(home: Path, space: Workspace, tests: Any = None, **settings: Any) -> dict[str, Any]:
    """Runs the gate; its columns by name."""
    tests = [str(home / "birds"), str(home / "food")] if tests is None else tests
    gate = Leakage(tests, **{"threshold": 0.95, **settings})
    session = Session(accelerator="cpu")
    embed = Embed(copy=Copy(str(home / "copy.pt"), 24), num_workers=0)
    context = Context(space, session, "patterns", "", None, 0, {"embed": embed, "leakage": gate})
    session.start()
    gate.check(context)
    run_stage(gate, context)
    return space.columns("leakage").to_pydict()


def test_leakage__finds_the_copy_and_says_of_what(home: Path, tmp_path: Path) -> None:
    found = screen(home, saved(home, tmp_path))
    assert [row for row, leaks in enumerate(found["leaks"]) if leaks] == [5]
    assert found["leaks_from"][5] == "birds/class/5.png" and found["leak_similarity"][5] > 0.98


def test_leakage__images_that_are_no_files_of_their_own(home: Path, tmp_path: Path) -> None:
    space = saved(home, tmp_path)
    tests = {"birds": f"torchvision:ImageFolder?root={home}/birds", "noise": "torchvision:FakeData?size=3"}
    found = screen(home, space, tests)
    assert [row for row, leaks in enumerate(found["leaks"]) if leaks] == [5]
    assert found["leaks_from"][5] == "birds/00000001"
    screened = screened_checksums(space) or set()
    assert len(screened) == 5 and sha256_file(home / "birds" / "class" / "5.png") in screened
    assert set(checksums("noise", tests["noise"])) < screened


def test_leakage__known_data_set_by_name(home: Path, tmp_path: Path) -> None:
    small_trees.save_cub(tmp_path)
    copy = tmp_path / "CUB_200_2011/images/014.Indigo_Bunting/B_2.jpg"  # a test image that is in the pool
    picture(7, 60).convert("RGB").save(copy, quality=95)
    text = f"cub-200-2011:{tmp_path}?split=test&partial=true"
    found = screen(home, saved(home, tmp_path / "ws"), [text], threshold=0.9)
    assert [row for row, leaks in enumerate(found["leaks"]) if leaks] == [7]
    assert found["leaks_from"][7] == "cub-200-2011-test/images/014.Indigo_Bunting/B_2.jpg"


def test_leakage__certificate_says_what_was_screened(home: Path, tmp_path: Path) -> None:
    (home / "food" / "class" / "cut.png").write_bytes(b"\x89PNG")
    space = saved(home, tmp_path)
    screen(home, space, {"Birds": str(home / "birds"), "Food": str(home / "food")}, chunk_rows=5)
    (home / "food" / "class" / "cut.png").unlink()
    certificate = read_certificate(space)
    assert certificate is not None and certificate["threshold"] == 0.95
    told = [[entry[name] for name in ("name", "images", "unreadable", "removed")] for entry in certificate["tests"]]
    assert told == [["Birds", 2, 0, 1], ["Food", 4, 1, 0]]
    removals = dict(map(tuple, certificate["removals"]))
    assert removals[0.95] == certificate["removed"] == 1 and removals[0.3] >= removals[0.6] >= 1
    (removed,), kept = certificate["closest"]["removed"], certificate["closest"]["kept"]
    assert removed["key"] == "05.png" and removed["leaks_from"] == "Birds/class/5.png" and len(kept) == COUNT - 1
    assert sha256_file(home / "birds" / "class" / "1000.png") in (screened_checksums(space) or ())


def test_leakage__nothing_is_certified_before_it_is_finished(home: Path, tmp_path: Path) -> None:
    space = saved(home, tmp_path)
    assert read_certificate(space) is None and screened_checksums(space) is None
    screen(home, space)
    finish(space, "embed", fingerprint="of another run of what came before")
    assert read_certificate(space) is None and screened_checksums(space) is None


def test_unscreened_rows__of_a_manifest_of_another_pool_or_with_a_leak(home: Path, tmp_path: Path) -> None:
    space = saved(home, tmp_path)
    screen(home, space)
    for sums, count in ((["sum-00.png", "sum-11.png"], 0), (["sum-05.png", "other", "sum-00.png"], 2)):
        write_table(tmp_path / "manifest.parquet", pa.table({"sha256": sums}))
        assert unscreened_rows(space, tmp_path / "manifest.parquet") == count


def test_leakage__two_ranks_and_a_restart_give_the_same_bytes(home: Path, tmp_path: Path, two_ranks) -> None:
    def contents(space: Workspace) -> dict[str, bytes]:
        folder = space.stage_folder("leakage")
        return {
            path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "stage.json"
        }

    settings: dict[str, Any] = {"chunk_rows": 5, "score_normalisation": ScoreNormalisation(0.5, neighbours=2)}
    one, two = saved(home, tmp_path / "one"), saved(home, tmp_path / "two")
    screen(home, one, **settings)
    two_ranks(lambda rank: screen(home, two, **settings))
    assert contents(one) == contents(two) and "part-00002.parquet" in contents(one)
    # As a kill in the middle leaves it.
    folder = two.stage_folder("leakage")
    record = json.loads((folder / "stage.json").read_text())
    (folder / "begun.json").write_text(json.dumps({"fingerprint": record["fingerprint"], **record["print"]}))
    for name in ("stage.json", "part-00001.parquet", "certificate.json"):
        (folder / name).unlink()
    kept = (folder / "part-00000.parquet").stat().st_mtime_ns
    screen(home, two, **settings)
    assert contents(one) == contents(two) and (folder / "part-00000.parquet").stat().st_mtime_ns == kept


def test_leakage__csv_of_paths(home: Path, tmp_path: Path) -> None:
    with open(home / "birds.csv", "w", newline="") as file:
        csv.writer(file).writerows([["label", "path"], ["a", "birds/class/5.png"], ["b", "food/class/1001.png"]])
    found = screen(home, saved(home, tmp_path), {"listed": str(home / "birds.csv")})
    assert found["leaks_from"][5] == "listed/birds/class/5.png" and found["leaks"].count(True) == 1


def test_leakage__csv_that_is_a_link_elsewhere(home: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "x.csv").write_text("path\nbirds/class/5.png\n")
    (home / "linked.csv").symlink_to(tmp_path / "store" / "x.csv")
    found = screen(home, saved(home, tmp_path), {"listed": str(home / "linked.csv")})
    assert found["leaks_from"][5] == "listed/birds/class/5.png"


def test_leakage__set_whose_normalised_score_decided_counts_the_removal(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = saved(home, tmp_path)
    monkeypatch.setattr(ScoreNormalisation, "offsets", lambda *_: np.array([-9, -9, 0, 0, 0], np.float32))
    found = screen(home, space, score_normalisation=ScoreNormalisation(-1.0))
    assert found["leaks_from"][5].startswith("birds/") and found["leak_score_from"][5].startswith("food/")
    certificate = read_certificate(space)
    assert certificate is not None and [entry["removed"] for entry in certificate["tests"]] == [0, COUNT]


def test_leakage__normalised_score_has_its_own_threshold(home: Path, tmp_path: Path) -> None:
    space = saved(home, tmp_path)
    found = screen(home, space, score_normalisation=ScoreNormalisation(0.5, beta=0.0))
    assert found["leak_score"] == found["leak_similarity"] and found["leak_score_from"] == found["leaks_from"]
    assert found["leaks"] == [value > 0.5 for value in found["leak_similarity"]]
    settings = ScoreNormalisation(0.2, neighbours=2, background=str(home / "food"))
    found = screen(home, space, [str(home / "birds")], score_normalisation=settings)
    tests = Workspace(space.stage_folder("leakage") / "tests").embeddings("embed", "copy")[1][:]
    background = Workspace(space.stage_folder("leakage") / "background").embeddings("embed", "copy")[1][:]
    means = np.sort(tests @ background.T, axis=1)[:, -2:].mean(axis=1)
    expected = (space.embeddings("embed", "copy")[1][:] @ tests.T - means).max(axis=1)
    np.testing.assert_allclose(found["leak_score"], expected, atol=1e-6)
    assert found["leaks"] == [value > 0.2 for value in found["leak_score"]]


def test_leakage__background_from_the_pool_holds_no_leak(home: Path, tmp_path: Path) -> None:
    space = saved(home, tmp_path)
    screen(home, space, score_normalisation=ScoreNormalisation(0.5, neighbours=1))
    offsets = np.load(space.stage_folder("leakage") / "background.npy")
    tests = Workspace(space.stage_folder("leakage") / "tests").embeddings("embed", "copy")[1][:]
    pool = np.delete(space.embeddings("embed", "copy")[1][:], 5, axis=0)
    np.testing.assert_allclose(offsets, (tests @ pool.T).max(axis=1), atol=1e-6)


def test_leakage__pool_without_a_readable_image(home: Path, tmp_path: Path) -> None:
    space = saved(home, tmp_path, np.empty((0, 108)))
    assert screen(home, space) == {"row": [], "key": [], "leak_similarity": [], "leaks_from": [], "leaks": []}
    assert pq.read_schema(space.stage_folder("leakage") / "part-00000.parquet").field("leaks").type == pa.bool_()


def test_leakage__stored_nan_names_the_image(home: Path, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(COUNT, 108))
    vectors[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"leakage: the embedding of 07\.png \(row 7\) that the stage `embed` stored"):
        screen(home, saved(home, tmp_path, vectors), chunk_rows=5)


def test_leakage__test_sets_that_cannot_be_screened_are_named(home: Path, tmp_path: Path) -> None:
    space = saved(home, tmp_path / "ws")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "gone.csv").write_text("path\nnowhere.png\n")
    (tmp_path / "other.csv").write_text("file\nnowhere.png\n")
    for tests, message in (
        ([str(tmp_path / "nowhere")], r"curation\.leakage\.tests: .*nowhere does not exist"),
        ({"a": str(tmp_path / "empty")}, r"curation\.leakage\.tests: .*empty \('a'\) holds no image"),
        ([str(home / "food"), str(tmp_path / "broken")], r"none of the 1 images of 'broken' \(.*\) can be decoded"),
        ([str(tmp_path / "gone.csv")], r"gone\.csv names 1 files that are not there, such as .*nowhere\.png"),
        ([str(tmp_path / "other.csv")], r"other\.csv has no column path; it has file"),
        ([str(home / "food")] * 2, r"curation\.leakage\.tests lists .*food twice"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            screen(home, space, tests)
