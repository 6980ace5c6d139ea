"""The short table at the end of `fit`."""

from pathlib import Path
from typing import Any

from pas_train.runs import Run

BACKBONES = (("pixels", "raw pixels"), ("untrained", "untrained"), ("trained", "trained"))


def table(figures: dict[str, Any] | None, run: Run, report: Path | None, tracked: str | None) -> str:
    """Lines for the console: the funnel, what was found against a known answer, accuracies, and where things lie."""
    lines = [""]
    if figures is not None:
        funnel = figures["funnel"]
        lines.append("images      " + " -> ".join(f"{row['stage']} {row['real'] + row['synthetic']}" for row in funnel))
        answer = figures.get("answer")
        if answer:
            lines += _against_answer(answer)
    text = accuracies((run.results or {}).get("evaluation", {}))
    lines += [text] if text else []
    lines.append(f"run         {run.folder}")
    if report is not None:
        lines.append(f"report      {report}")
    if tracked is not None:
        lines.append(f"W&B         {tracked}")
    return "\n".join(lines)


def accuracies(evaluation: dict[str, Any]) -> str:
    """A line per data set and protocol."""
    lines = []
    for name, backbones in evaluation.items():
        for protocol, label in (("knn", "k-NN"), ("linear", "linear")):
            parts = [
                f"{title} {100 * backbones[key][protocol]['top1']:.1f} %"
                for key, title in BACKBONES
                if protocol in backbones.get(key, {})
            ]
            if parts:
                lines.append(f"{label:<11} {name}: " + ", ".join(parts))
    return "\n".join(lines)


def _against_answer(answer: dict[str, Any]) -> list[str]:
    lines = []
    duplicates = answer.get("duplicates") or {}
    if duplicates.get("recall") is not None:
        lines.append(
            f"duplicates  recall {duplicates['recall']:.3f}, precision {duplicates['precision']:.3f} "
            "against the known answer"
        )
    auroc = answer.get("auroc") or {}
    if auroc:
        lines.append(f"out of dom. AUROC {_number(auroc)} against the known answer")
    leaks = answer.get("leaks") or {}
    if leaks.get("planted"):
        lines.append(f"leaks       {leaks['found']} of {leaks['planted']} planted ones found")
    return lines


def _number(auroc: Any) -> str:
    return f"{auroc:.3f}" if isinstance(auroc, float) else str(auroc)
