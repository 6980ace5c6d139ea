"""Scores of the frozen features of the training images that need no training: LogME and NCTI."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pas_train.evaluation.protocol import Figures, Protocol, Subject
from pas_train.evaluation.transferability import logme, ncti_terms


@dataclass
class Transfer(Protocol):
    """LogME and NCTI of the training images' features; raw pixels have none.

    Args:
        rule: LogME's: fixed_point (of its journal paper) or icml (of its first one).
        exact: Adds the term of directions without variance, which LogME's published code leaves out.
        images: So many of the training images, drawn at random; null takes all.
        seed: Of that draw.
    """

    rule: Literal["fixed_point", "icml"] = "fixed_point"
    exact: bool = False
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        if self.images is not None and self.images < 2:
            raise ValueError(f"evaluation.transfer.images must be 2 or more, or null for all, got {self.images}")

    def names(self) -> list[str]:
        """Two scores."""
        return ["logme", "ncti"]

    def judge(self, subject: Subject) -> dict[str, Figures]:
        """LogME's score, and the terms that `compare` makes NCTI of: it tells models apart, and says nothing of one."""
        if subject.backbone is None:
            return {}
        train = subject.sound_features()[0]
        values, labels = train.values, train.labels
        if self.images is not None and self.images < len(labels):
            rows = np.sort(np.random.default_rng(self.seed).choice(len(labels), self.images, replace=False))
            values, labels = values[rows], labels[rows]
        if not np.any(values):
            print(
                f"{'evaluation':<12}'{subject.name}': all features are zero, so LogME and NCTI are left out", flush=True
            )
            return {}
        told: dict[str, Figures] = {"logme": {"score": logme(values, labels, self.rule, self.exact)}}
        try:
            return told | {"ncti": ncti_terms(values, labels)}
        except ValueError as error:  # too few images
            print(f"{'evaluation':<12}'{subject.name}': NCTI is left out: {error}", flush=True)
            return told
