"""Protocols whose figures come from trainings on images, one for each seed, each finished once."""

from abc import abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.files import fingerprint
from pas_train.evaluation.candidates import identity
from pas_train.evaluation.module_training import Training, once
from pas_train.evaluation.protocol import Figures, Protocol, Subject


class TrainedProtocol(Protocol):
    """A subclass is a dataclass with a field `seeds`. It says what its recipe is, how it trains and what it finds.

    key: its section below `evaluation`, and the name of its figures. main: the figure that lines of progress tell, and
    its name for people.
    """

    on_images: ClassVar[bool] = True
    key: ClassVar[str]
    main: ClassVar[tuple[str, str]]
    seeds: list[int]

    @abstractmethod
    def recipe(self, subject: Subject, seed: int) -> Any:
        """What is done with this backbone, a dataclass: the settings, and what they leave open."""

    @abstractmethod
    def training(self, subject: Subject, folder: Path) -> Training:
        """Where it is, and how long. folder: of the checkpoints."""

    @abstractmethod
    def found(self, subject: Subject, recipe: Any, training: Training) -> Figures:
        """Trains, judges, and returns the figures of one seed, on all ranks."""

    def judge(self, subject: Subject) -> dict[str, Figures]:
        """The figures of the test images; nothing of raw pixels, which have no backbone.

        All ranks must call it. What is finished is kept in the subject's folder, and not done again.
        """
        if subject.backbone is None:
            return {}
        weights = identity(subject.backbone)
        parts = [self._judge_seed(subject, seed, weights) for seed in self.seeds]
        return {self.key: self.over_seeds(parts, subject)}

    def names(self) -> list[str]:
        """One figure."""
        return [self.key]

    def over_seeds(self, parts: list[Figures], subject: Subject) -> Figures:
        """Means of the figures; of several seeds also the main one of each."""
        told: Figures = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        return told | ({"seeds": [part[self.main[0]] for part in parts]} if len(parts) > 1 else {})

    def depends(self, subject: Subject) -> list[Any]:
        """What the figures depend on besides recipe, backbone, images, colours and precision."""
        return []

    def check(self, name: str, right: bool, said: str) -> None:
        """Raises ValueError naming a setting that is not right."""
        if not right:
            raise ValueError(f"evaluation.{self.key}.{name} {said}, got {getattr(self, name)}")

    def check_seeds(self) -> None:
        """Raises ValueError where there is none, or one twice."""
        self.check("seeds", len(set(self.seeds)) == len(self.seeds) > 0, "must be one or more different numbers")

    def _judge_seed(self, subject: Subject, seed: int, weights: str) -> Figures:
        recipe, (name, title) = self.recipe(subject, seed), self.main
        settings = fingerprint(
            [asdict(recipe), *self.depends(subject), weights, subject.train.fingerprint(), subject.test.fingerprint(),
             list(subject.mean), list(subject.std), str(subject.trainer.get("precision"))]
        )  # fmt: skip
        kept = subject.folder / f"{self.key}-{settings}.json"
        training = self.training(subject, kept.with_suffix("")).of_seed(seed, self.seeds)
        return once(
            training,
            kept,
            lambda: self.found(subject, recipe, training),
            lambda told: f"{title} {100 * told[name]:.1f} %",
        )
