"""What a backbone is judged on."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from pas_train.evaluation.baselines import OWN, check_names
from pas_train.evaluation.dense.average_precision import require_pycocotools
from pas_train.evaluation.dense.detection import Detection
from pas_train.evaluation.dense.segmentation import Segmentation
from pas_train.evaluation.evaluation_set import HAVE, JUDGED_BY, EvaluationSet
from pas_train.evaluation.features import Precision
from pas_train.evaluation.fewshot import FewShot
from pas_train.evaluation.finetune import Finetune, LinearImages
from pas_train.evaluation.knn import Knn
from pas_train.evaluation.linear import Linear
from pas_train.evaluation.protocol import Protocol
from pas_train.evaluation.transfer import Transfer


@dataclass
class Evaluation:
    """What a backbone is judged on, and how.

    Args:
        datasets: What to judge on.
        baselines: Beside the backbone: `pixels`, `untrained` (it with random weights), `start` (of a training that
            began with other weights, model.weights), and any published one: `timm:NAME[.TAG]`, `hf:NAME` (a repository
            or a folder, of transformers or timm), `mocov3:FILE?backbone=NAME`, `random:NAME?seed=0` (of timm).
        image_size: Side of the test images in pixels; null takes the model's.
        batch_size: Images per batch.
        num_workers: Loader processes; null takes the cores that the devices leave free.
        precision: Of the backbone's products where features are extracted: 32, or bf16, which is faster on a GPU.
        features_folder: Where extracted features are kept; null keeps them in the workspace's features/. Runs that
            share it extract those of a baseline once.
        knn: Nearest neighbours; null leaves it out.
        linear: Linear probe; null leaves it out.
        fewshot: A few images of each class; null leaves it out.
        transfer: LogME and NCTI, scores that need no training; null leaves them out.
        linear_images: Linear layer on the frozen backbone, trained on augmented images; null leaves it out.
        finetune: Fine-tuning; null leaves it out.
        segmentation: Semantic segmentation, on data sets with masks; null leaves it out.
        detection: Object detection, on data sets with boxes; null leaves it out.
        allow_unscreened: Judges also on test images that a data set that was curated here was not screened against;
            the figures are marked.
    """

    datasets: list[EvaluationSet] = field(default_factory=list)
    baselines: list[str] = field(default_factory=lambda: list(OWN))
    image_size: int | None = None
    batch_size: int = 128
    num_workers: int | None = None
    precision: Precision = 32
    features_folder: str | None = None
    knn: Knn | None = field(default_factory=Knn)
    linear: Linear | None = field(default_factory=Linear)
    fewshot: FewShot | None = None
    transfer: Transfer | None = None
    linear_images: LinearImages | None = None
    finetune: Finetune | None = None
    segmentation: Segmentation | None = None
    detection: Detection | None = None
    allow_unscreened: bool = False

    def protocols(self) -> list[Protocol]:
        """Those that are not left out."""
        sections = (getattr(self, one.name) for one in fields(self))
        return [section for section in sections if isinstance(section, Protocol)]

    def check(self, workspace: Path, made: bool = False) -> None:
        """Raises for unknown baselines, missing files, and a data set that no protocol judges.

        made: files in the workspace are still to be made.
        """
        check_names(self.baselines)
        judged = {protocol.of for protocol in self.protocols()}
        for item in self.datasets:
            kind = item.check(workspace, made)
            if kind is not None and kind not in judged:
                raise ValueError(f"{item.key} has {HAVE[kind]}: set evaluation.{JUDGED_BY[kind]}: {{}}")
            if kind == "boxes":
                require_pycocotools()
