"""The tables of the report: headline, funnel, models, stages, known answer, training."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.answer import read_answer
from curation.card_text import selected
from curation.ledger import funnel
from curation.report.view import View
from curation.sharing import taken_stages
from datamodules.files import read_json

# Column of the ledger -> its name for the reader. The order is that of the knees.
SCORE_NAMES = {"ood": "Out of domain", "ood_general": "Out of the general domain", "text_gap": "Leaning on text"}
BACKBONES = {"pixels": "raw pixels", "untrained": "untrained", "start": "start", "trained": "trained"}
TITLES = {
    "auroc": "AUROC of the scores, in domain against outside",
    "removed": "Removed by the selection, of what came to it",
    "kept": "Kept, of the whole pool",
    "data_sets": "Images of each kind in each data set",
}
PROTOCOLS = {"knn": "k-NN", "linear": "linear probe"}


def funnel_rows(view: View) -> list[dict[str, Any]]:
    """Counts after each step, the change to the step before, and bar lengths in percent of the first."""
    rows = funnel(view.ledger)
    quota = view.dropped("quota")
    if quota.any():  # what the order keeps, before the quotas
        inside = {"real": int((quota & ~view.synthetic).sum()), "synthetic": int((quota & view.synthetic).sum())}
        rows.insert(-1, {"stage": "in the domain", **{name: rows[-1][name] + inside[name] for name in inside}})
    before = None
    for row in rows:
        row["total"] = row["real"] + row["synthetic"]
        row["dropped"] = None if before is None else before - row["total"]
        before = row["total"]
    return [_with_bars(row, rows[0]) for row in rows]


def _with_bars(row: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    whole = max(1, first["real"] + first["synthetic"])
    return {**row, "bars": [100 * row["real"] / whole, 100 * row["synthetic"] / whole]}


def data_sets(view: View, first: dict[str, Any]) -> list[dict[str, Any]]:
    """The other data sets of the workspace as rows of the funnel, the largest first: name, counts, how it was cut.

    first: the funnel's first row, which the bars are measured against.
    """
    rows = []
    full = (view.records.get("select") or {}).get("result", {}).get("manifest_sha256")
    for path in sorted((view.space.root / "dataset").glob("*/manifest.parquet")):
        name = path.parent.name
        if name == "full":
            continue
        source = pq.read_table(path, columns=["source"])["source"]
        real, made = (pc.sum(pc.equal(source, kind)).as_py() or 0 for kind in ("real", "synthetic"))
        own = read_json(path.parent / "selection.json") or {}
        earlier = "of an earlier selection" if own.get("parent", full) != full else ""
        row = {"stage": name, "real": real, "synthetic": made, "total": real + made, "dropped": None,
               "note": earlier, "rule": selected(own) if own else ""}  # fmt: skip
        rows.append(_with_bars(row, first))
    return sorted(rows, key=lambda row: (-row["total"], row["stage"]))


def stages(view: View) -> list[dict[str, Any]]:
    """What each stage did, with its settings and time."""
    taken = taken_stages(view.space)
    note = f" (taken from {Path(taken['base']).name})" if taken else ""
    return [
        {"name": name, "state": view.state(name),
         "summary": record.get("summary", "") + (note if name in taken.get("stages", ()) else ""),
         "seconds": record.get("seconds"),
         "settings": ", ".join(f"{key} = {value}" for key, value in _flat(record.get("settings") or {})),
         "fingerprint": record.get("fingerprint", "")}
        for name, record in view.records.items()
    ]  # fmt: skip


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings as the yaml writes them: nested keys with dots, no Python."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            yield f"{prefix}{key}", text


@dataclass(frozen=True)
class Facts:
    """A small table: named rows, with named columns where there is more than one."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def answer(view: View) -> list[Facts]:
    """The figures against a known answer, one small table for each group of them."""
    figures = read_answer(view.space)
    alone = {name: value for name, value in figures.items() if not isinstance(value, dict)}
    tables = [table for name, value in figures.items() if isinstance(value, dict) for table in _facts(name, value)]
    return [*_facts("pool", alone), *tables]


def _facts(title: str, figures: dict[str, Any]) -> list[Facts]:
    """Plain figures as rows, groups of figures as a matrix, deeper ones as tables of their own."""
    words = {name: str(name).replace("_", " ") for name in figures}
    title = TITLES.get(title, title).replace("_", " ")
    tables, matrix = [], {}
    plain = [(words[name], [number(value)]) for name, value in figures.items() if not isinstance(value, dict)]
    if plain:
        tables.append(Facts(title, [], plain))
    for name, value in figures.items():
        if isinstance(value, dict) and not any(isinstance(inner, dict) for inner in value.values()):
            matrix[words[name]] = value
        elif isinstance(value, dict):
            tables += _facts(f"{title}, {name}", value)
    if matrix:
        columns = list(dict.fromkeys(column for value in matrix.values() for column in value))
        rows = [(name, [number(value.get(column)) for column in columns]) for name, value in matrix.items()]
        tables.append(Facts(title, [column.replace("_", " ") for column in columns], rows))
    return tables


def number(value: Any) -> str:
    """A value of a figure as text."""
    if value is None:
        return "–"
    if isinstance(value, bool) or isinstance(value, str):
        return str(value)
    if isinstance(value, list | tuple):
        return ", ".join(number(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


@dataclass(frozen=True)
class TrainingRun:
    """A training run: points (step, value) of each logged series, and accuracies with their baselines."""

    name: str
    curves: dict[str, list[tuple[float, float]]]
    accuracies: list[dict[str, Any]]


def training_runs(root: Path) -> list[TrainingRun]:
    """The runs below training/, by name."""
    folders = sorted(path for path in (root / "training").glob("*") if path.is_dir())
    runs = [
        TrainingRun(path.name, read_curves(path / "metrics.csv"), accuracies(path / "results.json")) for path in folders
    ]
    return [run for run in runs if run.curves or run.accuracies]


def read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """The series of a metrics.csv; a run that was only begun has none."""
    curves: dict[str, list[tuple[float, float]]] = {}
    if not path.exists():
        return curves
    with open(path, newline="") as file:
        for line in csv.DictReader(file):
            for name, value in line.items():
                if name not in (None, "step", "epoch") and value and line.get("step"):
                    curves.setdefault(name, []).append((float(line["step"]), float(value)))
    return curves


def backbones(runs: list[TrainingRun]) -> dict[str, str]:
    """The columns of accuracies, by backbone; the start of a training only where one began with given weights."""
    given = any(row["top1"]["start"] is not None for run in runs for row in run.accuracies)
    return {key: title for key, title in BACKBONES.items() if given or key != "start"}


def accuracies(path: Path) -> list[dict[str, Any]]:
    """One row per data set and protocol of a results.json: top-1 in percent for each backbone, None where not made.

    screened: False where test images are not known to have been kept out of the training.
    """
    rows, results = [], read_json(path) or {}
    screening = results.get("screening") or {}
    for name, backbones in (results.get("evaluation") or {}).items():
        protocols = [key for key in PROTOCOLS if any(key in figures for figures in backbones.values())]
        for protocol in protocols:
            figures = {key: (backbones.get(key, {}).get(protocol) or {}).get("top1") for key in BACKBONES}
            top1 = {key: None if value is None else 100 * value for key, value in figures.items()}
            screened = screening.get(name, {}).get("screened", True)
            rows.append({"data_set": name, "protocol": PROTOCOLS[protocol], "top1": top1, "screened": screened})
    return rows
