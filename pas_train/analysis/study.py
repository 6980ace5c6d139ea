"""One analysis from its options to its files: each part adds its figures, its section of the page and its pictures."""

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

from datamodules.files import atomic, read_json, write_json
from datamodules.image_source import JoinedSources
from datamodules.labelled import read_labelled
from pas_train import curated
from pas_train.analysis.balance import RARE, class_counts, set_figures
from pas_train.analysis.bank import bank_accuracies, match_classes
from pas_train.analysis.densities import Points, draw_map, overlap, umap_together
from pas_train.analysis.embedding import Embedder, choose, embed_set
from pas_train.analysis.lexical import SHARES, Covered, cover, draw_coverage
from pas_train.analysis.page import Picture, Section, Table, write_page
from pas_train.analysis.sets import NONE, ImageSet, draw_rows, read_sets

FURTHEST = 8


def run(options: argparse.Namespace) -> None:
    """Writes the analysis below options.out and says what it found."""
    study = Study(options)
    study.read()
    study.balance()
    study.texts()
    study.images()
    study.prototypes()
    study.write()


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

    # Sets.

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

    def balance(self) -> None:
        """Sizes, sources and SELECT's figures."""
        self.result["sets"] = figures = [set_figures(one) for one in self.sets]
        sizes = Table(
            ["Set", "Images", "Real", "Synthetic", "Classes or concepts", "Images without one"],
            [
                [one["name"], one["images"], one["real"], one["synthetic"],
                 one["balance"]["all"]["classes"] if one["kind"] else None, one["without_class"]]
                for one in figures
            ],
        )  # fmt: skip
        rows = [
            [one["name"], source, figure["present"], _percent(figure["coverage"]), figure[f"lt_{RARE}"],
             _percent(figure[f"lt_{RARE}_share"]), _percent(figure["ls_5pct"]), round(figure["balance"], 3)]
            for one in figures
            for source, figure in one.get("balance", {}).items()
        ]  # fmt: skip
        heads = ["Set", "Source", "Present", "Coverage", f"LT@{RARE}", "of all", "LS@5pct", "Balance"]
        note = (
            f"Coverage: classes or concepts with an image. LT@{RARE}: with fewer than {RARE} images. LS@5pct: share of "
            "the images that the largest 5 % hold. Balance: entropy over that of equal shares. An image counts for its "
            "best concept."
        )
        parts = [sizes, *([Table(heads, rows, "Balance of classes", note)] if rows else [])]
        self.sections.append(Section("Sizes and sources", "", list(parts)))
        self._write_csv("sets.csv", heads, rows)
        self._write_csv("classes.csv", ["set", "class", "images", "real", "synthetic"], self._class_rows())

    def _class_rows(self) -> Iterable[list[Any]]:
        for one in self.sets:
            counts = [
                class_counts(one.labels[mask], len(one.classes))
                for mask in (one.labels >= NONE, ~one.synthetic, one.synthetic)
            ]
            for place, name in enumerate(one.classes):
                yield [one.name, name, *(int(count[place]) for count in counts)]

    # Texts.

    def texts(self) -> None:
        """The coverage of labels, and the map of all texts."""
        banks = {one.name: list(dict.fromkeys(one.words)) for one in self.sets if one.kind}
        texts = list(dict.fromkeys(text for group in (*banks.values(), *self.labels.values()) for text in group))
        encoder = self._text_encoder() if texts else "no set has classes or concepts, and no --labels are given"
        if isinstance(encoder, str):
            self._leave_out("texts", encoder)
            return
        name, model = encoder
        self.say("texts", f"{len(texts):,} texts are embedded by {name}")
        vectors = model.to(self.device).embed_texts(texts).float().cpu().numpy()
        self.vectors = dict(zip(texts, vectors, strict=True))
        if banks and self.labels:
            self._coverage(banks, name)
        groups = {**banks, **{f"{label} (labels)": words for label, words in self.labels.items()}}
        points = [(group, np.stack([self.vectors[word] for word in words])) for group, words in groups.items() if words]
        self._map("texts", points, f"The words of classes, concepts and labels, embedded by {name}.")

    def _text_encoder(self) -> tuple[str, Any] | str:
        """(name, model), or why there is none."""
        if self.options.texts is not None:
            folder = Path(self.options.texts).is_dir()
            model, _, weights = (self.options.texts, "", "") if folder else self.options.texts.partition(":")
            return self.options.texts, curated.image_text_encoder(model, weights or None, "--texts")
        for one in self.sets:
            stored = curated.stored_encoder(one.workspace) if one.workspace is not None else None
            if stored is not None:
                return stored["model"], curated.image_text_encoder(stored["model"], stored["pretrained"], "--texts")
        return "no set has a text encoder of its own; give --texts ViT-L-14:openai (the paper's)"

    def _coverage(self, banks: dict[str, list[str]], encoder: str) -> None:
        covered = cover(self.labels, banks, self.vectors)
        self.result["coverage"] = [
            {"labels_of": one.labels_of, "bank": one.bank_of, **one.figures()} for one in covered
        ]
        rows = [
            [one.labels_of, one.bank_of, found["labels"], round(found["median"], 3), _percent(found["same"]),
             *(_percent(found[f"under_{limit}"]) for limit in SHARES), _furthest(one)]
            for one, found in zip(covered, self.result["coverage"], strict=True)
        ]  # fmt: skip
        heads = [
            "Labels of",
            "Nearest in",
            "Labels",
            "Median distance",
            "The same",
            *(f"under {limit}" for limit in SHARES),
        ]
        paths = self.out / "coverage.png", self.out / "coverage.svg"
        draw_coverage(covered, list(banks), *paths)
        self.sections.append(
            Section(
                "Lexical coverage",
                "From each label to the nearest class or concept of a set: 1 - cosine of the words, embedded by "
                f"{encoder}; 0 for the same words.",
                [Table([*heads, "Furthest"], rows), Picture(paths[1], "Histograms of the distances of labels")],
            )
        )
        listed = [
            [one.labels_of, one.bank_of, *found, round(float(distance), 5)]
            for one in covered
            for *found, distance in zip(one.labels, one.nearest, one.distance, strict=True)
        ]
        self._write_csv("coverage.csv", ["labels_of", "set", "label", "nearest", "distance"], listed)
        for row in rows:
            self.say(
                "coverage", f"{row[0]} in {row[1]}: median distance {row[3]}, the same {row[4]}, under 0.1 {row[6]}"
            )

    # Images.

    def images(self) -> None:
        """The map of all images, and each set as a bank."""
        options = self.options
        if options.no_maps and options.queries is None:
            return
        queries = read_labelled(options.queries, "--queries") if options.queries is not None else None
        embedder = choose(options.embeddings, self.sets, options.image_size, self.device)
        if isinstance(embedder, str):
            if queries is not None:
                raise ValueError(f"--queries needs embeddings: {embedder}")
            self._leave_out("images", embedder)
            return
        found = {one.name: self._embed(one, embedder) for one in self.sets}
        points = [(name, vectors) for name, (_, vectors) in found.items()]
        self._map("images", points, f"Up to {options.images:,} images of each set, embedded by {embedder.name}.", found)
        if queries is not None:
            asked = ImageSet("queries", options.queries, queries.source, "classes", queries.classes, queries.labels,
                             np.zeros(len(queries), bool))  # fmt: skip
            self._bank(asked, self._embed(asked, embedder), found, embedder.name)

    def _embed(self, one: ImageSet, embedder: Embedder) -> tuple[np.ndarray, np.ndarray]:
        rows = draw_rows(one, self.options.images, self.options.seed)
        self.say("images", f"{one.name}: {len(rows):,} images are embedded by {embedder.name}")
        found = embed_set(one, rows, embedder, self.out / "embeddings", self.options.workers, self.device)
        if len(found[0]) < len(rows):
            self.say("images", f"{one.name}: {len(rows) - len(found[0]):,} of them cannot be read, and are left out")
        if not len(found[0]):
            raise ValueError(f"{one.name}: none of its images has an embedding")
        return found

    def _bank(
        self, asked: ImageSet, queries: tuple[np.ndarray, np.ndarray],
        found: dict[str, tuple[np.ndarray, np.ndarray]], model: str,
    ) -> None:  # fmt: skip
        classes, held = asked.words, {}
        for one in self.sets:
            if one.kind:
                matched = match_classes(one.words, classes, self.vectors, self.options.match)
                rows, vectors = found[one.name]
                labels = np.where(one.labels[rows] == NONE, NONE, matched[one.labels[rows]])
                if (labels != NONE).any():
                    held[one.name] = labels[labels != NONE], vectors[labels != NONE]
        missing = [one.name for one in self.sets if one.name not in held]
        if missing:
            self._leave_out("bank", f"{', '.join(missing)}: no class stands for one of {self.options.queries}")
        if not held:
            return
        size = min(len(labels) for labels, _ in held.values())  # banks of one size are compared fairly
        figures = {}
        for name, (labels, vectors) in held.items():
            drawn = np.sort(np.random.default_rng(self.options.seed).permutation(len(labels))[:size])
            truth = asked.labels[queries[0]]
            figures[name] = bank_accuracies(vectors[drawn], labels[drawn], queries[1], truth, len(classes))
        self.result["bank"] = {
            "queries": self.options.queries,
            "images": len(queries[0]),
            "embedder": model,
            "sets": figures,
        }
        columns = [key for key in next(iter(figures.values())) if key.startswith("knn")]
        rows_shown = [
            [name, one["bank_images"], _percent(one["classes"]), *(_percent(one[key]) for key in columns)]
            for name, one in figures.items()
        ]
        heads = ["Set", "Bank images", "Classes", *(f"k = {key[3:] or 1}" for key in columns)]
        note = (
            f"{len(queries[0]):,} labelled images of {self.options.queries}, whose labels each set predicts by its own "
            f"classes; {model}, cosine, votes weighted with temperature 0.07 but for k = 1. All banks are of one "
            "size. A label that no class of a set stands for cannot be predicted by it."
        )
        self.sections.append(Section("As a bank of a k-NN classifier", note, [Table(heads, rows_shown)]))
        self._write_csv("bank.csv", heads, rows_shown)
        for row in rows_shown:
            self.say(
                "bank",
                f"{row[0]}: {', '.join(f'{head} {value}' for head, value in zip(heads[3:], row[3:], strict=True))}",
            )

    def _map(
        self, what: str, points: Sequence[tuple[str, np.ndarray]], text: str,
        found: dict[str, tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> None:  # fmt: skip
        if self.options.no_maps:
            return
        total = sum(len(vectors) for _, vectors in points)
        if total < 5:
            self._leave_out(f"map of {what}", f"{total} points make none")
            return
        self.say("map", f"{total:,} {what}")
        names, vectors = [name for name, _ in points], [values for _, values in points]
        placed = umap_together(names, vectors, self.options.seed)
        paths = self.out / f"{what}-map.png", self.out / f"{what}-map.svg"
        draw_map(placed, what, *paths)
        shared = _overlaps(placed)
        self.result[f"{what}_map"] = {"points": {one.name: len(one.places) for one in placed}, "overlap": shared}
        rows = [
            [one.name, int(found[one.name][0][place]) if found else place, round(float(x), 4), round(float(y), 4)]
            for one in placed
            for place, (x, y) in enumerate(one.places)
        ]
        self._write_csv(f"{what}-map.csv", ["set", "row", "x", "y"], rows)
        parts: list[Table | Picture] = [Picture(paths[0], f"Density of the {what} of each set on one map")]
        if shared:
            pairs = [[first, second, value] for first, second, value in shared]
            parts.append(Table(["Set", "and", "Shared density"], pairs, note="0: apart; 1: alike."))
        note = (
            f"{text} One UMAP of all together (cosine, 15 neighbours, seed {self.options.seed}); contours hold 10 to "
            "90 % of a set's density. Distances far apart on such a map mean little."
        )
        self.sections.append(Section(f"Map of {what}", note, parts))

    # Prototypes.

    def prototypes(self) -> None:
        """The prototypes that the sets share, by a trained ProtoSim."""
        if self.options.protosim is None:
            return
        if len(self.sets) < 2:
            raise ValueError("--protosim compares two sets or more")
        from pas_train.protosim.comparing import compare, load_protosim

        module = load_protosim(self.options.protosim).to(self.device)
        names, folder = [one.name for one in self.sets], self.out / "protosim"
        compare(
            module, JoinedSources([one.images for one in self.sets]), names, folder, self.options.workers, self.device
        )
        self.result["protosim"] = found = read_json(folder / "protosim.json")
        exclusive, chance = found["all_tokens"]["exclusive"], found["random_split"]["exclusive"]
        rows = [[name, one["prototypes"], one["images"], chance[name]["mean"]] for name, one in exclusive.items()]
        shared = f"{found['all_tokens']['shared']:,} of {found['prototypes']:,}"
        note = f"{shared} prototypes are shared; more in protosim/index.html."
        heads = ["Set", "Own prototypes", "Images behind them", "Own by chance"]
        pictures = [
            Picture(
                folder / f"exclusive-{place + 1}.png", f"Images of the prototypes of {name} alone", f"Only in {name}"
            )
            for place, name in enumerate(names)
            if (folder / f"exclusive-{place + 1}.png").is_file()
        ]
        self.sections.append(Section("Prototypes", note, [Table(heads, rows), *pictures]))

    # Files.

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

    def _leave_out(self, what: str, why: str) -> None:
        self.left_out.append(f"{what}: {why}")
        self.say("left out", f"{what}: {why}")

    def _write_csv(self, name: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(rows)
        with atomic(self.out / name) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")


def _overlaps(placed: Sequence[Points]) -> list[list[Any]]:
    found = []
    for place, first in enumerate(placed):
        for second in placed[place + 1 :]:
            value = overlap(first, second)
            if value is not None:
                found.append([first.name, second.name, round(value, 3)])
    return found


def _furthest(one: Covered) -> str:
    order = np.argsort(-one.distance, kind="stable")[:FURTHEST]
    return ", ".join(f"{one.labels[place]} ({one.nearest[place]}, {one.distance[place]:.2f})" for place in order)


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f} %"
