"""The tables of the report: headline, funnel, models, stages, known answer, training."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.ledger import funnel
from curation.report.view import View
from datamodules.files import read_json

# Column of the ledger -> its name for the reader. The order is that of the knees.
SCORE_NAMES = {"ood": "Out of domain", "ood_general": "Out of the general domain", "text_gap": "Leaning on text"}
ROLES = {"image_text": "image-text encoder", "copy": "copy descriptor", "clipn": "out-of-domain encoder",
         "detector": "text detector", "no_branch": "“no” text tower"}  # fmt: skip
BACKBONES = {"pixels": "raw pixels", "untrained": "untrained", "trained": "trained"}
TITLES = {"auroc": "AUROC of the scores, in domain against outside"}
PROTOCOLS = {"knn": "k-NN", "linear": "linear probe"}


def funnel_rows(view: View) -> list[dict[str, Any]]:
    """Counts after each step, the change to the step before, and bar lengths in percent of the first."""
    rows = funnel(view.ledger)
    first = max(1, rows[0]["real"] + rows[0]["synthetic"])
    before = None
    for row in rows:
        row["total"] = row["real"] + row["synthetic"]
        row["dropped"] = None if before is None else before - row["total"]
        row["bars"] = [100 * row["real"] / first, 100 * row["synthetic"] / first]
        before = row["total"]
    return rows


@dataclass(frozen=True)
class Model:
    """A model that the data set was made with."""

    role: str
    name: str
    checksum: str
    stand_in: bool


def models(view: View) -> list[Model]:
    """The models of the finished stages."""
    found = []
    for stage in ("concepts", "captions", "synthesis", "search", "embed", "text", "ood"):
        if view.state(stage) != "done":
            continue
        for role, value in (view.records[stage].get("models") or {}).items():
            if isinstance(value, dict):
                found.append(_model(ROLES.get(role, role), value))
    return found


def _model(role: str, value: dict[str, Any]) -> Model:
    files = value.get("files") if "name" in value else value
    checksums = [value["sha256"]] if value.get("sha256") else list((files or {}).values())
    names = [str(value[part]) for part in ("name", "pretrained", "version") if value.get(part)] or list(files or {})
    stand_in = bool(value.get("stand_in")) or "miniature" in " ".join(names).lower()
    return Model(role, " · ".join(names), ", ".join(str(item)[:12] for item in checksums[:3]), stand_in)


def stages(view: View) -> list[dict[str, Any]]:
    """What each stage did, with its settings and time."""
    return [
        {"name": name, "state": view.state(name),
         "summary": record.get("summary", ""), "seconds": record.get("seconds"),
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
    figures = read_json(view.space.root / "columns" / "answer.json") or {}
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


def accuracies(path: Path) -> list[dict[str, Any]]:
    """One row per data set and protocol of a results.json: top-1 in percent for each backbone, None where not made."""
    rows = []
    for name, backbones in ((read_json(path) or {}).get("evaluation") or {}).items():
        protocols = [key for key in PROTOCOLS if any(key in figures for figures in backbones.values())]
        for protocol in protocols:
            figures = {key: (backbones.get(key, {}).get(protocol) or {}).get("top1") for key in BACKBONES}
            top1 = {key: None if value is None else 100 * value for key, value in figures.items()}
            rows.append({"data_set": name, "protocol": PROTOCOLS[protocol], "top1": top1})
    return rows
