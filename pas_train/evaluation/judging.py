"""Judges backbones on labelled data sets, one after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.labelled import LabelledDataset, LabelledImages
from pas_train.evaluation.candidates import Candidate, identity
from pas_train.evaluation.evaluation import Evaluation
from pas_train.evaluation.features import extract_features
from pas_train.evaluation.protocol import Features, Figures, Subject


@dataclass
class Judged:
    """What judging found, in the shape of results.json: its `backbones`, `protocols` and `evaluation`."""

    backbones: dict[str, dict[str, Any]] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluation: dict[str, dict[str, dict[str, Figures]]] = field(default_factory=dict)


@dataclass
class Judging:
    """How backbones are judged.

    image_size: of the model, where the evaluation names none. trainer: the yaml's section, for protocols that train.
    """

    evaluation: Evaluation
    workspace: Path
    device: torch.device
    image_size: int
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def run(self, candidates: Sequence[Candidate]) -> Judged:
        """All candidates on all data sets by all protocols."""
        evaluation, judged = self.evaluation, Judged()
        protocols = evaluation.protocols()
        sets = {item.name: item.read(self.workspace) for item in evaluation.datasets}
        described = {name: settings for one in protocols for name, settings in one.described().items()}
        for name, (train, test) in sets.items():
            judged.evaluation[name] = {}
            judged.protocols[name] = {
                "train": train.fingerprint(), "test": test.fingerprint(), "train_images": len(train),
                "test_images": len(test), "classes": len(train.classes), "image_size": self.side, "figures": described,
            }  # fmt: skip
        for candidate in candidates:
            backbone = candidate.build() if candidate.build is not None else None
            judged.backbones[candidate.name] = {
                "title": candidate.title, "kind": candidate.kind, "architecture": candidate.architecture,
                "identity": identity(backbone),
            }  # fmt: skip
            for name, (train, test) in sets.items():
                subject = self._subject(name, candidate, backbone, train, test)
                figures: dict[str, Figures] = {}
                for protocol in protocols:
                    figures |= protocol.judge(subject)
                judged.evaluation[name][candidate.name] = figures
        return judged

    @property
    def side(self) -> int:
        """Of the test images in pixels."""
        return self.evaluation.image_size or self.image_size

    def _subject(
        self, name: str, candidate: Candidate, backbone: nn.Module | None, train: LabelledImages, test: LabelledImages
    ) -> Subject:
        @cache
        def features() -> tuple[Features, Features]:
            return self._features(candidate, backbone, train), self._features(candidate, backbone, test)

        return Subject(
            name, backbone, train, test, features, self.side, candidate.mean, candidate.std, self.device,
            self.workspace, self.trainer, self.evaluation.batch_size, self.evaluation.num_workers,
        )  # fmt: skip

    def _features(self, candidate: Candidate, backbone: nn.Module | None, images: LabelledImages) -> Features:
        dataset = LabelledDataset(images, self.side)
        size, workers = self.evaluation.batch_size, self.evaluation.num_workers
        return extract_features(backbone, dataset, candidate.mean, candidate.std, self.device, size, workers)
