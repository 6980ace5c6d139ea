"""Tables of a comparison: what every cell says, before it is written in any format."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import fmean
from typing import Any

from pas_train.comparison.refusals import OUTSIDE, why_unscreened
from pas_train.comparison.rows import Row

METRICS = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "mean_per_class": "mean accuracy per class"}
SCORES = {"logme": "LogME", "ncti": "NCTI"}
# Families of figures that share a table: title -> figure -> what its column is called (nothing where it is alone).
FAMILIES: dict[str, dict[str, str]] = {
    "Linear probe": {"linear": ""},
    "Fine-tuning": {"finetune": ""},
    "k-NN": {"knn": ""},
    "Linear probe on augmented images": {"linear_images": ""},
    "Transferability": SCORES,
}
# Families by the number in a figure's name: title -> beginning of the name, and of the column.
NUMBERED = {"Few-shot": ("fewshot", "{}-shot"), "k-NN, weighted vote": ("knn", "k = {}")}
AVERAGE = "average"
SCORE_DIGITS = 3
UNKNOWN, UNSCREENED = "†", "‡"  # marks of what could not be screened, and of what was not


@dataclass(frozen=True)
class Cell:
    """One figure of a row. Accuracies in percent.

    low, high: its 95 % interval, over `over`; values: of each seed. difference: to the baseline, in points; clear:
    whether that is more than both intervals allow, None where one of them is not known. rank: 1 best, 2 second,
    0 neither. why: why it is marked.
    """

    value: float
    values: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None
    over: str = ""
    difference: float | None = None
    clear: bool | None = None
    rank: int = 0
    mark: str = ""
    why: str = ""

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Column:
    """Of a table: evaluation set and figure; `average` is over the sets before it."""

    data_set: str
    figure: str
    title: str = ""

    @property
    def score(self) -> bool:
        """Whether it is no accuracy."""
        return self.figure in SCORES


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
        return "score, higher is better" if self.columns[0].score else f"{METRICS[self.metric]} in %"

    @property
    def levels(self) -> bool:
        """Whether each evaluation set has several columns."""
        return any(column.title for column in self.columns)


def digits_of(column: Column, digits: int) -> int:
    """Decimals of a column. digits: of an accuracy in percent."""
    return SCORE_DIGITS if column.score else digits


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
    columns = [Column(data_set, figure, name) for data_set in sorted(sets) for figure, name in figures.items()]
    cells = {(column.data_set, column.figure): _column(rows, column, metric) for column in columns}
    columns = [column for column in columns if any(cells[column.data_set, column.figure])]
    if not columns:
        return None
    if len({c.data_set for c in columns}) > 1 and not any(c.score for c in columns):
        for figure, name in figures.items():
            own = [c for c in columns if c.figure == figure]
            if len(own) > 1:
                columns.append(Column(AVERAGE, figure, name))
                cells[AVERAGE, figure] = [_average(row, own, metric) for row in rows]
    lines = [[cells[column.data_set, column.figure][place] for column in columns] for place in range(len(rows))]
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


def _column(rows: Sequence[Row], column: Column, metric: str) -> list[Cell | None]:
    if column.figure == "ncti":
        return _relative(rows, column)
    key = "score" if column.score else metric
    return [_cell(row, column, key) for row in rows]


def _cell(row: Row, column: Column, key: str) -> Cell | None:
    """Mean over the seeds of a row."""
    parts = [draw.figures.get(column.data_set, {}).get(column.figure) or {} for draw in row.draws]
    parts = [part for part in parts if isinstance(part.get(key), int | float)]
    if not parts:
        return None
    factor = 1.0 if key == "score" else 100.0
    values = tuple(factor * part[key] for part in parts)
    low, high, over = interval_of(values)
    if len(values) == 1 and key == "top1":
        low, high, over = _of_one(parts[0])
    mark, why = _mark(row, column.data_set)
    return Cell(fmean(values), values, low, high, over, mark=mark, why=why)


def interval_of(values: Sequence[float]) -> tuple[float | None, float | None, str]:
    """Student's 95 % interval of the mean of several seeds, and what it is over."""
    if len(values) < 2:
        return None, None, ""
    mean, count = fmean(values), len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = student_95(count - 1) * deviation / math.sqrt(count)
    return mean - half, mean + half, f"{len(values)} seeds"


