from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.searching.hits import HITS, above_floor, found_table, merge_hits, read_hits, write_hits
from curation.searching.neighbours import Best


def hits(*rows: tuple[int, int, float]) -> pa.Table:
    return pa.table(dict(zip(HITS.names, map(list, zip(*rows, strict=True)), strict=True)), schema=HITS)


def rows(**urls: str | None) -> pa.Table:
    """row_N = its address."""
    numbers = [int(name[3:]) for name in urls]
    texts = [f"text {number}" for number in numbers]
    return pa.table(
        {
            "row": pa.array(numbers, pa.int64()), "url": pa.array(list(urls.values()), pa.string()), "caption": texts,
            "licence": pa.nulls(len(urls), pa.string()), "id": list(map(str, numbers)),
        }
    )  # fmt: skip


def test_found_table__every_address_once_with_all_its_concepts() -> None:
    found = hits((0, 5, 0.3), (1, 5, 0.9), (1, 2, 0.5), (2, 9, 0.1))
    table, dropped = found_table(found, rows(row5="http://b", row2="http://a", row9="https://c"), ["x", "y", "z"])
    assert dropped == 0 and table["url"].to_pylist() == ["http://a", "http://b", "https://c"]
    assert table["concepts"].to_pylist() == [["y"], ["y", "x"], ["z"]]
    np.testing.assert_allclose(table["similarities"].to_pylist()[1], [0.9, 0.3], atol=1e-6)
    assert table["caption"].to_pylist() == ["text 2", "text 5", "text 9"]


def test_found_table__rows_of_one_address_are_one_image() -> None:
    found = hits((0, 1, 0.3), (0, 2, 0.7), (1, 1, 0.6))
    table, _ = found_table(found, rows(row1="http://a", row2=" http://a "), ["x", "y"])
    assert table.num_rows == 1 and table["concepts"].to_pylist() == [["x", "y"]]
    np.testing.assert_allclose(table["similarities"].to_pylist(), [[0.7, 0.6]], atol=1e-6)
    assert table["id"].to_pylist() == ["2"]  # the most similar row describes it


def test_found_table__only_addresses_of_the_web() -> None:
    urls = {
        "row0": "HTTPS://a/b.jpg?q=ü", "row1": "ftp://a/b", "row2": None, "row3": "file:///etc/passwd", "row4": "",
        "row5": "http://", "row6": "http://a b/c", "row7": "data:image/png;base64,AA", "row8": "http://a\nb",
    }  # fmt: skip
    table, dropped = found_table(hits(*[(0, row, 0.5) for row in range(9)]), rows(**urls), ["x"])
    assert table["url"].to_pylist() == ["HTTPS://a/b.jpg?q=ü"] and dropped == 8


def test_found_table__nothing_at_all() -> None:
    table, dropped = found_table(hits((0, 3, 0.5)), rows(row3="no address"), ["x"])
    assert table.num_rows == 0 and dropped == 1


def test_merge_hits__files_give_the_best_of_all(tmp_path: Path) -> None:
    similarities = np.float32([[0.9, 0.2, -np.inf], [0.4, 0.3, 0.1]])
    write_hits(tmp_path / "a.parquet", (similarities, np.array([[4, 7, -1], [1, 2, 3]])))
    write_hits(tmp_path / "b.parquet", (np.float32([[0.35, 0.3]]), np.array([[0, 1]])), first_query=1, first_row=100)
    assert read_hits([tmp_path / "a.parquet", tmp_path / "b.parquet"]).num_rows == 7
    best = Best(2, 3)
    merge_hits(best, [tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert best.rows.tolist() == [[4, 7, -1], [1, 100, 2]]


def test_above_floor__blanks_what_cannot_be_among_the_best() -> None:
    best = Best(1, 2)
    best.merge((np.float32([[0.8, 0.5]]), np.array([[1, 2]])))
    similarities, numbers = above_floor((np.float32([[0.6, 0.5, 0.4]]), np.array([[7, 8, 9]])), best)
    assert numbers.tolist() == [[7, 8, -1]] and np.isneginf(similarities[0, 2])
