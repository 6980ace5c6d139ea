"""One self-contained HTML page of a comparison."""

import base64
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from pas_train.comparison import formats, latex
from pas_train.comparison.cells import AVERAGE, Cell, Column, digits_of
from pas_train.comparison.drawing import Chart, colours_of
from pas_train.comparison.reading import flat
from pas_train.comparison.rows import Row
from pas_train.comparison.tables import Table

if TYPE_CHECKING:
    from pas_train.comparison.command import Comparison

TITLE = "Comparison of pretraining data sets"
CARDS = 5
BUBBLES = (
    "Each bubble is a pretraining set on one evaluation set: its height the accuracy (of segmentation the mIoU, of "
    "detection the mAP), its area the forward passes of the pretraining. The bar spans the seeds, or of one seed the "
    "95 % interval over the test images. Sets of one size stand side by side. Baselines whose images are not counted "
    "are in the tables alone."
)
CURVES = (
    "Accuracy of a k-NN classifier while training: the mean of the seeds, and the range between the lowest and the "
    "highest."
)


def page(comparison: "Comparison", charts: dict[str, Chart | None]) -> str:
    """The page. The same comparison gives the same bytes."""
    rows, tables, digits = comparison.rows, comparison.tables, comparison.digits
    colours = colours_of(rows)
    pictures = [
        ("size", "Accuracy over the size of the pretraining set", BUBBLES, charts.get("accuracy-over-size")),
        ("curves", "k-NN over the images seen", CURVES, charts.get("knn-over-images")),
    ]
    return _render(
        {
            "title": TITLE, "call": comparison.call, "notes": comparison.notes, "cards": _cards(tables, digits),
            "trainings": sum(len(row.draws) for row in rows if row.kind == "trained"),
            "sets": sum(row.kind == "trained" for row in rows),
            "baselines": sum(row.kind != "trained" for row in rows),
            "tables": [_table(table, place, colours, digits) for place, table in enumerate(tables, 1)],
            "pictures": [(key, title, words, _uri(chart)) for key, title, words, chart in pictures if chart],
            "measured": _measured(rows), "runs": _runs(rows, colours),
            "latex": [(table.name, latex.latex_table(table, n, digits)) for n, table in enumerate(tables, 1)],
        }
    )  # fmt: skip


def _cards(tables: Sequence[Table], digits: int) -> list[dict[str, str]]:
    """The best pretraining set on the first evaluation set of each protocol, then on the second ones."""
    cards = []
    for table in tables:
        shown = 0
        for place, column in enumerate(table.columns):
            best = [(row, cell) for row, line in table.rows if (cell := line[place]) is not None and cell.rank == 1]
            if best and not table.family and column.first and column.data_set != AVERAGE:
                row, cell = best[0]
                ahead = cell.difference is not None
                unit = "" if column.score else f" % {column.title}".rstrip()
                card = {
                    "value": formats.number(cell.value, digits_of(column, digits)) + unit,
                    "name": " and ".join(dict.fromkeys(row.label for row, _ in best)),
                    "where": f"{column.data_set}, {table.name}",
                    "difference": f"{formats.signed(cell.difference or 0, digits)} to {table.baseline}"
                    if ahead
                    else "",
                }
                cards.append((shown, card))
                shown += 1
    return [card for _, card in sorted(cards, key=lambda item: item[0])][:CARDS]


def _table(table: Table, place: int, colours: dict[str, str], digits: int) -> dict[str, Any]:
    before = formats.heads([row for row, _ in table.rows])
    alike = formats.alike([row for row, _ in table.rows])  # left out where the screen is narrow
    parting = formats.sections(table)
    groups = dict.fromkeys(column.data_set for column in table.columns)
    rows = []
    for number, (row, line) in enumerate(table.rows):
        mark = formats.row_mark(line)
        rows.append(
            {
                "label": row.name, "detail": row.detail, "mark": mark, "colour": colours.get(row.name),
                "parting": number in parting, "kind": row.kind,
                "base": bool(table.baseline) and row.name == table.baseline,
                "before": [(texts[number], name in formats.NUMBERS, name in alike) for name, texts in before],
                "cells": [_cell(c, column, digits, mark) for c, column in zip(line, table.columns, strict=True)],
            }
        )  # fmt: skip
    return {
        "id": f"table-{place}", "name": table.name, "unit": table.unit[0].upper() + table.unit[1:], "rows": rows,
        "before": [(name, name in formats.NUMBERS, name in alike) for name, _ in before],
        "groups": [(name, sum(column.data_set == name for column in table.columns)) for name in groups],
        "levels": [column.title for column in table.columns] if table.levels else [],
        "legend": " ".join(formats.legend([table], "Bold", "underlined")),
        "unclear": any(c is not None and c.clear is False for _, line in table.rows for c in line),
        "footnotes": formats.footnotes([table]),
    }  # fmt: skip


