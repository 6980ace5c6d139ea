"""Copy descriptors of every kind, each with its own preprocessing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from curation.copy_descriptors import CopyDescriptor
from curation.image_encoder import ImageEncoder
from datamodules.files import sha256_file
from tests.tiny import Pixels, picture, save_descriptor


def pictures(count: int = 5, width: int = 53, height: int = 31) -> list[np.ndarray]:
    return [np.asarray(picture(number, 64).resize((width, height))) for number in range(count)]


def batch(encoder: ImageEncoder, images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack([encoder.prepare(image) for image in images]))


def test_copy_descriptor__unit_output_of_the_script(tmp_path: Path) -> None:
    path = save_descriptor(tmp_path / "copy.pt")
    descriptor = CopyDescriptor.load(str(path), 24)
    images = batch(descriptor, pictures())
    assert images.shape == (5, 3, 24, 24) and images.dtype == torch.uint8
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    own = nn.functional.normalize(Pixels()((images / 255 - mean) / std), dim=1)
    torch.testing.assert_close(descriptor.embed_images(images), own, atol=1e-5, rtol=0)
    assert descriptor.dim == 108
    assert descriptor.identity == {"name": str(path), "files": {"copy.pt": sha256_file(path)}}


def test_copy_descriptor__own_mean_and_deviation(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) + 1

    torch.jit.save(torch.jit.trace(Plain(), torch.zeros(1, 3, 2, 2)), str(tmp_path / "plain.pt"))
    descriptor = CopyDescriptor.load(str(tmp_path / "plain.pt"), 2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.125))
    image = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    expected = torch.tensor([2.0] * 4 + [3.0] * 4 + [5.0] * 4)
    torch.testing.assert_close(descriptor.embed_images(image)[0], expected / expected.norm())


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_copy_descriptor__files_that_are_no_torchscript(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "copy.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"curation\.embed\.copy\.model: .*copy\.pt is no TorchScript file"):
        CopyDescriptor.load(str(tmp_path / "copy.pt"))


def test_copy_descriptor__plain_weights_are_no_torchscript(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "copy.pt")
    with pytest.raises(ValueError, match=r"curation\.embed\.copy\.model: .*copy\.pt is no TorchScript file"):
        CopyDescriptor.load(str(tmp_path / "copy.pt"))


def test_copy_descriptor__missing_file_says_where_to_get_one() -> None:
    with pytest.raises(FileNotFoundError, match=r"curation\.embed\.copy\.model: .*sscd_disc_mixup\.torchscript\.pt"):
        CopyDescriptor.load("nowhere.pt")
