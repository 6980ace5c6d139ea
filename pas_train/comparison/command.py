"""The command `compare`."""

import argparse
import gc
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.files import atomic
from pas_train.comparison import formats, latex, long_csv
from pas_train.comparison.bubbles import accuracy_over_size
from pas_train.comparison.cells import METRICS
from pas_train.comparison.curves import knn_over_images
from pas_train.comparison.grouping import draws_of, missing_seeds, rows_of
from pas_train.comparison.page import TITLE, page
from pas_train.comparison.reading import Result, read_all, unfinished
from pas_train.comparison.refusals import chosen, refuse_mixed, refuse_unscreened
from pas_train.comparison.rows import Row
from pas_train.comparison.tables import Table, tables_of

OUT = "runs/comparison"
SPLITS: dict[str, Callable[[Row], str]] = {
    "domain": lambda row: row.domain if row.kind == "trained" else "",
    "method": lambda row: row.method,
    "backbone": lambda row: row.backbone,
    "epochs": lambda row: "" if row.epochs is None else f"{formats.short_number(row.epochs)} epochs",
}


@dataclass
class Comparison:
    """What is compared, and what is told of it."""

    results: list[Result]
    rows: list[Row]
    tables: list[Table]
    others: list[Table]  # of the other figures, for the CSV
    notes: list[str] = field(default_factory=list)
    digits: int = 1
    call: str = ""


def compare(command: str, args: Sequence[str]) -> None:
    """Reads results, refuses what does not compare, writes tables, charts and the page, prints the tables."""
    options = parser().parse_args(list(args))
    call = shlex.join(["python", "-m", "pas_train", "compare", *args])
    collecting = gc.isenabled()
    gc.disable()  # looks again and again through all that was read, a tenth of the time, and finds nothing
    try:
        _compare(options, call)
    finally:
        if collecting:
            gc.enable()


def _compare(options: argparse.Namespace, call: str) -> None:
    comparison = compared(options)
    comparison.call = call
    out = Path(options.out)
    files = write_all(comparison, out)
    print(formats.console(comparison.tables, comparison.digits))
    for note in comparison.notes:
        print(formats.wrapped(f"note: {note}"))
    print(f"\ncompared    {told(comparison)}")
    print(f"page        {files[-1]}; beside it {', '.join(path.name for path in files[:-1])}")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m pas_train compare",
        description="Compares pretraining data sets by the results of their trainings: tables, charts and one page.",
    )
    made.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run, a results.json or *.evaluation.json, a "
                      "workspace, a sweep's folder, any folder above them, or wandb:ENTITY/PROJECT[?group=G&tag=T]",
    )  # fmt: skip
    made.add_argument("--out", default=OUT, metavar="DIR", help=f"where files go ({OUT})")
    made.add_argument("--baseline", metavar="NAME", help="row that the others are held against, such as imagenet-1k")
    made.add_argument(
        "--data-set", nargs="+", action="extend", default=[], metavar="NAME", help="evaluation sets to show"
    )
    made.add_argument("--protocol", nargs="+", action="extend", default=[], metavar="NAME",
                      help="protocols to show, such as knn, linear or segmentation")  # fmt: skip
    made.add_argument("--split-by", choices=list(SPLITS), help="a table for each")
    made.add_argument("--metric", choices=list(METRICS), default="top1", help="accuracy of classes to show (top1)")
    made.add_argument(
        "--digits", type=int, choices=range(4), default=1, metavar="N", help="decimals of percentages (1)"
    )
    made.add_argument(
        "--allow-unscreened", action="store_true",
        help="shows, marked, what was trained on a set made here without screening the test images",
    )  # fmt: skip
    return made


def compared(options: argparse.Namespace) -> Comparison:
    """The comparison that a command line asks for."""
    results = read_all(options.runs)
    draws = chosen(draws_of(results), options.data_set, options.protocol)
    if not draws:
        raise ValueError(
            f"{', '.join(options.runs)}: the {len(results)} results hold no figures; see evaluation.datasets"
        )
    refuse_mixed(draws)
    if not options.allow_unscreened:
        refuse_unscreened(draws)
    rows, notes = rows_of(draws)
    notes = [*unfinished(options.runs), *notes, *missing_seeds(rows)]
    split = SPLITS[options.split_by] if options.split_by else None
    tables = tables_of(rows, options.baseline, options.metric, split, options.digits)
    others = [table for metric in METRICS if metric != options.metric
              for table in tables_of(rows, options.baseline, metric, split, options.digits)]  # fmt: skip
    others = [table for table in others if not all(column.score or column.key for column in table.columns)]
    return Comparison(results, rows, tables, others, notes, options.digits)


def told(comparison: Comparison) -> str:
    """What was compared, in numbers."""
    sets = {column.data_set for table in comparison.tables for column in table.columns} - {"average"}
    counts = ((len(comparison.results), "result"), (len(comparison.rows), "row"), (len(sets), "evaluation set"))
    return ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)


def write_all(comparison: Comparison, out: Path) -> list[Path]:
    """Writes every file and returns their paths, the page last."""
    texts: dict[str, str | bytes] = {
        "tables.md": formats.markdown(comparison.tables, TITLE, comparison.notes,
                                      comparison.digits),
        "tables.csv": long_csv.long_csv([*comparison.tables, *comparison.others]),
        "tables.tex": latex.latex(comparison.tables, comparison.digits),
    }  # fmt: skip
    drawn = {"accuracy-over-size": accuracy_over_size(comparison.tables, comparison.rows),
             "knn-over-images": knn_over_images(comparison.rows)}  # fmt: skip
    texts |= {f"{name}.{kind}": data for name, chart in drawn.items() if chart for kind, data in chart.items()}
    texts["index.html"] = page(comparison, drawn)
    paths = []
    for name, content in texts.items():
        path = out / name
        with atomic(path) as temporary:
            temporary.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)
        paths.append(path)
    return paths
