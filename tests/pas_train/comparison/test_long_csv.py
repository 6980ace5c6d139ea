import csv
import io

import pytest

from pas_train.comparison.long_csv import long_csv
from pas_train.comparison.tables import Table


def test_csv__has_every_number_as_it_is(tables: list[Table]) -> None:
    records = list(csv.DictReader(io.StringIO(long_csv(tables))))
    assert len(records) == sum(cell is not None for table in tables for _, line in table.rows for cell in line)
    for record in records:
        values = [float(value) for value in record["values"].split(";")]
        assert float(record["value"]) == pytest.approx(sum(values) / len(values))
    (own,) = (r for r in records if (r["row"], r["data_set"], r["figure"]) == ("pas-f", "food-101", "knn"))
    assert (own["images"], own["seeds"], own["rank"], own["baseline"], own["screened"]) == (
        "1200000", "3", "1", "imagenet-1k", "true",
    )  # fmt: skip
    boxes = {r["metric"]: float(r["value"]) for r in records if (r["row"], r["data_set"], r["figure"])
             == ("pas-f", "food-101", "detection")}  # fmt: skip
    assert boxes["map50"] - boxes["map"] == pytest.approx(20) and boxes["map75"] - boxes["map"] == pytest.approx(10)
