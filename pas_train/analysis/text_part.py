"""The part of an analysis on words: coverage of labels, and the map of all texts."""

from pathlib import Path
from typing import Any

import numpy as np

from pas_train import curated
from pas_train.analysis.lexical import SHARES, Covered, cover, draw_coverage
from pas_train.analysis.maps import add_map
from pas_train.analysis.page import Picture, Section, Table, percent
from pas_train.analysis.study import Study

FURTHEST = 8  # labels that are named


def add_texts(study: Study) -> None:
    """The coverage of labels, and the map of all texts."""
    banks = {one.name: list(dict.fromkeys(one.words)) for one in study.sets if one.kind}
    texts = list(dict.fromkeys(text for group in (*banks.values(), *study.labels.values()) for text in group))
    encoder = _text_encoder(study) if texts else "no set has classes or concepts, and no --labels are given"
    if isinstance(encoder, str):
        study.leave_out("texts", encoder)
        return
    name, model = encoder
    study.say("texts", f"{len(texts):,} texts are embedded by {name}")
    vectors = model.to(study.device).embed_texts(texts).float().cpu().numpy()
    study.vectors = dict(zip(texts, vectors, strict=True))
    if banks and study.labels:
        _coverage(study, banks, name)
    groups = {**banks, **{f"{label} (labels)": words for label, words in study.labels.items()}}
    points = [(group, np.stack([study.vectors[word] for word in words])) for group, words in groups.items() if words]
    add_map(study, "texts", points, f"The words of classes, concepts and labels, embedded by {name}.")


def _text_encoder(study: Study) -> tuple[str, Any] | str:
    """(name, model), or why there is none."""
    if study.options.texts is not None:
        folder = Path(study.options.texts).is_dir()
        model, _, weights = (study.options.texts, "", "") if folder else study.options.texts.partition(":")
        return study.options.texts, curated.image_text_encoder(model, weights or None, "--texts")
    for one in study.sets:
        stored = curated.stored_encoder(one.workspace) if one.workspace is not None else None
        if stored is not None:
            return stored["model"], curated.image_text_encoder(stored["model"], stored["pretrained"], "--texts")
    return "no set has a text encoder of its own; give --texts ViT-L-14:openai (the paper's)"


def _coverage(study: Study, banks: dict[str, list[str]], encoder: str) -> None:
    covered = cover(study.labels, banks, study.vectors)
    study.result["coverage"] = [{"labels_of": one.labels_of, "bank": one.bank_of, **one.figures()} for one in covered]
    rows = [
        [one.labels_of, one.bank_of, found["labels"], round(found["median"], 3), percent(found["same"]),
         *(percent(found[f"under_{limit}"]) for limit in SHARES), _furthest(one)]
        for one, found in zip(covered, study.result["coverage"], strict=True)
    ]  # fmt: skip
    heads = [
        "Labels of",
        "Nearest in",
        "Labels",
        "Median distance",
        "The same",
        *(f"under {limit}" for limit in SHARES),
    ]
    paths = study.out / "coverage.png", study.out / "coverage.svg"
    draw_coverage(covered, list(banks), *paths)
    study.sections.append(
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
    study.write_csv("coverage.csv", ["labels_of", "set", "label", "nearest", "distance"], listed)
    for row in rows:
        study.say("coverage", f"{row[0]} in {row[1]}: median distance {row[3]}, the same {row[4]}, under 0.1 {row[6]}")


def _furthest(one: Covered) -> str:
    order = np.argsort(-one.distance, kind="stable")[:FURTHEST]
    return ", ".join(f"{one.labels[place]} ({one.nearest[place]}, {one.distance[place]:.2f})" for place in order)
