"""All numbers of a comparison as CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from pas_train.comparison.cells import Cell, Column
from pas_train.comparison.rows import Row
from pas_train.comparison.tables import Table

FIELDS = ("table", "part", "data_set", "figure", "metric", "row", "kind", "images", "synthetic", "epochs", "method",
          "backbone", "image_size", "batch_size", "images_seen", "forward_passes", "value", "low", "high",
          "interval_over", "seeds", "values", "difference", "baseline", "beyond_intervals", "rank", "screened",
          "runs")  # fmt: skip


def long_csv(tables: Sequence[Table]) -> str:
    """One line for each figure of each row, not rounded; accuracies in percent, `values` of each seed."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row, line in table.rows:
            for cell, column in zip(line, table.columns, strict=True):
                if cell is not None:
                    writer.writerow(_record(table, row, column, cell))
    return buffer.getvalue()


def _record(table: Table, row: Row, column: Column, cell: Cell) -> dict[str, Any]:
    training = row.first.training
    known = {name: training.get(name) for name in ("image_size", "batch_size", "images_seen", "forward_passes")}
    compared = cell.difference is not None
    record = {
        "table": table.title, "part": table.part, "data_set": column.data_set, "figure": column.figure,
        "metric": "score" if column.score else column.key or table.metric, "row": row.label, "kind": row.kind,
        "images": row.images, "synthetic": row.synthetic, "epochs": row.epochs, "method": row.method,
        "backbone": row.backbone, **known,
        "value": cell.value, "low": cell.low, "high": cell.high, "interval_over": cell.over,
        "seeds": len(cell.values), "values": ";".join(f"{value:.10g}" for value in cell.values),
        "difference": cell.difference, "baseline": table.baseline if compared else None,
        "beyond_intervals": None if cell.clear is None else str(cell.clear).lower(), "rank": cell.rank or None,
        "screened": str(not cell.mark).lower(), "runs": ";".join(draw.result.run for draw in row.draws),
    }  # fmt: skip
    return {key: f"{value:.10g}" if isinstance(value, float) else value for key, value in record.items()}
