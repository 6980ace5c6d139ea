"""Features of a labelled set, extracted once per backbone and data set."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pas_train.evaluation.protocol import Features
from pas_train.speed import not_compiled


@torch.inference_mode()
def extract_features(
    backbone: nn.Module | None, dataset: Dataset, mean: Sequence[float], std: Sequence[float], device: torch.device,
    batch_size: int = 128, num_workers: int = 0,
) -> Features:  # fmt: skip
    """Features and labels of a dataset of {"image": uint8 [3, S, S], "label"}.

    The backbone runs in eval mode, float32. None stands for the raw pixels, flattened, as features. mean, std: of
    the colours in [0, 1].
    """
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers)
    centre = torch.tensor(mean, device=device).view(3, 1, 1) * 255
    spread = torch.tensor(std, device=device).view(3, 1, 1) * 255
    training = backbone.training if backbone is not None else False
    if backbone is not None:
        backbone.eval().to(device)
    features: list[np.ndarray] = []
    labels: list[Tensor] = []
    for batch in loader:
        images = (batch["image"].to(device).float() - centre) / spread
        if backbone is None:
            out = images.flatten(1)
        else:
            with not_compiled(backbone):
                out = backbone(images)
        features.append(out.float().cpu().numpy())
        labels.append(batch["label"])
    if backbone is not None:
        backbone.train(training)
    return Features(np.concatenate(features), torch.cat(labels).numpy())
