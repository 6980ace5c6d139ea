"""Encoders against open_clip's own path from picture to embedding."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from curation.encoders import ImageTextEncoder
from datamodules.files import sha256_file
from tests.tiny import CLIP, picture, save_clip

open_clip = pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ImageTextEncoder:
    return ImageTextEncoder.load(str(folder))


def pictures(count: int = 5, width: int = 53, height: int = 31) -> list[np.ndarray]:
    return [np.asarray(picture(number, 64).resize((width, height))) for number in range(count)]


def batch(encoder: ImageTextEncoder, images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack([encoder.prepare(image) for image in images]))


@pytest.mark.parametrize(("width", "height"), [(16, 16), (53, 31), (31, 53), (100, 17), (7, 9), (640, 427), (427, 640)])
def test_image_text_encoder__open_clips_own_embedding(
    folder: Path, encoder: ImageTextEncoder, width: int, height: int
) -> None:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    images = pictures(width=width, height=height)
    with torch.no_grad():
        own = model.eval().encode_image(torch.stack([transform(Image.fromarray(image)) for image in images]))
        embeddings = encoder.embed_images(batch(encoder, images))
    # The same pixels; dividing by 255 before or after the mean differs in the last digits.
    torch.testing.assert_close(embeddings, nn.functional.normalize(own, dim=1), atol=1e-5, rtol=0)
    assert embeddings.dtype == torch.float32 and embeddings.shape == (5, encoder.dim)


def test_image_text_encoder__open_clips_own_text_embedding(folder: Path, encoder: ImageTextEncoder) -> None:
    texts = [f"a photo of number {number}" for number in range(300)]  # more than one pass
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.no_grad():
        own = model.encode_text(open_clip.SimpleTokenizer(context_length=12)(texts))
    torch.testing.assert_close(encoder.embed_texts(texts), nn.functional.normalize(own, dim=1), atol=1e-5, rtol=0)


def test_image_text_encoder__no_texts_differ_and_are_unit(encoder: ImageTextEncoder) -> None:
    yes, no = encoder.embed_texts(["a cat", "a dog"]), encoder.embed_no_texts(["a cat", "a dog"])
    torch.testing.assert_close(no.norm(dim=1), torch.ones(2))
    assert (yes - no).abs().max() > 0.01 and (no[0] - no[1]).abs().max() > 0


def test_image_text_encoder__is_frozen(encoder: ImageTextEncoder) -> None:
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())


def test_image_text_encoder__identity_has_the_checksums(folder: Path, encoder: ImageTextEncoder) -> None:
    names = ("open_clip_pytorch_model.bin", "no_branch.safetensors")
    assert encoder.identity["files"] == {name: sha256_file(folder / name) for name in names}
    assert encoder.identity["name"] == str(folder)


def test_image_text_encoder__local_dir_and_another_no_branch(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "no_branch.safetensors", tmp_path / "other.safetensors")
    encoder = ImageTextEncoder.load(f"local-dir:{folder}", no_branch=str(tmp_path / "other.safetensors"))
    assert set(encoder.identity["files"]) == {"open_clip_pytorch_model.bin", "other.safetensors"}
    with pytest.raises(FileNotFoundError, match=r"curation\.ood\.no_branch: nowhere\.pt does not exist"):
        ImageTextEncoder.load(str(folder), no_branch="nowhere.pt")


def test_image_text_encoder__without_a_no_branch(tmp_path: Path) -> None:
    encoder = ImageTextEncoder.load(str(save_clip(tmp_path / "clip", no_branch=False)))
    with pytest.raises(ValueError, match=r"curation\.ood\.no_branch: .*has no `no` branch.*fit --config clipn\.yaml"):
        encoder.embed_no_texts(["a cat"])


def test_image_text_encoder__model_by_name_with_a_weight_file(
    folder: Path, encoder: ImageTextEncoder, tmp_path: Path
) -> None:
    (tmp_path / "tiny-for-tests.json").write_text(json.dumps(CLIP["model_cfg"]))
    open_clip.add_model_config(tmp_path)
    weights = folder / "open_clip_pytorch_model.bin"
    named = ImageTextEncoder.load("tiny-for-tests", str(weights))
    assert named.identity["files"] == {weights.name: sha256_file(weights)}
    torch.testing.assert_close(named.embed_texts(["a cat"]), encoder.embed_texts(["a cat"]))
    with pytest.raises(ValueError, match=r"curation\.embed\.image_text\.pretrained: tiny-for-tests needs weights"):
        ImageTextEncoder.load("tiny-for-tests")
    (tmp_path / "damaged.bin").write_bytes(weights.read_bytes()[:1000])
    for wrong in ("nowhere", str(tmp_path / "damaged.bin")):
        with pytest.raises(FileNotFoundError, match=r"image_text: the weights tiny-for-tests/.* are not here"):
            ImageTextEncoder.load("tiny-for-tests", wrong)


def test_image_text_encoder__unknown_name_suggests(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"curation\.embed\.image_text\.model: ViT-B-17 is no folder.*close are .*ViT-B-16"
    ):
        ImageTextEncoder.load("ViT-B-17", "openai")


def test_image_text_encoder__folders_that_hold_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"curation\.embed\.image_text\.model: .* no folder with an open_clip_config"
    ):
        ImageTextEncoder.load(str(tmp_path))
    shutil.copy(folder / "open_clip_config.json", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"has a config but none of open_clip_model\.safetensors.*put the weights"
    ):
        ImageTextEncoder.load(str(tmp_path))
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"curation\.embed\.image_text\.model: the weights in .* or are damaged"):
        ImageTextEncoder.load(str(tmp_path))
