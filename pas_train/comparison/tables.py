"""Tables of a comparison: what every cell says, before it is written in any format."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pas_train.comparison.cells import AVERAGE, METRICS, SCORES, Cell, Column, average, column_cells, digits_of
from pas_train.comparison.rows import Row
from pas_train.results import MEASURES

# Families of figures that share a table: title -> figure -> what its column is called (nothing where it is alone).
FAMILIES: dict[str, dict[str, str]] = {
    "Linear probe": {"linear": ""},
    "Fine-tuning": {"finetune": ""},
    "k-NN": {"knn": ""},
    "Linear probe on augmented images": {"linear_images": ""},
    "Semantic segmentation": {"segmentation": ""},
    "Object detection": {"detection": ""},
    "Transferability": SCORES,
}
UNITS = {
    "segmentation": "mean IoU and accuracy of classes in %",
    "detection": "COCO's average precision in %, mAP over IoU 0.5 to 0.95",
}
# Families by the number in a figure's name: title -> beginning of the name, and of the column.
NUMBERED = {"Few-shot": ("fewshot", "{}-shot"), "k-NN, weighted vote": ("knn", "k = {}")}


@dataclass
class Table:
    """One protocol, or one family of them.

    part: the value that it was split by. baseline: of the differences. footnotes: mark -> its reasons.
    """

    title: str
    columns: list[Column]
    rows: list[tuple[Row, list[Cell | None]]]
    metric: str = "top1"
    part: str = ""
    baseline: str = ""
    footnotes: dict[str, dict[str, None]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Title with its part."""
        return f"{self.title} · {self.part}" if self.part else self.title

    @property
    def unit(self) -> str:
        """What the figures are."""
        if self.columns[0].score:
            return "score, higher is better"
        return UNITS.get(self.columns[0].figure) or f"{METRICS[self.metric]} in %"

    @property
    def levels(self) -> bool:
        """Whether each evaluation set has several columns."""
        return any(column.title for column in self.columns)

    @property
    def family(self) -> bool:
        """Whether these are of several figures, rather than of one."""
        return self.levels and not self.columns[0].key


def tables_of(
    rows: Sequence[Row], baseline: str | None = None, metric: str = "top1",
    split: Callable[[Row], str] | None = None, digits: int = 1,
) -> list[Table]:  # fmt: skip
    """All tables. split: gives the part that a row belongs to; a baseline that has none belongs to all.

    Raises ValueError for a baseline that is no row.
    """
    if baseline is not None:
        _check_baseline(rows, baseline)
    parts = sorted({split(row) for row in rows if split(row)}) if split is not None else [""]
    tables = []
    for part in parts or [""]:
        members = [row for row in rows if split is None or not part or split(row) in ("", part)]
        for title, figures in _families(members).items():
            table = _table(title, figures, members, baseline, metric, digits)
            if table is not None:
                table.part = part
                tables.append(table)
    return tables


def _families(rows: Iterable[Row]) -> dict[str, dict[str, str]]:
    """Titles and their figures, as far as there are any; figures of unknown names have a table each."""
    there = dict.fromkeys(name for row in rows for draw in row.draws for part in draw.figures.values() for name in part)
    families = {title: {n: t for n, t in figures.items() if n in there} for title, figures in FAMILIES.items()}
    for title, (before, words) in NUMBERED.items():
        numbers = sorted(int(name.removeprefix(before)) for name in there if re.fullmatch(f"{before}[0-9]+", name))
        families[title] = {f"{before}{number}": words.format(number) for number in numbers}
    families["Transferability"] = families.pop("Transferability")  # comes last
    known = {name for figures in families.values() for name in figures}
    return {title: figures for title, figures in families.items() if figures} | {
        name: {name: ""} for name in there if name not in known
    }


