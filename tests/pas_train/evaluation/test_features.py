import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from pas_train.evaluation.features import extract_features

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
CPU = torch.device("cpu")


class Images(Dataset):
    """Seven random images with labels that are not in order."""

    def __init__(self) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 4), dtype=np.uint8)
        self.labels = [2, 0, 1, 1, 0, 2, 0]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.pixels[index], "label": self.labels[index]}


def normalised() -> np.ndarray:
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return (Images().pixels / 255 - mean) / std


def test_extract_features__of_pixels() -> None:
    found = extract_features(None, Images(), MEAN, STD, CPU, batch_size=3)
    features, labels = found.values, found.labels
    assert features.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_allclose(features, normalised().reshape(7, -1), atol=1e-5)
    assert labels.tolist() == Images().labels


def test_extract_features__of_a_backbone_in_eval_mode() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5), nn.Flatten())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with torch.no_grad():
        expected = backbone[3](backbone[0](torch.from_numpy(normalised()).float()) / (1 + 1e-5) ** 0.5).numpy()
    for size in (1, 3, 128):
        features = extract_features(backbone, Images(), MEAN, STD, CPU, batch_size=size).values
        np.testing.assert_allclose(features, expected, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_extract_features__leaves_the_mode_as_it_was(training: bool) -> None:
    backbone = nn.Sequential(nn.Flatten()).train(training)
    extract_features(backbone, Images(), MEAN, STD, CPU)
    assert backbone.training is training


def test_extract_features__compiles_nothing_for_its_sizes() -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        compiled.append(len(inputs))
        return graph

    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    backbone.compile(backend=backend, dynamic=False)
    extract_features(backbone, Images(), MEAN, STD, CPU, batch_size=3)
    assert not compiled
    backbone(torch.zeros(3, 3, 4, 4))
    assert compiled  # it was compiled before, and is again
