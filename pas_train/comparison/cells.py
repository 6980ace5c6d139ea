"""Cells of a comparison's tables: figures of a row on an evaluation set, and their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from pas_train.comparison.refusals import OUTSIDE, why_unscreened
from pas_train.comparison.rows import Row
from pas_train.results import MEASURES

METRICS = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "mean_per_class": "mean accuracy per class"}
SCORES = {"logme": "LogME", "ncti": "NCTI"}
FIRST = {name: next(iter(entries)) for name, entries in MEASURES.items()}  # of masks and boxes the entry that says most
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
    """Of a table: evaluation set and figure; `average` is over the sets before it.

    key: the figure's entry that it shows; that of the metric where there is none.
    """

    data_set: str
    figure: str
    title: str = ""
    key: str = ""

    @property
    def score(self) -> bool:
        """Whether it is no accuracy."""
        return self.figure in SCORES

    @property
    def first(self) -> bool:
        """Whether no other column of its evaluation set says more of the figure."""
        return self.key == FIRST.get(self.figure, "")


def digits_of(column: Column, digits: int) -> int:
    """Decimals of a column. digits: of an accuracy in percent."""
    return SCORE_DIGITS if column.score else digits


def column_cells(rows: Sequence[Row], column: Column, metric: str) -> list[Cell | None]:
    """Of all rows. metric: of accuracies."""
    if column.figure == "ncti":
        return _relative(rows, column)
    key = "score" if column.score else column.key or metric
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
    if len(values) == 1 and key == FIRST.get(column.figure, "top1"):
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


def average(row: Row, columns: Sequence[Column], metric: str) -> Cell | None:
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
