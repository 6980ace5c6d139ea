"""What a backbone is judged on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.files import within
from datamodules.labelled import LabelledDataset, LabelledImages, read_labelled, shared_images
from pas_train.evaluation.features import extract_features
from pas_train.evaluation.knn import Knn
from pas_train.evaluation.linear import Linear
from pas_train.evaluation.protocol import Features, Protocol, Subject

BASELINES = ("pixels", "untrained", "start")


@dataclass
class EvaluationSet:
    """A labelled data set.

    Args:
        name: Its name in results.json.
        train: Folder of class folders, or CSV with columns path,label; `workspace:` begins a path in the workspace.
        test: The same, for the images that are judged.
        label_column: The CSV's column of labels.
    """

    name: str
    train: str
    test: str
    label_column: str = "label"


@dataclass
class Evaluation:
    """What a backbone is judged on, and how.

    Args:
        datasets: What to judge on.
        baselines: Beside the backbone: raw pixels, the backbone with random weights, and the start of a training that
            began with other weights (model.weights).
        image_size: Side of the test images in pixels; null takes the model's.
        batch_size: Images per batch.
        num_workers: Loader processes.
        knn: Nearest neighbours; null leaves it out.
        linear: Linear probe; null leaves it out.
        allow_unscreened: Judges also on test images that a data set that was curated here was not screened against;
            the figures are marked.
    """

    datasets: list[EvaluationSet] = field(default_factory=list)
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))
    image_size: int | None = None
    batch_size: int = 128
    num_workers: int = 0
    knn: Knn | None = field(default_factory=Knn)
    linear: Linear | None = field(default_factory=Linear)
    allow_unscreened: bool = False

    def protocols(self) -> list[Protocol]:
        """Those that are not left out."""
        return [one for one in (self.knn, self.linear) if one is not None]

    def check(self, workspace: Path, made: bool = False) -> None:
        """Raises for unknown baselines and missing files. made: files in the workspace are still to be made."""
        unknown = sorted(set(self.baselines) - set(BASELINES))
        if unknown:
            raise ValueError(f"evaluation.baselines: {', '.join(unknown)} is unknown; choices: {', '.join(BASELINES)}")
        for item in self.datasets:
            for path in (item.train, item.test):
                if not (made and path.startswith("workspace:")) and not within(path, workspace).exists():
                    raise FileNotFoundError(
                        f"evaluation.datasets: {within(path, workspace)} of '{item.name}' does not exist; "
                        "give a folder of class folders or a CSV"
                    )

    def run(
        self, trained: nn.Module, untrained: nn.Module | None, mean: Sequence[float], std: Sequence[float],
        device: torch.device, workspace: Path, image_size: int, start: nn.Module | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """{data set: {backbone: {protocol: {"top1": share}}}} with backbones trained, start, untrained and pixels."""
        backbones: dict[str, nn.Module | None] = {"trained": trained}
        if "start" in self.baselines and start is not None:
            backbones["start"] = start
        if "untrained" in self.baselines and untrained is not None:
            backbones["untrained"] = untrained
        if "pixels" in self.baselines:
            backbones["pixels"] = None
        return {
            item.name: self._judge(item, backbones, mean, std, device, workspace, image_size) for item in self.datasets
        }

    def _judge(
        self, item: EvaluationSet, backbones: dict[str, nn.Module | None], mean: Sequence[float],
        std: Sequence[float], device: torch.device, workspace: Path, image_size: int,
    ) -> dict[str, Any]:  # fmt: skip
        train = read_labelled(within(item.train, workspace), label_column=item.label_column)
        test = read_labelled(within(item.test, workspace), label_column=item.label_column)
        test = test.aligned(train.classes, f"evaluation.datasets '{item.name}': test")
        shared = shared_images(train, test)
        if shared:
            print(
                f"{'evaluation':<12}{shared} of {len(test)} test images of '{item.name}' are among its training "
                "images, and find themselves",
                flush=True,
            )
        size = self.image_size or image_size
        figures: dict[str, Any] = {}
        for name, backbone in backbones.items():

            @cache
            def features(backbone: nn.Module | None = backbone) -> tuple[Features, Features]:
                return tuple(self._features(backbone, images, mean, std, device, size) for images in (train, test))  # type: ignore[return-value]

            subject = Subject(
                item.name, backbone, train, test, features, size, mean, std, device, workspace, {}, self.batch_size,
                self.num_workers,
            )  # fmt: skip
            figures[name] = {}
            for protocol in self.protocols():
                figures[name] |= protocol.judge(subject)
        return figures

    def _features(
        self, backbone: nn.Module | None, images: LabelledImages, mean: Sequence[float], std: Sequence[float],
        device: torch.device, image_size: int,
    ) -> Features:  # fmt: skip
        dataset = LabelledDataset(images, image_size)
        return extract_features(backbone, dataset, mean, std, device, self.batch_size, self.num_workers)
