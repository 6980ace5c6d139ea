"""The short table at the end of `fit`."""

import csv
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pas_train.results import MEASURES
from pas_train.runs import Run

BACKBONES = (("pixels", "raw pixels"), ("untrained", "untrained"), ("start", "start"), ("trained", "trained"))
PROTOCOLS = {
    "knn": "k-NN", "linear": "linear", "linear_images": "linear, augmented", "finetune": "fine-tuned", "logme": "LogME",
    "ncti": "NCTI",
}  # fmt: skip
WIDTH, HEAD = 118, 13  # of the console, and of a column's title
UNSCREENED = "  not screened"
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
    text = accuracies(results.get("evaluation", {}), results.get("screening"), results.get("backbones"))
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


def accuracies(
    evaluation: dict[str, Any], screening: dict[str, Any] | None = None, backbones: dict[str, Any] | None = None
) -> str:
    """A table of accuracies: a line per data set and figure, a column per backbone.

    backbones: what they are called, as in results.json. Columns that do not fit beside each other go below.
    Marked are the data sets whose test images were not kept out of the training, as far as is known.
    """
    titles = dict(BACKBONES) | {name: str(told["title"]) for name, told in (backbones or {}).items()}
    found = dict.fromkeys(name for judged in evaluation.values() for name in judged)
    first, others = [name for name, _ in BACKBONES[:-1]], [name for name in found if name not in dict(BACKBONES)]
    shown = [name for name in (*first, *others, "trained") if name in found]
    rows = [
        (f"{title} {name}", cells, (screening or {}).get(name, {}).get("screened", True))
        for name, judged in evaluation.items()
        for title, cells in _rows(judged)
    ]
    left = max([26, *(len(label) + 1 for label, *_ in rows)])
    heads = {name: _broken(titles.get(name, name)) for name in shown}
    widths = {name: max(12, *(len(line) + 2 for line in heads[name])) for name in shown}
    lines: list[str] = []
    room = WIDTH - left - (0 if all(screened for *_, screened in rows) else len(UNSCREENED))
    for block in _blocks(shown, widths, room) if rows else ():
        height = max(len(heads[name]) for name in block)
        for line in range(height):
            words = [[""] * (height - len(heads[name])) + heads[name] for name in block]
            text = "".join(f"{word[line]:>{widths[name]}}" for word, name in zip(words, block, strict=True))
            lines.append(f"{'accuracy' if line == height - 1 else '':<{left}}{text}".rstrip())
        for label, cells, screened in rows:
            text = "".join(f"{cells.get(name, '-'):>{widths[name]}}" for name in block)
            lines.append(f"{label:<{left}}{text}" + ("" if screened else UNSCREENED))
    for why in dict.fromkeys(entry["why"] for entry in (screening or {}).values() if entry.get("why")):
        if lines:
            lines.append(textwrap.fill(f"not screened: {why}", WIDTH, break_long_words=False, break_on_hyphens=False))
    return "\n".join(lines)


def _rows(judged: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """Title and cells, by backbone, of each figure of a data set."""
    for protocol in dict.fromkeys(name for figures in judged.values() for name in figures):
        for key, title in MEASURES.get(protocol, {"top1": ""}).items():
            found = {backbone: _cell(figures.get(protocol), key) for backbone, figures in judged.items()}
            if cells := {backbone: cell for backbone, cell in found.items() if cell}:
                yield f"{protocol_title(protocol)} {title}".rstrip(), cells


def protocol_title(name: str) -> str:
    """What a person calls a figure of results.json."""
    for start, text in (("knn", "k-NN {}"), ("fewshot", "{}-shot")):
        if name.startswith(start) and name.removeprefix(start).isdecimal():
            return text.format(name.removeprefix(start))
    return PROTOCOLS.get(name, name)


def _cell(figures: dict[str, Any] | None, key: str) -> str:
    """The share of that name in percent, a score as it is; nothing where there is neither."""
    if figures and figures.get(key) is not None:
        return f"{100 * figures[key]:.1f} %"
    score = (figures or {}).get("score")
    return "" if score is None else f"{score:.3f}"


def _broken(title: str) -> list[str]:
    """A long title in several lines, broken where its words or parts end."""
    lines = [""]
    for part in re.findall(r"[^-_./ ]*[-_./ ]*", title):
        if len(lines[-1]) + len(part.rstrip()) > HEAD and lines[-1]:
            lines.append("")
        lines[-1] += part
    return [line.strip()[i : i + HEAD] for line in lines for i in range(0, max(1, len(line.strip())), HEAD)]


def _blocks(names: list[str], widths: dict[str, int], room: int) -> list[list[str]]:
    """Columns that fit beside each other."""
    blocks: list[list[str]] = [[]]
    for name in names:
        if blocks[-1] and sum(widths[one] for one in [*blocks[-1], name]) > room:
            blocks.append([])
        blocks[-1].append(name)
    return blocks


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
