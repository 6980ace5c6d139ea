from pathlib import Path

import pytest

from curation.concepts.files import read_concepts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "# fruit\napple\n  ripe   banana \n"),
        ("a.yaml", "- apple\n- ripe banana\n"),
        ("a.csv", "concept,origin\napple,given\nripe banana,given\n"),
    ],
)
def test_read_concepts__formats(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_concepts(tmp_path / name) == ["apple", "ripe banana"]


def test_read_concepts__blank_and_repeated_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("apple\n\nbanana\nApple\n")
    with pytest.raises(ValueError, match=r"a\.txt has blank lines 2 and repeated lines 4 \(as 1\).*remove"):
        read_concepts(path)


@pytest.mark.parametrize("name", ["a.txt", "a.yaml", "a.csv"])
def test_read_concepts__missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"curation\.concepts\.file: .*does not exist"):
        read_concepts(tmp_path / name)


def test_read_concepts__csv_without_the_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name\napple\n")
    with pytest.raises(ValueError, match="no column `concept`"):
        read_concepts(tmp_path / "a.csv")


def test_read_concepts__binary_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read_concepts(tmp_path / "a.txt")
