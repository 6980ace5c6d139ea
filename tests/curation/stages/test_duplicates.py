import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation import approximate_pairs, duplicate_graph, neighbour_lists, similar_pairs
from curation.searching.faiss_index import Approximate
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.duplicates import Duplicates
from curation.stages.identical import Identical
from curation.stages.leakage import Leakage
from curation.stages.rows import alive
from curation.workspace import Workspace, write_array, write_part
from datamodules.descriptions import INDEX_SCHEMA
from tests.conftest import free_port
from tests.curation.small_workspace import finish


def save_pool(root: Path, vectors: np.ndarray, synthetic: tuple[int, ...] = (), **seen: Any) -> Context:
    """A workspace whose row i has the copy embedding vectors[i], in two parts; without any, it has one broken file."""
    space, count = Workspace(root), max(1, len(vectors))
    keys = [f"{row:05d}.jpg" for row in range(count)]
    source = ["synthetic" if row in synthetic else "real" for row in range(count)]
    known = {"key": keys, "source": source}
    nothing = {name: [None] * count for name in INDEX_SCHEMA.names if name not in known}
    space.write_index(pa.table({**known, **nothing}, schema=INDEX_SCHEMA), {})
    finish(space, "index")
    every = np.arange(count)
    columns = {"readable": [len(vectors) > 0] * count, "width": [64] * count, "height": [64] * count,
               "sha256": [str(row) for row in range(count)], **seen}  # fmt: skip
    write_part(space.stage_folder("ingest"), 0, every, pa.array(keys, pa.string()), columns, {})
    finish(space, "ingest")
    for part, rows in enumerate(np.array_split(every[: len(vectors)], 2)):
        arrays = {"copy": vectors[rows].astype(np.float16)}
        write_part(space.stage_folder("embed"), part, rows, pa.array(keys, pa.string()), {}, arrays)
    finish(space, "embed")
    return Context(space, Session(accelerator="cpu"), "x", "", None, 0, {})


def run(context: Context, stage: Duplicates) -> dict[str, Any]:
    """Runs the stage; its record."""
    context.stages["duplicates"] = stage
    run_stage(stage, context)
    return context.workspace.stage_record("duplicates") or {}


def copies_of(context: Context) -> list[int | None]:
    """Row of duplicate_of, for every row of the stage."""
    names = context.workspace.columns("duplicates")["duplicate_of"].to_pylist()
    return [None if name is None else int(name.removesuffix(".jpg")) for name in names]


def axes(*numbers: int, width: int = 12) -> np.ndarray:
    """Unit vectors along axes: equal numbers are copies."""
    return np.eye(width, dtype=np.float32)[list(numbers)]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but stage.json, which holds times."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "stage.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_duplicates__one_of_each_group_stays(tmp_path: Path) -> None:
    context = save_pool(tmp_path, axes(0, 1, 0, 2, 1, 0))
    record = run(context, Duplicates())
    columns = context.workspace.columns("duplicates")
    assert columns["duplicate_group"].to_pylist() == [0, 1, 0, 3, 1, 0]
    copies = copies_of(context)
    kept = alive(context, "duplicates").tolist()
    assert len(kept) == 3 and [copies[row] for row in kept] == [None] * 3
    assert all(copies[row] in kept for row in range(6) if row not in kept)
    assert record["summary"] == "3 of 6 images dropped, in 2 groups of copies"
    assert record["result"]["sizes"] == {"2": 1, "3-4": 1} and record["result"]["larger_than_k"] == 0


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("numbers", [[], [0], [0, 1, 2, 3], [5] * 9])
def test_duplicates__none_one_all_different_all_copies(tmp_path: Path, numbers: list[int], k: int | None) -> None:
    context = save_pool(tmp_path, axes(*numbers))
    record = run(context, Duplicates(k=k))
    assert len(alive(context, "duplicates")) == len(set(numbers))
    assert record["rows"] == len(numbers) and record["result"]["largest"] == max(map(numbers.count, numbers), default=0)
    assert record["result"]["larger_than_k"] == (k == 3 and len(numbers) == 9)


def test_duplicates__largest_or_real_image_stays(tmp_path: Path) -> None:
    sides = {"width": [10, 30, 20, 9, 9], "height": [10, 5, 20, 9, 9]}
    context = save_pool(tmp_path, axes(0, 0, 0, 1, 1), synthetic=(2, 3), **sides)
    run(context, Duplicates(keep="largest"))
    assert copies_of(context)[:3] == [2, 2, None]
    for seed in range(4):
        context.seed = seed
        run(context, Duplicates(keep="real_first"))
        assert copies_of(context)[2:] == [copies_of(context)[0] or 0, 4, None]


