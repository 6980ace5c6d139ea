"""Rows of a comparison, and the judged backbones that they are of."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pas_train.comparison.reading import Result

METHODS = {"mocov3": "MoCo v3", "nnclr": "NNCLR"}
VIT = re.compile(r"vit_(\w+?)_patch(\d+)")
SIZES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H", "giant": "g"}


@dataclass
class Draw:
    """One judged backbone: of a row, the one of one seed.

    key: its name in `evaluation`. figures: data set -> name -> figures; sources: where each of them was read. unknown:
    settings that some other trainings of the method know, and some do not, as they are of another version.
    """

    key: str
    kind: str
    title: str
    architecture: str
    result: Result
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[tuple[str, str], Result] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()

    def results_on(self, data_set: str) -> list[Result]:
        """The results that hold its figures on a data set, each once."""
        return list({id(result): result for (name, _), result in self.sources.items() if name == data_set}.values())

    @property
    def data(self) -> dict[str, Any]:
        """The entry `data` of its results."""
        return self.result.content.get("data") or {}

    @property
    def training(self) -> dict[str, Any]:
        """The entry `training`, of what was trained here."""
        return self.result.training if self.kind == "trained" else {}

    @cached_property
    def recipe(self) -> dict[str, Any] | None:
        """The settings by which it was trained, as far as all trainings of the method know them."""
        every = self.result.recipe
        if every is None or not self.unknown:
            return every
        return {key: value for key, value in every.items() if ".".join(key.split(".")[:2]) not in self.unknown}


@dataclass
class Row:
    """What a line of a table says before its figures.

    draws: one for each seed. detail: what tells it from others of its name. marks: of evaluation sets, when they have
    been looked for, the mark of what was not screened, and why.
    """

    name: str
    kind: str
    draws: list[Draw]
    detail: str = ""
    marks: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def first(self) -> Draw:
        """Any of the draws, for what they have in common."""
        return self.draws[0]

    @property
    def label(self) -> str:
        """The name and what tells it from others of that name."""
        return f"{self.name} ({self.detail})" if self.detail else self.name

    @property
    def images(self) -> int | None:
        """Of the pretraining set."""
        return self.first.data.get("images") if self.kind == "trained" else None

    @property
    def synthetic(self) -> int | None:
        """Synthetic ones among the images."""
        return self.first.data.get("synthetic") if self.kind == "trained" else None

    @cached_property
    def epochs(self) -> float | None:
        """Of the pretraining."""
        return self.first.training.get("epochs")

    @property
    def passes(self) -> float | None:
        """Forward passes of the pretraining."""
        return self.first.training.get("forward_passes")

    @cached_property
    def method(self) -> str:
        """Of the pretraining, as papers write it; empty for a baseline."""
        name = str(self.first.training.get("method") or "")
        return METHODS.get(re.sub(r"[^a-z0-9]", "", name.lower()), name)

    @cached_property
    def backbone(self) -> str:
        """As papers write it."""
        if self.kind == "pixels":
            return ""
        return backbone_name(self.first.training.get("backbone") or self.first.architecture)

    @property
    def domain(self) -> str:
        """Of the runs; empty where it is not told."""
        labels = self.first.result.content.get("labels") or {}
        return str(labels.get("domain") or labels.get("group") or "")

    @property
    def outside(self) -> bool:
        """Whether nobody here knows all the images that it was trained on."""
        return self.kind in ("published", "start")


def backbone_name(name: str | None) -> str:
    """A timm name as papers write it: ViT-B/16, ResNet-50; others stay."""
    name = name or ""
    if found := VIT.match(name):
        return f"ViT-{SIZES.get(found[1], found[1])}/{found[2]}"
    found = re.fullmatch(r"resnet(\d+)", name)
    return f"ResNet-{found[1]}" if found else name
