from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.searching.faiss_index import Approximate
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.duplicates import Duplicates
from curation.stages.identical import Identical
from curation.stages.leakage import Leakage
from curation.stages.rows import alive
from curation.workspace import Workspace, write_part
from datamodules.descriptions import INDEX_SCHEMA
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