def _cell(cell: Cell | None, column: Column, digits: int, mark: str) -> dict[str, Any] | None:
    if cell is None:
        return None
    digits = digits_of(column, digits)
    sign = 1 if cell.difference and cell.difference > 0 else -1 if cell.difference else 0
    return {
        "value": formats.number(cell.value, digits), "rank": cell.rank, "mark": "" if mark else cell.mark,
        "half": None if cell.half is None else formats.number(cell.half, digits),
        "difference": None if cell.difference is None else formats.signed(cell.difference, digits),
        "sign": "unclear" if cell.clear is False else ("", "ahead", "behind")[sign],
        "tooltip": _tooltip(cell, digits),
    }  # fmt: skip


def _tooltip(cell: Cell, digits: int) -> str:
    told = [f"95 % interval over {cell.over}"] if cell.half is not None else []
    told += ["seeds: " + ", ".join(formats.number(one, digits) for one in cell.values)] if len(cell.values) > 1 else []
    return "; ".join(told)


def _measured(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each evaluation set its images, and the settings of its protocols."""
    told: dict[str, dict[str, Any]] = {}
    for row in rows:
        for draw in row.draws:
            for (data_set, name), result in draw.sources.items():
                if name not in draw.figures.get(data_set, {}):
                    continue
                known = (result.content.get("protocols") or {}).get(data_set) or {}
                one = told.setdefault(data_set, {"name": data_set, "known": known, "figures": {}})
                settings = flat((known.get("figures") or {}).get(name) or {})
                shown = (
                    f"{key.replace('_', ' ')} {_value(value)}" for key, value in settings.items() if value is not None
                )
                one["figures"].setdefault(name, ", ".join(shown))
    for one in told.values():
        alike: dict[str, list[str]] = {}  # names of figures by the settings that they share
        for name, settings in one["figures"].items():
            alike.setdefault(settings, []).append(name)
        one["figures"] = [(", ".join(names), settings) for settings, names in alike.items()]
    return [told[name] for name in sorted(told)]


def _value(value: Any) -> str:
    return (
        ", ".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _runs(rows: Sequence[Row], colours: dict[str, str]) -> list[dict[str, Any]]:
    """One line for each training."""
    lines = []
    for row in rows:
        for draw in row.draws if row.kind == "trained" else []:
            data, training = draw.data, draw.training
            lines.append(
                {
                    "label": row.label, "colour": colours.get(row.name), "seed": training.get("seed"),
                    "run": draw.result.run, "place": draw.result.place, "identity": str(data.get("identity") or ""),
                    "images": data.get("images"), "synthetic": data.get("synthetic"),
                    "epochs": formats.short_number(training.get("epochs")), "batch": training.get("batch_size"),
                    "side": training.get("image_size"), "seen": formats.short_number(training.get("images_seen")),
                    "passes": formats.short_number(training.get("forward_passes")),
                    "method": row.method, "backbone": row.backbone,
                }
            )  # fmt: skip
    return lines


def _uri(chart: Chart) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(chart["svg"]).decode()


def _render(values: dict[str, Any]) -> str:
    """The template filled in; every value is escaped."""
    import jinja2

    source = resources.files("pas_train.comparison").joinpath("template.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["of"] = lambda number, noun: f"{number:,} {noun}{'' if number == 1 else 's'}"
    return environment.from_string(source).render(values)