@cache
def student_95(freedom: int) -> float:
    """The 0.975 quantile of Student's t, by its probability in closed form (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(freedom)
    for _ in range(60):
        angle = (low + high) / 2
        odd = freedom % 2
        term = math.cos(angle) if odd else 1.0
        total = term if freedom > 1 else 0.0
        for k in range(2 + odd, freedom - 1, 2):
            term *= math.cos(angle) ** 2 * (k - 1) / k
            total += term
        within = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
        low, high = (angle, high) if within < 0.95 else (low, angle)
    return math.tan(low) * math.sqrt(freedom)


def _of_one(part: dict[str, Any]) -> tuple[float | None, float | None, str]:
    """Of one training: over the test images, or over the seeds of the protocol where that is wider."""
    low, high = (100 * one for one in part.get("interval") or (math.nan, math.nan))
    own = interval_of([100 * one for one in part.get("seeds") or ()])
    if own[0] is not None and own[1] is not None and not own[1] - own[0] < high - low:
        return own[0], own[1], "the protocol's seeds"
    return (None, None, "") if math.isnan(low) else (low, high, "test images")


def _average(row: Row, columns: Sequence[Column], metric: str) -> Cell | None:
    """Over the evaluation sets; of rows that have them all. Its interval is over seeds that have them all."""
    parts = [[draw.figures.get(c.data_set, {}).get(c.figure, {}).get(metric) for c in columns] for draw in row.draws]
    values = tuple(100 * fmean(part) for part in parts if None not in part)
    if not values:
        return None
    low, high, over = interval_of(values)
    marks = [_mark(row, column.data_set) for column in columns]
    mark, why = next((one for one in marks if one[0]), ("", ""))
    return Cell(fmean(values), values, low, high, over, mark=mark, why=why)


def _relative(rows: Sequence[Row], column: Column) -> list[Cell | None]:
    """NCTI of every draw among those of all rows."""
    from pas_train.evaluation.transferability import combine_ncti

    places, terms = [], []
    for place, row in enumerate(rows):
        for draw in row.draws:
            figures = draw.figures.get(column.data_set, {}).get(column.figure)
            figures = figures.get("score", figures) if isinstance(figures, dict) else None
            if isinstance(figures, dict) and {"ncc", "seli", "vc"} <= set(figures):
                places.append(place)
                terms.append(figures)
    if len(set(places)) < 2:
        return [None] * len(rows)
    scores = [float(score) for score in combine_ncti(terms)]
    values = [tuple(score for own, score in zip(places, scores, strict=True) if own == p) for p in range(len(rows))]
    marks = [_mark(row, column.data_set) for row in rows]
    return [
        Cell(fmean(own), own, *interval_of(own), mark=mark, why=why) if own else None
        for own, (mark, why) in zip(values, marks, strict=True)
    ]


def _mark(row: Row, data_set: str) -> tuple[str, str]:
    """Mark and reason of what is not known to be free of test images."""
    if data_set not in row.marks:
        row.marks[data_set] = _find_mark(row, data_set)
    return row.marks[data_set]


def _find_mark(row: Row, data_set: str) -> tuple[str, str]:
    for draw in row.draws:
        why = why_unscreened(draw, data_set) if data_set in draw.figures else None
        if why is not None:
            return (UNSCREENED, why) if draw.kind == "trained" and draw.data.get("curated") else (UNKNOWN, OUTSIDE)
    return "", ""


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
        raise ValueError(f"--baseline {baseline} is none of the rows; {hint}They are {', '.join(choices)}")


def _baseline_title(rows: Iterable[Row], baseline: str | None) -> str:
    return next((row.name for row in rows if baseline in names_of(row)), "")
