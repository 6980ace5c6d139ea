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
PROTOCOLS = {
    "knn": "k-NN", "linear": "linear probe", "linear_images": "linear, augmented images", "finetune": "fine-tuning",
    "logme": "LogME", "ncti": "NCTI", "segmentation": "segmentation, mIoU", "detection": "detection, mAP",
}  # fmt: skip
SHARES = {"segmentation": "miou", "detection": "map"}  # what is shown of a protocol, rather than top1


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
    """A training run: points (step, value) of each logged series, accuracies, and what the judged backbones are called.

    accuracies: rows of `accuracies`.
    """

    name: str
    curves: dict[str, list[tuple[float, float]]]
    accuracies: list[dict[str, Any]]
    backbones: dict[str, str]


def training_runs(root: Path) -> list[TrainingRun]:
    """The runs below training/, by name."""
    folders = sorted(path for path in (root / "training").glob("*") if path.is_dir())
    runs = [_training_run(path) for path in folders]
    return [run for run in runs if run.curves or run.accuracies]


def _training_run(folder: Path) -> TrainingRun:
    results = read_json(folder / "results.json") or {}
    judged = dict.fromkeys(key for figures in (results.get("evaluation") or {}).values() for key in figures)
    told = results.get("backbones") or {}
    titles = {key: str(told.get(key, {}).get("title", key)) for key in judged}
    return TrainingRun(folder.name, read_curves(folder / "metrics.csv"), accuracies(results), titles)


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
    """The columns of accuracies, by backbone: published ones before the trained one, others as they are usual.

    The start of a training only where one began with given weights.
    """
    found = {key: title for run in runs for key, title in run.backbones.items()}
    others = {key: title for key, title in found.items() if key not in BACKBONES}
    usual = {key: title for key, title in BACKBONES.items() if key in found or key not in ("start", "trained")}
    return usual | others | {"trained": BACKBONES["trained"]}


def accuracies(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per data set and protocol of a results.json: `cells`, text by backbone, and the `gain` over no training.

    Shares are top-1 (or mIoU, mAP) in percent, other scores as they are. screened: False where test images are not
    known to have been kept out of the training.
    """
    rows, screening = [], results.get("screening") or {}
    for name, judged in (results.get("evaluation") or {}).items():
        for protocol in dict.fromkeys(key for figures in judged.values() for key in figures):
            figures = {key: one[protocol] for key, one in judged.items() if protocol in one}
            entry = SHARES.get(protocol, "top1")
            shares = {key: 100 * one[entry] for key, one in figures.items() if one.get(entry) is not None}
            scores = {key: f"{one['score']:.3f}" for key, one in figures.items() if one.get("score") is not None}
            cells = {key: f"{value:.1f} %" for key, value in shares.items()} | scores
            gain = shares["trained"] - shares["untrained"] if {"trained", "untrained"} <= set(shares) else None
            screened = screening.get(name, {}).get("screened", True)
            if cells:
                row = {"data_set": name, "protocol": protocol_title(protocol), "cells": cells, "gain": gain}
                rows.append({**row, "screened": screened})
    return rows


def protocol_title(name: str) -> str:
    """What a reader calls a figure of results.json."""
    for start, text in (("knn", "k-NN, k = {}, weighted"), ("fewshot", "{} images a class")):
        if name.startswith(start) and name.removeprefix(start).isdecimal():
            return text.format(name.removeprefix(start))
    return PROTOCOLS.get(name, name)
