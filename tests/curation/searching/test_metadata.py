from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.searching.metadata import Columns, metadata_files
from tests.curation.searching.sources import clip_metadata, save_index, unit


@pytest.mark.parametrize("arrow", [False, True], ids=["parquet", "arrow"])
def test_take__rows_of_any_group_in_order(tmp_path: Path, arrow: bool) -> None:
    folder = save_index(tmp_path / "index", unit(40), arrow=arrow) / "metadata"
    files = metadata_files(sorted(folder.iterdir()))
    assert sum(file.rows for file in files) == 40 and [file.first for file in files] == ([0] if arrow else [0, 20])
    rows = np.array([20, 21, 27, 28, 39])
    table = files[-1].take(rows, Columns(), "key")
    assert table["row"].to_pylist() == rows.tolist()
    assert table["url"].to_pylist() == [f"http://example.org/{row}.jpg" for row in rows]
    assert table["caption"].to_pylist()[0] == "picture 20" and table["licence"].to_pylist()[0] == "CC-BY 4.0"
    assert table["id"].to_pylist() == ["20", "21", "27", "28", "39"]


@pytest.mark.parametrize("arrow", [False, True], ids=["parquet", "arrow"])
def test_take__no_row_of_a_file(tmp_path: Path, arrow: bool) -> None:
    folder = save_index(tmp_path / "index", unit(40), arrow=arrow) / "metadata"
    table = metadata_files(sorted(folder.iterdir()))[0].take(np.empty(0, np.int64), Columns(), "key")
    assert table.num_rows == 0 and table.column_names == ["row", "url", "caption", "licence", "id"]


def test_columns__usual_names_in_any_case_or_the_given_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"URL": ["http://a"], "TEXT": ["t"], "alt": ["a"], "SAMPLE_ID": [7]}), path)
    file = metadata_files([path])[0]
    usual = file.take(np.array([0]), Columns(), "key")
    assert usual.to_pylist() == [{"row": 0, "url": "http://a", "caption": "t", "licence": None, "id": "7"}]
    assert file.take(np.array([0]), Columns(caption="alt"), "key")["caption"].to_pylist() == ["a"]


def test_columns__tells_what_there_is(tmp_path: Path) -> None:
    names = clip_metadata(0, 1).column_names
    with pytest.raises(ValueError, match=r"search.columns.licence is 'rights', but t.parquet has the columns url"):
        Columns(licence="rights").resolve(names, Path("t.parquet"), "curation.search.columns")
    with pytest.raises(ValueError, match=r"no column `url`, but a, b; name the addresses' in curation.search.columns"):
        Columns().resolve(["a", "b"], Path("t.parquet"), "curation.search.columns")