def test_duplicates__another_representative_does_not_search_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = save_pool(tmp_path, axes(0, 0, 1))
    run(context, Duplicates())
    monkeypatch.setattr("curation.duplicate_graph.PairSearch.forest", None)
    run(context, Duplicates(keep="largest"))
    monkeypatch.undo()
    run(context, Duplicates(threshold=0.7))
    assert len(list(context.workspace.stage_folder("duplicates").glob("graph-*"))) == 1


def test_duplicates__identical_files_are_in_the_group_of_the_one_that_stays(tmp_path: Path) -> None:
    sums = ["a", "b", "b", "c", "d", "d"]
    context = save_pool(tmp_path, axes(0, 1, 1, 1, 2, 2), sha256=sums)
    context.stages["identical"] = Identical()
    run_stage(context.stages["identical"], context)
    left = alive(context)
    for part in (0, 1):  # what embed would have seen
        for path in context.workspace.stage_folder("embed").glob(f"part-{part:05d}*"):
            path.unlink()
    keys = context.workspace.index["key"].combine_chunks()
    arrays = {"copy": axes(0, 1, 1, 1, 2, 2)[left].astype(np.float16)}
    write_part(context.workspace.stage_folder("embed"), 0, left, keys, {}, arrays)
    record = run(context, Duplicates())
    assert context.workspace.columns("duplicates")["duplicate_group"].to_pylist() == [0, 1, 1, 1, 4, 4]
    copies, kept = copies_of(context), alive(context, "duplicates").tolist()
    assert len(kept) == 3 and all(copies[row] is None if row in kept else copies[row] in kept for row in range(6))
    assert record["result"]["dropped"] == 1 and record["result"]["sizes"] == {"2": 1, "3-4": 1}


@pytest.mark.parametrize("whole", [False, True])
def test_duplicates__a_leak_and_its_group(tmp_path: Path, whole: bool) -> None:
    context = save_pool(tmp_path, axes(0, 0, 0, 1, 1))
    keys = context.workspace.index["key"].combine_chunks()
    leaks = {"leaks": [False, True, False, False, False]}
    write_part(context.workspace.stage_folder("leakage"), 0, np.arange(5), keys, leaks, {})
    finish(context.workspace, "leakage")
    context.stages["leakage"] = Leakage(tests=["t"], whole_groups=whole)
    run(context, Duplicates())
    kept = alive(context, "leakage", "duplicates").tolist()
    names = context.workspace.columns("duplicates").column_names
    if whole:
        assert set(kept) < {3, 4} and len(kept) == 1
        tainted = context.workspace.columns("duplicates")["leaks_with_group"].to_pylist()
        assert tainted == [True, True, True, False, False]
    else:
        assert len(kept) == 2 and set(kept) & {0, 2} and "leaks_with_group" not in names


def test_duplicates__a_damaged_embedding_is_named(tmp_path: Path) -> None:
    vectors = axes(0, 1, 2, 3)
    vectors[2, 5] = np.nan
    context = save_pool(tmp_path, vectors)
    with pytest.raises(ValueError, match=r"00002\.jpg \(row 2\) that the stage 'embed' stored.*curation.embed.copy"):
        run(context, Duplicates())


def test_duplicates__wrong_settings_are_named(tmp_path: Path) -> None:
    context = save_pool(tmp_path, axes(0))
    with pytest.raises(ValueError, match=r"curation.duplicates.threshold must be a cosine in \(0, 1\), got 1.5"):
        Duplicates(threshold=1.5).check(context)
    with pytest.raises(ValueError, match=r"curation.duplicates.k must be at least 1, got 0"):
        Duplicates(k=0).check(context)
    with pytest.raises(ValueError, match=r"curation.duplicates.approximate.index_gb must be positive"):
        Duplicates(approximate=Approximate(index_gb=0)).check(context)


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """66 tasks for 700 rows, or 11 of lists."""
    for name, value in {"BLOCK_ROWS": 64, "BLOCK_BYTES": 1, "STRIP": 40, "TILE_ROWS": 24, "TILE_COLUMNS": 40}.items():
        monkeypatch.setattr(similar_pairs, name, value)
    monkeypatch.setattr(neighbour_lists, "QUERIES", 64)
    monkeypatch.setattr(approximate_pairs, "QUERIES", 64)


def clusters(count: int = 700, width: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, width))
    rows = centres[rng.integers(0, 60, count)] + 0.35 * rng.normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("k", [None, 4])
