"""Classification from a few labelled images of each class, on frozen features."""

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from pas_train.evaluation.metrics import best_classes, figures, over_seeds
from pas_train.evaluation.neighbours import unit_rows
from pas_train.evaluation.protocol import Figures, Protocol, Subject

TEST_BLOCK = 8192
NAMED = 8  # classes that a message names


@dataclass
class FewShot(Protocol):
    """A few images of each class, on frozen features of length one; mean over several draws.

    Args:
        shots: Images of each class; each number is a figure, such as `fewshot5`.
        seeds: Draws of the images.
        classifier: logistic (regression, multinomial) or centre (of the class, the most similar one).
        penalty: Of logistic regression, on the squared weights: scikit-learn's 1 / C.
    """

    shots: list[int] = field(default_factory=lambda: [1, 5, 10])
    seeds: int = 5
    classifier: Literal["logistic", "centre"] = "logistic"
    penalty: float = 0.1

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        if not self.shots or min(self.shots) < 1 or len(set(self.shots)) < len(self.shots):
            raise ValueError(f"evaluation.fewshot.shots must be different numbers, 1 or more, got {self.shots}")
        if self.seeds < 1:
            raise ValueError(f"evaluation.fewshot.seeds must be 1 or more, got {self.seeds}")
        if self.penalty <= 0:
            raise ValueError(f"evaluation.fewshot.penalty must be positive, got {self.penalty}")

    def names(self) -> list[str]:
        """One for each number of shots."""
        return [f"fewshot{shots}" for shots in self.shots]

    def described(self) -> dict[str, dict[str, Any]]:
        """Each figure by its own settings."""
        same: dict[str, Any] = {"seeds": self.seeds, "classifier": self.classifier}
        if self.classifier == "logistic":
            same["penalty"] = self.penalty
        return {f"fewshot{shots}": {"shots": shots, **same} for shots in self.shots}

    def judge(self, subject: Subject) -> dict[str, Figures]:
        """Of all test images, by a few training images of each class. A class that has fewer gives all it has."""
        train, test = subject.sound_features()
        self._tell(np.bincount(train.labels, minlength=subject.classes), subject)
        parts: dict[str, list[Figures]] = {name: [] for name in self.names()}
        for seed in range(self.seeds):
            order = np.random.default_rng(seed).permutation(len(train.labels))
            for shots in self.shots:
                rows = np.sort(drawn(train.labels, order, shots))
                values = unit_rows(train.values[rows], torch.device("cpu")).numpy()
                weight, bias = self._fit(values, train.labels[rows], subject.classes)
                ranked = []
                for begin in range(0, len(test.labels), TEST_BLOCK):
                    block = unit_rows(test.values[begin : begin + TEST_BLOCK], torch.device("cpu"))
                    ranked.append(best_classes(block @ weight.T + bias))
                parts[f"fewshot{shots}"].append(figures(np.concatenate(ranked), test.labels))
        return {name: over_seeds(part, len(test.labels)) for name, part in parts.items()}

    def _tell(self, counts: np.ndarray, subject: Subject) -> None:
        few = np.flatnonzero(counts < max(self.shots))
        if len(few):
            named = ", ".join(f"{subject.train.classes[one]} ({counts[one]})" for one in few[:NAMED])
            named += f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
            print(
                f"{'evaluation':<12}'{subject.name}' has fewer than {max(self.shots)} training images of {named}: "
                "all of them are taken",
                flush=True,
            )

    def _fit(self, values: np.ndarray, labels: np.ndarray, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights [classes, D] and biases [classes] of a linear classifier."""
        weight, bias = np.zeros((classes, values.shape[1]), np.float32), np.full(classes, -np.inf, np.float32)
        present = np.unique(labels)
        if self.classifier == "centre":
            sums = np.zeros_like(weight)
            np.add.at(sums, labels, values)
            weight[present] = unit_rows(sums[present], torch.device("cpu")).numpy()
            bias[present] = 0.0
        elif len(present) == 1:
            bias[present] = 0.0
        else:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.linear_model import LogisticRegression

            with warnings.catch_warnings():  # its hundred steps are enough: the order of the classes stands
                warnings.simplefilter("ignore", ConvergenceWarning)
                warnings.filterwarnings("ignore", "The number of unique classes")  # one image a class is what is asked
                model = LogisticRegression(C=1 / self.penalty).fit(values, labels)
            binary = len(present) == 2  # scikit-learn tells the second class's weights alone
            weight[present] = np.concatenate([-model.coef_, model.coef_]) / 2 if binary else model.coef_
            told = np.concatenate([-model.intercept_, model.intercept_]) / 2 if binary else model.intercept_
            bias[present] = told
        return torch.from_numpy(weight), torch.from_numpy(bias)


def drawn(labels: np.ndarray, order: np.ndarray, shots: int) -> np.ndarray:
    """The first rows of each class in an order, at most `shots` of each: more shots draw the same ones and others."""
    sorted_ = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return sorted_[np.arange(len(labels)) - starts < shots]
