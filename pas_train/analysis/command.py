"""The command `analyse`: what several data sets hold, side by side."""

import argparse
import importlib.util
from collections.abc import Sequence
from typing import Any

from pas_train.parsing import PlainParser

OUT = "runs/analysis"


ARGUMENTS: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [
    (
        ("sets",),
        "NAME=SOURCE or SOURCE, with what data.source takes: a manifest.parquet, a folder, shards, torchvision:..., "
        "hf:..., or a known set such as food-101:DIR",
        {"nargs": "+", "metavar": "SET"},
    ),
    (("--out",), f"where files go ({OUT})", {"default": OUT, "metavar": "DIR"}),
    (
        ("--embeddings",),
        "of the images: stored (those of the curation; its model for the other sets), timm:resnet152 (the paper's), "
        "any other timm:NAME or hf:NAME, mocov3:FILE, random:NAME, or the .ckpt of a training; default: stored, where "
        "a set has them",
        {"metavar": "MODEL"},
    ),
    (("--image-size",), "side of the images for a backbone (224)", {"type": int, "default": 224, "metavar": "N"}),
    (("--images",), "images drawn of each set to embed (5000)", {"type": int, "default": 5000, "metavar": "N"}),
    (
        ("--texts",),
        "open_clip's text encoder as NAME:WEIGHTS (ViT-L-14:openai is the paper's) or a folder; default: that of a "
        "curated set",
        {"metavar": "MODEL"},
    ),
    (
        ("--labels",),
        "labels that are held against the sets: class folders, a .csv, a .txt, or a known set",
        {"nargs": "+", "action": "extend", "default": [], "metavar": "NAME=SOURCE"},
    ),
    (
        ("--queries",),
        "labelled images that each set predicts the labels of, as a k-NN bank: class folders, a .csv, or a known set "
        "such as food-101:DIR?split=test",
        {"metavar": "SOURCE"},
    ),
    (
        ("--match",),
        "cosine distance up to which a concept stands for a label of other words, in the bank (0.1)",
        {"type": float, "default": 0.1, "metavar": "D"},
    ),
    (("--no-maps",), "no density maps (they need umap-learn: .[analysis])", {"action": "store_true"}),
    (("--protosim",), "checkpoint of `fit --config protosim.yaml`: compares prototypes", {"metavar": "CKPT"}),
    (("--workers",), "loading processes (2)", {"type": int, "default": 2, "metavar": "N"}),
    (("--device",), "auto, cpu or cuda", {"default": "auto"}),
    (("--seed",), "of the draw of images and of the maps (0)", {"type": int, "default": 0, "metavar": "N"}),
]


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = PlainParser(
        prog="python -m pas_train analyse",
        allow_abbrev=False,
        description="Says what data sets hold, side by side: sizes, sources, concepts and their balance, density maps "
        "of images and texts, coverage of labels, k-NN accuracy as a bank, prototypes. One page, CSV and JSON.",
    )
    for names, help_text, settings in ARGUMENTS:
        made.add_argument(*names, help=help_text, **settings)
    return made


def analyse(command: str, args: Sequence[str]) -> None:
    """Runs the command."""
    options = parser().parse_args(list(args))
    for name, least in (("images", 1), ("image_size", 8), ("workers", 0), ("seed", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(options, name)}")
    if not options.no_maps and importlib.util.find_spec("umap") is None:
        raise ValueError("the density maps need umap-learn: pip install -e '.[analysis]', or leave them out: --no-maps")
    # These import torch.
    from pas_train.analysis.image_part import add_images
    from pas_train.analysis.prototype_part import add_prototypes
    from pas_train.analysis.size_part import add_sizes
    from pas_train.analysis.study import Study
    from pas_train.analysis.text_part import add_texts

    study = Study(options)
    study.read()
    for add in (add_sizes, add_texts, add_images, add_prototypes):
        add(study)
    study.write()