def test_duplicates__killed_on_two_ranks_and_ended_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int | None
) -> None:
    small_blocks(monkeypatch)
    save_pool(tmp_path / "killed", clusters())
    folder = Workspace(tmp_path / "killed").stage_folder("duplicates")

    def work(rank: int) -> None:
        def slowly(path: Path, array: np.ndarray) -> None:
            time.sleep(0.05)
            write_array(path, array)

        monkeypatch.setattr(duplicate_graph, "write_array", slowly)
        context = Context(Workspace(tmp_path / "killed"), Session(accelerator="cpu", devices=2), "x", "", None)
        context.session.start()
        run(context, Duplicates(threshold=0.9, k=k))

    kill_when(work, lambda: len(list(folder.glob("graph-*/edges-*.npy"))) >= 4)
    done = set(folder.glob("graph-*/edges-*.npy"))
    assert 4 <= len(done) < (60 if k is None else 11) and not (folder / "stage.json").exists()
    half = done.pop().with_name(".edges-00066.npy.1.tmp")  # what a kill may leave
    half.write_bytes(b"half")
    times = {path: path.stat().st_mtime_ns for path in done}
    context = Context(Workspace(tmp_path / "killed"), Session(accelerator="cpu"), "x", "", None)
    run(context, Duplicates(threshold=0.9, k=k))
    whole = save_pool(tmp_path / "whole", clusters())
    run(whole, Duplicates(threshold=0.9, k=k))
    assert tree(folder) == tree(whole.workspace.stage_folder("duplicates"))
    assert all(path.stat().st_mtime_ns == times[path] for path in done)  # none was done again
    assert 1 < len(alive(context, "duplicates")) < 600


def kill_when(work: Callable[[int], None], ready: Callable[[], bool]) -> None:
    """Starts work(rank) in two processes as torchrun would, and kills both at once when it is time."""
    port = free_port()
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ.update(TORCHELASTIC_RUN_ID="test", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
                              LOCAL_WORLD_SIZE="2", GROUP_RANK="0", MASTER_ADDR="127.0.0.1",
                              MASTER_PORT=str(port))  # fmt: skip
            try:
                work(rank)
            finally:
                os._exit(1)
        children.append(child)
    try:
        deadline = time.monotonic() + 60
        while not ready():
            assert time.monotonic() < deadline, "the two ranks wrote nothing"
            time.sleep(0.01)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [-signal.SIGKILL] * 2


def test_duplicates__two_ranks_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_ranks: Callable[[Callable[[int], None]], None]
) -> None:
    small_blocks(monkeypatch)
    for name in ("one", "two"):
        save_pool(tmp_path / name, clusters())
    context = Context(Workspace(tmp_path / "one"), Session(accelerator="cpu"), "x", "", None)
    run(context, Duplicates(threshold=0.9))

    def work(rank: int) -> None:
        context = Context(Workspace(tmp_path / "two"), Session(accelerator="cpu", devices=2), "x", "", None)
        context.session.start()
        run(context, Duplicates(threshold=0.9))

    two_ranks(work)
    folders = [Workspace(tmp_path / name).stage_folder("duplicates") for name in ("one", "two")]
    assert tree(folders[0]) == tree(folders[1]) and len(tree(folders[0])) == 67


def test_duplicates__an_index_finds_nearly_all_pairs_and_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(monkeypatch)
    context = save_pool(tmp_path, clusters())
    exact = run(context, Duplicates(threshold=0.9))["result"]
    stage = Duplicates(threshold=0.9, approximate=Approximate(exact_below=100, recall=0.9, sample=200))
    found = run(context, stage)
    assert found["result"]["index"].startswith("IVF") and 0.9 <= found["result"]["recall"] <= 1
    assert "% of the pairs)" in found["summary"] and found["result"]["sampled_pairs"] > 100
    assert abs(found["result"]["dropped"] - exact["dropped"]) < 0.1 * exact["dropped"]
    folder = context.workspace.stage_folder("duplicates")
    assert not list(folder.rglob("*.faiss")) and len(list(folder.rglob("edges-*"))) == 11


def test_duplicates__an_index_of_a_pool_without_pairs(tmp_path: Path) -> None:
    context = save_pool(tmp_path, axes(*range(12)))
    record = run(context, Duplicates(approximate=Approximate(exact_below=1)))
    assert record["result"]["dropped"] == 0 and "no pair in the sample" in record["summary"]


def test_duplicates__groups_larger_than_a_list_are_told(tmp_path: Path) -> None:
    context = save_pool(tmp_path, axes(*[0] * 70, *[1] * 64))
    record = run(context, Duplicates())
    assert record["result"]["larger_than_k"] == 1
    assert "1 groups have more than 64 images, the largest 70" in record["summary"]
