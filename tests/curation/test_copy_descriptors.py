"""Copy descriptors of every kind, each with its own preprocessing."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from curation.copy_descriptors import CopyDescriptor, Resize
from curation.encoders import ImageTextEncoder
from curation.image_encoder import ImageEncoder
from curation.stages.embed import Copy
from datamodules.files import sha256_file
from tests.tiny import Pixels, picture, save_clip, save_descriptor


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


def test_copy_descriptor__missing_file_says_what_could_be_given() -> None:
    with pytest.raises(FileNotFoundError, match=r"copy\.model: nowhere\.pt does not exist.*sscd_disc_mixup.*timm:NAME"):
        CopyDescriptor.load("nowhere.pt")
    with pytest.raises(FileNotFoundError, match=r"sscd_disc_mixap does not exist; is sscd_disc_mixup meant\?"):
        CopyDescriptor.load("sscd_disc_mixap")


@pytest.mark.parametrize("folder", [".", "torch/hub/checkpoints"])
def test_copy_descriptor__published_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(FileNotFoundError, match=r"copy\.model: sscd_disc_large is neither .*curl -LO https://.*MIT"):
        CopyDescriptor.load("sscd_disc_large")
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    path = save_descriptor(tmp_path / folder / "sscd_disc_large.torchscript.pt")
    for name in ("sscd_disc_large", "sscd_disc_large.torchscript.pt"):
        descriptor = CopyDescriptor.load(name)
        assert descriptor.identity == {"name": name, "files": {path.name: sha256_file(path)}}
        assert descriptor.prepare.size == 320 and Copy(name).identity()["files"] == {path.name: sha256_file(path)}


def test_copy_descriptor__other_formats_of_the_published_models(tmp_path: Path) -> None:
    (tmp_path / "sscd_disc_mixup.classy.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"sscd_disc_mixup\.classy\.pt holds weights alone; .* as \.torchscript\.pt"):
        CopyDescriptor.load(str(tmp_path / "sscd_disc_mixup.classy.pt"))


@pytest.mark.parametrize(("width", "height"), [(53, 31), (31, 53), (640, 427), (300, 300)])
@pytest.mark.parametrize(("resize", "sizes"), [("square", [320, 320]), ("short", 288)])
def test_copy_descriptor__published_preprocessing(
    tmp_path: Path, resize: Resize, sizes: int | list[int], width: int, height: int
) -> None:
    descriptor = CopyDescriptor.load(str(save_descriptor(tmp_path / "copy.pt")), resize=resize)
    image = pictures(1, width, height)[0]
    own = transforms.Compose([transforms.Resize(sizes), transforms.PILToTensor()])(Image.fromarray(image))
    assert np.array_equal(descriptor.prepare(image), own.numpy())


def test_copy_descriptor__several_shapes_in_a_batch(tmp_path: Path) -> None:
    descriptor = CopyDescriptor.load(str(save_descriptor(tmp_path / "copy.pt")), 24, "short")
    images = [descriptor.prepare(pictures(1, *size)[0]) for size in [(53, 31), (40, 40), (53, 31), (31, 53)]]
    assert {image.shape for image in images} == {(3, 24, 41), (3, 24, 24), (3, 41, 24)}
    each = torch.cat([descriptor.embed_images(torch.from_numpy(image[None])) for image in images])
    assert torch.equal(descriptor.embed_images(images), each) and torch.equal(each[0], each[2])
    assert not torch.equal(each[0], each[1])


class Gives(nn.Module):
    """Something else than a vector for each image."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        wrong = {"map": x, "one": flat.sum(0), "scalars": flat.sum(1), "classes": flat.argmax(1)[:, None]}
        return flat.log() * float("nan") if self.what == "nan" else wrong[self.what]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("map", r"gives \[2, 3, 8, 8\] for two images; .* \[2, D\]"), ("one", r"gives \[192\] for two"),
        ("scalars", r"gives \[2\]"), ("classes", r"a vector for each"), ("nan", "values that are not finite"),
    ],
)  # fmt: skip
def test_copy_descriptor__wrong_outputs_are_told(tmp_path: Path, what: str, told: str) -> None:
    torch.jit.save(torch.jit.trace(Gives(what), torch.zeros(2, 3, 8, 8)), str(tmp_path / "wrong.pt"))
    with pytest.raises(ValueError, match=rf"curation\.embed\.copy\.model: .*wrong\.pt .*{told}"):
        CopyDescriptor.load(str(tmp_path / "wrong.pt"), 8)


