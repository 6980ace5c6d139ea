"""What an analysis has found so far, and the files it ends in; each part adds its figures and its section."""

import argparse
import csv
import io
import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.files import atomic, write_json
from pas_train import curated
from pas_train.analysis.page import Section, write_page
from pas_train.analysis.sets import ImageSet, read_sets


class Study:
    """What has been found so far. Parts that lack what they need say so, and are left out."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, Path(options.out)
        cuda = torch.cuda.is_available() if options.device == "auto" else options.device.startswith("cuda")
        self.device = torch.device(("cuda" if cuda else "cpu") if options.device == "auto" else options.device)
        self.sets: list[ImageSet] = []
        self.labels: dict[str, list[str]] = {}
        self.vectors: dict[str, np.ndarray] = {}
        self.result: dict[str, Any] = {"version": 1}
        self.sections: list[Section] = []
        self.left_out: list[str] = []

    def read(self) -> None:
        """The sets and the labels."""
        self.sets = read_sets(self.options.sets)
        for text in self.options.labels:
            name, equals, source = text.partition("=")
            if not equals:
                raise ValueError(f"--labels: {text} has no name; write NAME=SOURCE")
            words = [curated.label_words(label).lower() for label in curated.labels_of(source, f"--labels {name}")]
            self.labels[name] = list(dict.fromkeys(words))
        for one in self.sets:
            synthetic = int(one.synthetic.sum())
            made = f", {synthetic:,} synthetic" if synthetic else ""
            classes = f"{len(one.classes):,} {one.kind}" if one.kind else "no classes"
            self.say("set", f"{one.name}: {len(one):,} images{made}, {classes}")

    def write(self) -> None:
        """The JSON file and the page."""
        self.result["left_out"] = self.left_out
        write_json(self.out / "analysis.json", json.loads(json.dumps(self.result)))
        if self.left_out:
            self.sections.append(
                Section("Left out", " ".join(f"{text[0].upper()}{text[1:]}." for text in self.left_out))
            )
        names = [one.name for one in self.sets]
        cards = [(f"{len(one):,}", one.name) for one in self.sets]
        title = " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
        write_page(self.out / "index.html", title, "Data sets side by side · images of each", cards, self.sections)
        self.say("page", str(self.out / "index.html"))

    def say(self, what: str, text: str) -> None:
        """One line of the console."""
        print(textwrap.fill(f"{what:<12}{text}", 118, subsequent_indent=" " * 12, break_long_words=False,
                            break_on_hyphens=False), flush=True)  # fmt: skip

    def leave_out(self, what: str, why: str) -> None:
        """Notes that a part is not there, and why."""
        self.left_out.append(f"{what}: {why}")
        self.say("left out", f"{what}: {why}")

    def write_csv(self, name: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Writes a table."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(rows)
        with atomic(self.out / name) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
