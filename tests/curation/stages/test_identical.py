from pathlib import Path

import pyarrow as pa
import pytest

from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.identical import Identical
from curation.stages.rows import alive
from curation.workspace import Workspace
from tests.curation.small_workspace import KEYS, save_workspace, write_stage


def identical_to(root: Path, sums: list[str | None], seed: int = 0) -> tuple[Context, list[str | None]]:
    """The context after the stage ran on eight files, of which a.jpg cannot be read; c.jpg and e.jpg are synthetic."""
    space = save_workspace(root)
    write_stage(space, "ingest", list(range(8)), readable=[False, *[True] * 7], sha256=pa.array(sums, pa.string()))
    stage = Identical()
    context = Context(Workspace(root), Session(accelerator="cpu"), "x", "", None, seed, {"identical": stage})
    run_stage(stage, context)
    return context, context.workspace.columns("identical")["identical_to"].to_pylist()


def test_identical__one_of_the_files_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context, names = identical_to(tmp_path, ["1", "1", "2", "3", "4", "3", "3", "5"])
    assert names[0] is None  # b.jpg has the bytes of a.jpg, which is no image
    dropped = {key: name for key, name in zip(KEYS[1:], names, strict=True) if name}
    (kept,) = set(dropped.values())
    assert {kept, *dropped} == {"d.jpg", "f.jpg", "g.jpg"} and kept not in dropped
    assert [KEYS[row] for row in alive(context)] == [key for key in KEYS[1:] if key not in dropped]
    assert "2 of 7 images have the bytes of another one" in capsys.readouterr().out


def test_identical__a_real_file_stays_before_a_generated_one(tmp_path: Path) -> None:
    for seed in range(8):
        names = identical_to(tmp_path / str(seed), [None, "1", "2", "2", "2", "6", "7", "8"], seed)[1]
        assert names == [None, "d.jpg", None, "d.jpg", None, None, None]


def test_identical__another_seed_another_draw(tmp_path: Path) -> None:
    def stays(seed: int) -> str:
        names = identical_to(tmp_path / str(seed), [None, "1", "2", "3", "4", "3", "3", "5"], seed)[1]
        return next(name for name in names if name)

    assert len({stays(seed) for seed in range(12)}) > 1


def test_identical__no_readable_file(tmp_path: Path) -> None:
    space = save_workspace(tmp_path)
    write_stage(space, "ingest", [0], readable=[False], sha256=pa.array([None], pa.string()))
    stage = Identical()
    run_stage(stage, Context(space, Session(accelerator="cpu"), "x", "", None, 0, {"identical": stage}))
    assert space.columns("identical").num_rows == 0