def test_copy_descriptor__wrong_size_of_images_is_told(tmp_path: Path) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    torch.jit.save(torch.jit.trace(linear, torch.zeros(2, 3, 8, 8)), str(tmp_path / "fixed.pt"))
    assert CopyDescriptor.load(str(tmp_path / "fixed.pt"), 8).dim == 4
    with pytest.raises(
        ValueError, match=r"fixed\.pt does not take images \[N, 3, 9, 9\] .*embed\.copy\.image_size right"
    ):
        CopyDescriptor.load(str(tmp_path / "fixed.pt"), 9)


def test_copy_descriptor__later_calls_give_the_bytes_of_the_first(tmp_path: Path) -> None:
    # TorchScript may fuse operations after it has watched two calls: a resumed run would not end as an unbroken one.
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sigmoid(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Tanh()
    )
    torch.jit.save(torch.jit.trace(network.eval(), torch.zeros(2, 3, 24, 24)), str(tmp_path / "net.pt"))
    descriptor = CopyDescriptor.load(str(tmp_path / "net.pt"), 24)
    images = batch(descriptor, pictures())
    with torch.no_grad():
        first, *others = (descriptor.embed_images(images) for _ in range(5))
        assert all(torch.equal(first, other) for other in others)
        with torch.autocast("cpu", torch.bfloat16):
            rough = descriptor.embed_images(images)
    assert rough.dtype == torch.float32 and 0 < (rough - first).abs().max() < 0.01


def test_copy_descriptor__open_clip_model_with_its_own_preprocessing(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    descriptor, encoder = CopyDescriptor.load(str(folder)), ImageTextEncoder.load(str(folder))
    images = pictures()
    assert descriptor.prepare == encoder.prepare and descriptor.dim == encoder.dim
    same = encoder.embed_images(batch(encoder, images))
    torch.testing.assert_close(descriptor.embed_images(batch(descriptor, images)), same, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"embed\.copy: image_size and resize are for TorchScript files"):
        CopyDescriptor.load(str(folder), 24)
    with pytest.raises(ValueError, match=r"curation\.embed\.copy\.model: ViT-B-17 is no folder"):
        CopyDescriptor.load("ViT-B-17", pretrained="openai")


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet").eval()
    torch.save(network.state_dict(), tmp_path_factory.mktemp("timm") / "weights.pt")
    return network, next(tmp_path_factory.getbasetemp().glob("timm*/weights.pt"))


@pytest.mark.parametrize(("width", "height"), [(53, 31), (300, 400)])
def test_copy_descriptor__timm_model_with_its_own_preprocessing(
    timm_file: tuple[nn.Module, Path], width: int, height: int
) -> None:
    network, path = timm_file
    descriptor = CopyDescriptor.load("timm:test_resnet", pretrained=str(path))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    images = pictures(3, width, height)
    with torch.no_grad():
        own = network.forward_head(
            network.forward_features(torch.stack([transform(Image.fromarray(image)) for image in images])),
            pre_logits=True,
        )
        found = descriptor.embed_images(batch(descriptor, images))
    torch.testing.assert_close(found, nn.functional.normalize(own, dim=1), atol=1e-5, rtol=0)
    assert descriptor.identity["files"] == {"weights.pt": sha256_file(path)}


def test_copy_descriptor__timm_weights_that_do_not_fit(timm_file: tuple[nn.Module, Path], tmp_path: Path) -> None:
    state = torch.load(timm_file[1])
    missing = {name: value for name, value in state.items() if not name.startswith("layer4")}
    for wrong in (missing, {**state, "more.weight": torch.zeros(1)}):
        torch.save(wrong, tmp_path / "wrong.pt")
        with pytest.raises(
            FileNotFoundError, match=r"embed\.copy: the weights of timm:test_resnet .*(Missing|Unexpected)"
        ):
            CopyDescriptor.load("timm:test_resnet", pretrained=str(tmp_path / "wrong.pt"))
    with pytest.raises(ValueError, match=r"copy\.model: timm has no model resnet51; close are .*resnet50"):
        CopyDescriptor.load("timm:resnet51")
    with pytest.raises(FileNotFoundError, match=r"copy\.pretrained: nowhere\.pt does not exist"):
        CopyDescriptor.load("timm:resnet50", pretrained="nowhere.pt")
