import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.workspace import Workspace, part_files, write_array, write_part, write_table
from tests.curation.small_workspace import KEYS, finish, save_workspace

NAMES = pa.array(KEYS)


def test_write_table__same_table_same_bytes(tmp_path: Path) -> None:
    table = pa.table({"key": KEYS, "value": np.arange(8.0)})
    for name in ("a", "b"):
        write_table(tmp_path / name / "t.parquet", table)
    assert (tmp_path / "a/t.parquet").read_bytes() == (tmp_path / "b/t.parquet").read_bytes()
    assert pq.read_table(tmp_path / "a/t.parquet").equals(table)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["t.parquet"]  # no temporary file


def test_write_array__replaces_the_whole_file(tmp_path: Path) -> None:
    for array in (np.arange(1000), np.eye(2, dtype=np.float16)):
        write_array(tmp_path / "x.npy", array)
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array)


@pytest.mark.parametrize("array", [np.zeros((0, 16), np.float16), np.arange(12.0).reshape(3, 4).T, np.array(3)])
def test_write_array__as_numpy_writes_it(tmp_path: Path, array: np.ndarray) -> None:
    write_array(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", np.asarray(array, order="C"))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_write_array__tells_that_the_disk_is_full(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="has no room for a.npy .*: free space on its disk"):
            write_array(tmp_path / "a.npy", np.zeros((1000, 64), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_write_part__rows_keys_columns_and_arrays(tmp_path: Path) -> None:
    write_part(tmp_path, 3, np.array([2, 5]), NAMES, {"value": [1.5, 2.5]}, {"image": np.eye(2)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part-00003.image.npy", "part-00003.parquet"]
    rows = pq.read_table(tmp_path / "part-00003.parquet").to_pylist()
    assert rows == [{"row": 2, "key": "c.jpg", "value": 1.5}, {"row": 5, "key": "f.jpg", "value": 2.5}]


def test_workspace__index_of_several_parts(tmp_path: Path) -> None:
    space = save_workspace(tmp_path)
    assert len(part_files(space.index_folder)) == 3
    assert space.index["key"].to_pylist() == KEYS
    assert space.roots == {"pool": tmp_path / "pool"}
    space.write_index(space.index.slice(0, 3), {"other": tmp_path}, rows_per_part=3)
    assert space.roots == {"other": tmp_path}  # what was read before is forgotten


def test_workspace__folders(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    assert space.stage_folder("ood") == tmp_path / "columns/ood"
    assert space.stage_folder("index") == tmp_path / "images/index"
    assert space.stage_folder("concepts") == tmp_path / "concepts"
    assert space.manifest("mini") == tmp_path / "dataset/mini/manifest.parquet"
    assert space.report == tmp_path / "report/index.html"
    assert space.stage_record("ood") is None and space.roots == {}


def test_columns__only_of_finished_stages(tmp_path: Path) -> None:
    space = save_workspace(tmp_path)
    assert space.columns("ood", ["ood"]).column_names == ["row", "ood"]
    (tmp_path / "columns/ood/stage.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"columns/ood has no stage\.json: the stage 'ood' has not finished"):
        space.columns("ood")


@pytest.mark.parametrize(
    ("stage", "name", "expected"),
    [
        ("leakage", "leaks", [False, True, *[False] * 6]),  # a flag: where it is true
        ("duplicates", "duplicate_of", [False, False, True, *[False] * 5]),  # a name: where there is one
    ],
)
def test_rows_where__over_all_rows(tmp_path: Path, stage: str, name: str, expected: list[bool]) -> None:
    mask = save_workspace(tmp_path).rows_where(stage, name)
    assert mask.dtype == bool and mask.tolist() == expected


def test_embeddings__unit_rows_of_all_parts(tmp_path: Path) -> None:
    space = save_workspace(tmp_path)
    folder = space.stage_folder("embed")
    rows = np.random.default_rng(0).normal(size=(5, 7))
    stored = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    write_part(folder, 0, np.array([0, 2]), NAMES, {}, {"image": stored[:2]})
    write_part(folder, 1, np.empty(0, np.int64), NAMES, {}, {"image": np.empty((0, 0), np.float16)})
    write_part(folder, 2, np.array([3, 4, 7]), NAMES, {}, {"image": stored[2:]})
    finish(space, "embed")
    places, embeddings = space.embeddings("embed", "image")
    assert places.tolist() == [0, 2, 3, 4, 7] and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embeddings, stored, atol=1e-3)


def test_embeddings__arrays_of_some_rows(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    columns = {"has_blurred": [False, True, True]}
    write_part(space.stage_folder("text"), 0, np.array([1, 4, 6]), NAMES, columns, {"blurred": np.eye(2)})
    places, embeddings = space.embeddings("text", "blurred")
    assert places.tolist() == [4, 6] and embeddings[:].tolist() == [[1, 0], [0, 1]]


def test_embeddings__none(tmp_path: Path) -> None:
    places, embeddings = Workspace(tmp_path).embeddings("text", "blurred")
    assert len(places) == 0 and embeddings.shape == (0, 0)