def _table(
    title: str, figures: dict[str, str], rows: Sequence[Row], baseline: str | None, metric: str, digits: int
) -> Table | None:
    sets = dict.fromkeys(data_set for row in rows for draw in row.draws for data_set in draw.figures)
    columns = [
        Column(data_set, figure, title, key)
        for data_set in sorted(sets)
        for figure, name in figures.items()
        for key, title in MEASURES.get(figure, {"": name}).items()
    ]
    cells = {column: column_cells(rows, column, metric) for column in columns}
    columns = [column for column in columns if any(cells[column])]
    if not columns:
        return None
    if len({c.data_set for c in columns}) > 1 and not any(c.score or c.key for c in columns):
        for figure, name in figures.items():
            own = [c for c in columns if c.figure == figure]
            if len(own) > 1:
                columns.append(Column(AVERAGE, figure, name))
                cells[columns[-1]] = [average(row, own, metric) for row in rows]
    lines = [[cells[column][place] for column in columns] for place in range(len(rows))]
    told = [(row, line) for row, line in zip(rows, lines, strict=True) if any(line)]
    table = Table(title, columns, told, metric, baseline=_baseline_title(rows, baseline))
    based = [baseline in names_of(row) for row, _ in told]
    for place in range(len(columns)):
        _rank([line for _, line in told], place, digits_of(columns[place], digits))
        if baseline is not None:
            _differ(told, place, based)
    for _, line in told:
        for cell in line:
            if cell is not None and cell.mark:
                table.footnotes.setdefault(cell.mark, {})[cell.why] = None
    return table


def _replace(line: list[Cell | None], place: int, **changes: Any) -> None:
    cell = line[place]
    assert cell is not None
    line[place] = replace(cell, **changes)


def _rank(lines: Sequence[list[Cell | None]], place: int, digits: int) -> None:
    """Marks best and second of a column; what reads the same shares a rank. One row has none."""
    own = [(round(cell.value, digits), line) for line in lines if (cell := line[place])]
    ranks = sorted({value for value, _ in own}, reverse=True)[:2]
    if len(own) > 1 and len({value for value, _ in own}) > 1:
        for value, line in own:
            if value in ranks:
                _replace(line, place, rank=ranks.index(value) + 1)


def _differ(told: Sequence[tuple[Row, list[Cell | None]]], place: int, based: Sequence[bool]) -> None:
    """Gives the cells of a column their difference to the baseline of their method and backbone."""
    bases = [(row, line[place]) for (row, line), is_base in zip(told, based, strict=True) if is_base and line[place]]
    for row, line in told:
        cell = line[place]
        base = _nearest(row, bases)
        if cell is not None and base is not None and not any(row is one for one, _ in bases):
            difference = cell.value - base.value
            known = cell.half is not None and base.half is not None
            clear = abs(difference) > math.hypot(cell.half or 0, base.half or 0) if known else None
            _replace(line, place, difference=difference, clear=clear)


def _nearest(row: Row, bases: Sequence[tuple[Row, Cell | None]]) -> Cell | None:
    """Of several rows of the baseline's name the one that shares most with this row, if one does."""
    if len(bases) == 1:
        return bases[0][1]
    alike = [
        (
            base.backbone == row.backbone, base.method == row.method or base.kind != "trained",
            base.epochs == row.epochs, base.detail == row.detail,
        )
        for base, _ in bases
    ]  # fmt: skip
    best = max(alike, default=(False,) * 4)
    return bases[alike.index(best)][1] if best[:2] == (True, True) and alike.count(best) == 1 else None


def names_of(row: Row) -> set[str]:
    """What a row may be called on the command line."""
    runs = {draw.result.run for draw in row.draws} if row.kind == "trained" else set()
    return {row.name, row.label, row.kind if row.kind != "trained" else row.name, row.first.title, row.first.key} - {
        "trained"
    } | runs


def _check_baseline(rows: Iterable[Row], baseline: str) -> None:
    import difflib

    choices = list(dict.fromkeys(row.name for row in rows))
    if not any(baseline in names_of(row) for row in rows):
        close = difflib.get_close_matches(baseline, choices, n=2)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(
            f"--baseline {baseline!r} is none of the rows; {hint}the rows are {', '.join(map(repr, choices))}"
        )


def _baseline_title(rows: Iterable[Row], baseline: str | None) -> str:
    return next((row.name for row in rows if baseline in names_of(row)), "")
