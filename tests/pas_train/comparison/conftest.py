"""The tables of one comparison."""

from pathlib import Path

import pytest

from pas_train.comparison.grouping import draws_of, rows_of
from pas_train.comparison.reading import read_all
from pas_train.comparison.tables import Table, tables_of
from tests.pas_train.comparison.made import paper


@pytest.fixture
def tables(tmp_path: Path) -> list[Table]:
    folder = paper(tmp_path, names=("knn", "fewshot1", "fewshot5", "logme", "detection"))
    rows, _ = rows_of(draws_of(read_all([str(folder)])))
    return tables_of(rows, "imagenet-1k")
