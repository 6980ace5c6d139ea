"""The part of an analysis on images: the map of all, and each set as a bank."""

import numpy as np

from datamodules.labelled import read_labelled
from pas_train.analysis.bank import bank_accuracies, match_classes
from pas_train.analysis.embedding import Embedder, choose, embed_set
from pas_train.analysis.maps import add_map
from pas_train.analysis.page import Section, Table, percent
from pas_train.analysis.sets import NONE, ImageSet, draw_rows
from pas_train.analysis.study import Study

Embedded = tuple[np.ndarray, np.ndarray]  # rows int64 [n], unit float32 [n, D]


def add_images(study: Study) -> None:
    """The map of all images, and each set as a bank."""
    options = study.options
    if options.no_maps and options.queries is None:
        return
    queries = read_labelled(options.queries, "--queries") if options.queries is not None else None
    embedder = choose(options.embeddings, study.sets, options.image_size, study.device)
    if isinstance(embedder, str):
        if queries is not None:
            raise ValueError(f"--queries needs embeddings: {embedder}")
        study.leave_out("images", embedder)
        return
    found = {one.name: _embed(study, one, embedder) for one in study.sets}
    points = [(name, vectors) for name, (_, vectors) in found.items()]
    add_map(
        study, "images", points, f"Up to {options.images:,} images of each set, embedded by {embedder.name}.", found
    )
    if queries is not None:
        asked = ImageSet("queries", options.queries, queries.source, "classes", queries.classes, queries.labels,
                         np.zeros(len(queries), bool))  # fmt: skip
        _bank(study, asked, _embed(study, asked, embedder), found, embedder.name)


def _embed(study: Study, one: ImageSet, embedder: Embedder) -> Embedded:
    rows = draw_rows(one, study.options.images, study.options.seed)
    study.say("images", f"{one.name}: {len(rows):,} images are embedded by {embedder.name}")
    found = embed_set(one, rows, embedder, study.out / "embeddings", study.options.workers, study.device)
    if len(found[0]) < len(rows):
        study.say("images", f"{one.name}: {len(rows) - len(found[0]):,} of them cannot be read, and are left out")
    if not len(found[0]):
        raise ValueError(f"{one.name}: none of its images has an embedding")
    return found


def _bank(
    study: Study, asked: ImageSet, queries: Embedded,
    found: dict[str, Embedded], model: str,
) -> None:  # fmt: skip
    classes, held = asked.words, {}
    for one in study.sets:
        if one.kind:
            matched = match_classes(one.words, classes, study.vectors, study.options.match)
            rows, vectors = found[one.name]
            labels = np.where(one.labels[rows] == NONE, NONE, matched[one.labels[rows]])
            if (labels != NONE).any():
                held[one.name] = labels[labels != NONE], vectors[labels != NONE]
    missing = [one.name for one in study.sets if one.name not in held]
    if missing:
        study.leave_out("bank", f"{', '.join(missing)}: no class stands for one of {study.options.queries}")
    if not held:
        return
    size = min(len(labels) for labels, _ in held.values())  # banks of one size are compared fairly
    figures = {}
    for name, (labels, vectors) in held.items():
        drawn = np.sort(np.random.default_rng(study.options.seed).permutation(len(labels))[:size])
        truth = asked.labels[queries[0]]
        figures[name] = bank_accuracies(vectors[drawn], labels[drawn], queries[1], truth, len(classes))
    study.result["bank"] = {
        "queries": study.options.queries,
        "images": len(queries[0]),
        "embedder": model,
        "sets": figures,
    }
    columns = [key for key in next(iter(figures.values())) if key.startswith("knn")]
    rows_shown = [
        [name, one["bank_images"], percent(one["classes"]), *(percent(one[key]) for key in columns)]
        for name, one in figures.items()
    ]
    heads = ["Set", "Images drawn", "Labels held", *(f"k = {key[3:] or 1}" for key in columns)]
    note = (
        f"{len(queries[0]):,} labelled images of {study.options.queries}, whose labels each set predicts by its own "
        f"classes; {model}, cosine, votes weighted with temperature 0.07 but for k = 1. All banks are of one "
        "size. A label that no class of a set stands for cannot be predicted by it."
    )
    study.sections.append(Section("As a bank of a k-NN classifier", note, [Table(heads, rows_shown)]))
    study.write_csv("bank.csv", heads, rows_shown)
    for row in rows_shown:
        told = ", ".join(f"{head} {value}" for head, value in zip(heads[3:], row[3:], strict=True))
        held_classes = round(figures[str(row[0])]["classes"] * len(classes))
        without = "" if held_classes == len(classes) else (
            f"; {len(classes) - held_classes} of {len(classes)} labels have no class within {study.options.match:g} "
            "(--match) and count as missed"
        )  # fmt: skip
        study.say("bank", f"{row[0]}: {told}{without}")
