"""The short table at the end of `fit`."""

import csv
import textwrap
from pathlib import Path
from typing import Any

from pas_train.runs import Run

BACKBONES = (("pixels", "raw pixels"), ("untrained", "untrained"), ("start", "start"), ("trained", "trained"))
LAST = (
    ("train/loss", "loss {:.3f}"), ("val/knn_top1", "online k-NN {:.1f} %"), ("train/rankme", "effective rank {:.0f}"),
)  # fmt: skip
SCORES = (("ood", "bank"), ("ood_general", "general bank"), ("text_gap", "text"), ("removal_order", "order of removal"))


def table(figures: dict[str, Any] | None, run: Run, report: Path | None, tracked: str | None) -> str:
    """Lines for the console: the funnel, what was found against a known answer, accuracies, and where things lie."""
    lines = [""]
    if figures is not None:
        lines += [_funnel(figures["funnel"]), *_against_answer(figures.get("answer") or {})]
    results = run.results or {}
    trained = _training(run)
    lines += [trained] if trained else []
    text = accuracies(results.get("evaluation", {}), results.get("screening"))
    lines += [text] if text else []
    lines.append(f"{'run':<12}{run.folder}")
    if report is not None:
        lines.append(f"{'report':<12}{report}")
    if tracked is not None:
        lines.append(f"{'W&B':<12}{tracked}")
    return "\n".join(lines)


def _funnel(funnel: list[dict[str, Any]]) -> str:
    steps = " -> ".join(f"{row['stage']} {row['real'] + row['synthetic']}" for row in funnel)
    return f"{'images':<12}{steps}"


def _training(run: Run) -> str:
    """How the training ended, by the last figures of its metrics.csv; empty where it logged none."""
    last: dict[str, float] = {}
    path = run.folder / "metrics.csv"
    if path.exists():
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                last |= {name: float(value) for name, value in row.items() if name and value}
    if "val/knn_top1" in last:
        last["val/knn_top1"] *= 100
    parts = [text.format(last[name]) for name, text in LAST if name in last]
    return f"{'training':<12}{int(last['step']) + 1} steps, {', '.join(parts)}" if parts else ""


def accuracies(evaluation: dict[str, Any], screening: dict[str, Any] | None = None, judged: str = "trained") -> str:
    """A table of accuracies: a line per data set and protocol, a column per backbone.

    judged: what the backbone that was evaluated is called.
    Marked are the data sets whose test images were not kept out of the training, as far as is known.
    """
    titles = dict(BACKBONES) | {"trained": judged}
    shown = [
        (key, title) for key, title in titles.items() if any(key in backbones for backbones in evaluation.values())
    ]
    lines = []
    for name, backbones in evaluation.items():
        for protocol, label in (("knn", "k-NN"), ("linear", "linear")):
            if any(protocol in figures for figures in backbones.values()):
                cells = (backbones.get(key, {}).get(protocol, {}).get("top1") for key, _ in shown)
                text = "".join(f"{'-' if cell is None else f'{100 * cell:.1f} %':>12}" for cell in cells)
                screened = (screening or {}).get(name, {}).get("screened", True)
                lines.append(f"{f'{label} {name}':<26}{text}" + ("" if screened else "  not screened"))
    if lines:
        lines.insert(0, f"{'accuracy':<26}" + "".join(f"{title:>12}" for _, title in shown))
    for why in dict.fromkeys(entry["why"] for entry in (screening or {}).values() if entry.get("why")):
        if lines:
            lines.append(textwrap.fill(f"not screened: {why}", 118, break_long_words=False, break_on_hyphens=False))
    return "\n".join(lines)


def _against_answer(answer: dict[str, Any]) -> list[str]:
    """What was found of what is known to be in the pool."""
    lines = []
    duplicates, leaks = answer.get("duplicates") or {}, answer.get("leaks") or {}
    if duplicates.get("recall") is not None:
        lines.append(
            f"{'duplicates':<12}recall {duplicates['recall']:.3f}, precision {duplicates['precision']:.3f} of "
            f"{duplicates['pairs_true']} pairs of copies"
        )
    auroc = {name: kinds["all"] for name, kinds in (answer.get("auroc") or {}).items() if kinds.get("all") is not None}
    if auroc:
        parts = [f"{title} {auroc[name]:.3f}" for name, title in SCORES if name in auroc]
        lines.append(f"{'off-domain':<12}AUROC {', '.join(parts)}")
    if leaks.get("planted"):
        lines.append(f"{'leaks':<12}{leaks['found']} of {leaks['planted']} planted copies of test images found")
    return lines
