"""A plan as a person reads it, and what pretraining adds to it. Imports no torch, and nothing of the curation."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 118


def images_seen(model: Any, data: Any, trainer: Any, images: int) -> tuple[int, str]:
    """(images, name of the backbone) of the pretraining of a yaml's sections; 0 images where it has none.

    images: of the curated data set; `trainer.max_epochs` of them, or `trainer.max_steps` batches, are seen.
    """
    epochs = (trainer or {}).get("max_epochs") or 0
    steps = (trainer or {}).get("max_steps") or -1
    batch = ((data or {}).get("init_args") or {}).get("batch_size") or 256
    seen = images * epochs if epochs > 0 else 0
    if steps > 0:
        seen = min(seen, steps * batch) if seen else steps * batch
    if model is None or not seen:
        return 0, ""
    return seen, (model.get("init_args") or {}).get("backbone") or model["class_path"].rpartition(".")[2]


def print_plan(lines: Sequence[Any], total: Any, rates: Mapping[str, float], measured: set[str]) -> None:
    """The table, its sums, and the figures behind it.

    lines, total: with stage, count, unit, calls, gpu_hours, machine_hours, disk_gb, used. rates: name -> figure.
    """
    width = max(len(line.unit) for line in lines) + 2
    head = (
        f"{'step':<12}{'count':>14}  {'':<{width}}{'model calls':>11}{'GPU hours':>11}{'machine h':>11}{'disk GB':>9}"
    )
    print(head)
    print("-" * len(head))
    for line in lines:
        print(_row(line, width))
    print("-" * len(head))
    print(_row(total, width))
    used = list(dict.fromkeys(name for line in lines for name in line.used))
    for title, names in (
        ("measured here", [name for name in used if name in measured]),
        ("assumed (--rates.NAME VALUE changes one)", [name for name in used if name not in measured]),
    ):
        if names:
            text = f"{title}: " + ", ".join(f"{name} {rates[name]:g}" for name in names)
            print("\n" + textwrap.fill(text, WIDTH, break_on_hyphens=False))


def _row(line: Any, width: int) -> str:
    count = f"{line.count:,}" if line.unit else ""
    calls = f"{line.calls:,}" if line.calls else ""
    return (
        f"{line.stage:<12}{count:>14}  {line.unit:<{width}}{calls:>11}{_hours(line.gpu_hours):>11}"
        f"{_hours(line.machine_hours):>11}{_hours(line.disk_gb):>9}"
    ).rstrip()


def _hours(value: float) -> str:
    if not value:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.1 else "< 0.1"
