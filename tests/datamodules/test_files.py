from pathlib import Path

import pytest

from datamodules.files import atomic, fingerprint, read_json, within, write_json


def test_atomic__an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with atomic(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_json__there_and_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}
    assert read_json(tmp_path / "missing.json") is None


def test_fingerprint__ignores_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_within__workspace_prefix() -> None:
    assert within("workspace:scenes/test", Path("runs/x")) == Path("runs/x/scenes/test")
    assert within("/data/test", Path("runs/x")) == Path("/data/test")
