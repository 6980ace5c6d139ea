"""Imports go one way: datamodules <- curation <- pas_train, and curation is met in one file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RANK = {"datamodules": 0, "curation": 1, "pas_train": 2}
FILES = sorted(path for package in RANK for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports__go_left(path: Path) -> None:
    rank = RANK[path.relative_to(ROOT).parts[0]]
    wrong = {name for name in imported(path) if RANK.get(name.split(".")[0], -1) > rank}
    assert not wrong


def test_imports__pas_train_meets_curation_in_one_file() -> None:
    meeting = {
        path.name
        for path in (ROOT / "pas_train").rglob("*.py")
        if any(n.startswith("curation") for n in imported(path))
    }
    assert meeting == {"curated.py"}
