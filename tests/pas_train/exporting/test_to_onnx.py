"""Graphs that onnxruntime runs: any batch, the right names, nothing of the machine."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from pas_train.exporting import export as exporting
from pas_train.exporting import to_onnx
from pas_train.exporting.export import export
from pas_train.exporting.source import Source
from tests.pas_train.exporting.small_sources import resnet, vit

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path]:
    source, folder = vit(depth=1), tmp_path_factory.mktemp("onnx") / "out"
    export(source, "onnx", folder)
    return source, folder


def assert_equal_of_any_batch(source: Source, folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "backbone.onnx")
    for count in (1, 3, 8):
        images = torch.randn(count, 3, source.image_size, source.image_size)
        (found,) = session.run(["embedding"], {"images": images.numpy()})
        expected = source.outputs(images)["embedding"]
        assert (torch.from_numpy(found) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_onnx__a_vit_computes_the_same_of_any_batch(exported: tuple[Source, Path]) -> None:
    assert_equal_of_any_batch(*exported)


def test_onnx__a_resnet_for_small_images_computes_the_same_of_any_batch(tmp_path: Path) -> None:
    source = resnet(size=32, small_images=True)
    verified = export(source, "onnx", tmp_path / "out")
    assert verified.by.startswith("onnxruntime ") and verified.difference <= 1e-4 * verified.scale
    assert_equal_of_any_batch(source, tmp_path / "out")


def test_onnx__names_opset_and_metadata(exported: tuple[Source, Path]) -> None:
    content = (exported[1] / "backbone.onnx").read_bytes()
    assert b"site-packages" not in content and str(Path(__file__).parent).encode() not in content
    model: Any = onnx.load_from_string(content)
    (images,), (embedding,) = model.graph.input, model.graph.output
    sizes = [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim]
    assert (images.name, sizes, embedding.name) == ("images", ["batch", 3, 48, 48], "embedding")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", to_onnx.OPSET)]
    told = {one.key: one.value for one in model.metadata_props}
    assert told["method"] == "MoCoV3" and told["image_size"] == "48" and told["mean"] == "[0.5, 0.4, 0.3]"


def test_onnx__large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_onnx, "ONE_FILE", 10_000)
    verified = export(vit(depth=1), "onnx", tmp_path / "out")
    assert verified.difference <= 1e-4 * verified.scale
    large = (tmp_path / "out" / "backbone.onnx.data").stat().st_size
    assert large > 10 * (tmp_path / "out" / "backbone.onnx").stat().st_size


def test_onnx__the_same_gives_the_same_bytes_and_other_weights_are_found_out(exported: tuple[Source, Path]) -> None:
    source, folder = exported
    again = folder.with_name("again")
    again.mkdir()
    to_onnx.Onnx().write(source, again)
    assert (again / "backbone.onnx").read_bytes() == (folder / "backbone.onnx").read_bytes()
    other: Any = copy.deepcopy(source)
    with torch.no_grad():
        other.backbone.norm.bias.add_(1.0)
    with pytest.raises(ValueError, match="^--to onnx: a batch of 1 computes something else"):
        to_onnx.check_batches(other, again)


class Undecided(torch.nn.Module):
    """What it computes depends on the colours, which no graph can follow."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


def test_onnx__what_torch_cannot_write_is_told(tmp_path: Path) -> None:
    source = Source(Undecided(), "undecided", 32, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(
        ValueError, match=r"^--to onnx: torch cannot write undecided as a graph \(.*: take --to torchscr"
    ):
        to_onnx.Onnx().write(source, tmp_path)


def test_onnx__missing_writers_are_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = exporting.find_spec
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else there(name))
    with pytest.raises(ValueError, match=r"^--to onnx needs onnxscript: pip install 'pas-train\[export\]'$"):
        export(vit(depth=1), "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())
