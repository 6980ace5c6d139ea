from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curation.sizes import write_size
from curation.workspace import Workspace
from tests.curation.small_workspace import save_workspace


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return save_workspace(tmp_path / "ws")


def test_write_size__last_of_the_removal_order(space: Workspace) -> None:
    names = {size: pq.read_table(write_size(space, size, f"n-{size}"))["key"].to_pylist() for size in (1, 2, 3, 4)}
    assert names == {1: ["f.jpg"], 2: ["d.jpg", "f.jpg"], 3: ["d.jpg", "e.jpg", "f.jpg"],
                     4: ["d.jpg", "e.jpg", "f.jpg", "g.jpg"]}  # fmt: skip
    assert (space.root / "dataset" / "n-2" / "roots.json").exists()


@pytest.mark.parametrize("size", [0, -3])
def test_write_size__size_must_be_positive(space: Workspace, size: int) -> None:
    with pytest.raises(ValueError, match=f"--size must be at least 1, got {size}"):
        write_size(space, size, "mini")


def test_write_size__more_than_are_left(space: Workspace) -> None:
    with pytest.raises(ValueError, match="--size is 5, but only 4 images are left"):
        write_size(space, 5, "mini")
    assert not space.dataset_folder("mini").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "../up", ".hidden", "with space", "new\nline"])
def test_write_size__name_must_be_a_folder_name(space: Workspace, name: str) -> None:
    with pytest.raises(ValueError, match="is no folder name"):
        write_size(space, 2, name)


def test_write_size__never_overwrites(space: Workspace) -> None:
    path = write_size(space, 2, "mini")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="--name mini: .*never overwritten"):
        write_size(space, 3, "mini")
    assert path.read_bytes() == before


def test_write_size__before_a_selection(space: Workspace) -> None:
    (space.stage_folder("select") / "stage.json").unlink()
    with pytest.raises(FileNotFoundError, match="nothing is selected yet; run `curate` first"):
        write_size(space, 2, "mini")


def test_write_size__goes_on_where_it_was_killed(space: Workspace) -> None:
    path = write_size(space, 2, "mini")
    path.unlink()  # roots.json is written first
    assert pq.read_table(write_size(space, 2, "mini")).num_rows == 2
