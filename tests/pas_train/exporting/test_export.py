"""An export appears when it is verified, whole, and not at all otherwise."""

import dataclasses
import json
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from pas_train.exporting.export import export
from pas_train.exporting.source import Source
from pas_train.exporting.target import NamedTarget
from pas_train.exporting.to_plain import Plain
from pas_train.exporting.to_timm import Timm, _crop
from tests.pas_train.exporting.small_sources import resnet, source, vit


class Named(Plain, NamedTarget):
    """A format of other names, whose library is missing here."""

    name, title, library, install = "plain", "Named", "no_such_library", "pip install no_such_library"

    def recorded(self, source: Source) -> dict[str, tuple[int, ...]]:
        return {f"net.{name}": tuple(value.shape) for name, value in source.state.items()}

    def read(self, folder: Path) -> Mapping[str, Tensor]:
        return {f"net.{name}": value for name, value in torch.load(folder / "backbone.pth").items()}

    def restore(self, tensors: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
        return {name.removeprefix("net."): value for name, value in tensors.items()}


def swap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Two names changed for each other, as a broken map does."""
    first, second = "blocks.0.norm1.weight", "blocks.0.norm2.weight"
    return {**state, first: state[second], second: state[first]}


class Swapped(Source):
    """Gives its tensors to a target under wrong names."""

    @property
    def state(self) -> dict[str, Tensor]:
        return swap(super().state)


@pytest.mark.parametrize("name", ["plain", "timm"])
@pytest.mark.parametrize("source", [vit(), resnet(layers=[1, 1, 1, 1])], ids=["vit", "resnet"])
def test_export__is_verified_and_holds_all_files(tmp_path: Path, name: str, source: Source) -> None:
    verified = export(source, name, tmp_path / "out")
    assert verified.difference == 0 and verified.scale > 0.1 and verified.library
    assert verified.features == ("embedding", "map") and verified.by.startswith("timm ")
    weights = {"plain": {"backbone.pth"}, "timm": {"model.safetensors", "config.json"}}[name]
    common = {"README.md", "metadata.json", "load.py", "verify.py", "verification.npz"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == weights | common
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    arrays = np.load(tmp_path / "out" / "verification.npz")
    assert arrays["images"].shape == (8, 3, source.image_size, source.image_size)


def test_export__same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    source = vit()
    for name in ("timm", "plain"):
        folders = [tmp_path / f"{name}-{number}" for number in range(2)]
        for folder in folders:
            export(source, name, folder)
        for path in folders[0].iterdir():
            assert path.read_bytes() == (folders[1] / path.name).read_bytes(), path.name


def test_export__small_stem_only_where_it_has_a_place(tmp_path: Path) -> None:
    source = resnet(size=32, small_images=True, layers=[1, 1, 1, 1])
    assert export(source, "plain", tmp_path / "plain").difference == 0
    with pytest.raises(ValueError, match=r"--to timm: .*model\.small_images.* take --to plain, onnx or torchscript"):
        export(source, "timm", tmp_path / "timm")


@pytest.mark.parametrize("name", ["timm", "plain"])
def test_export__a_broken_key_map_fails_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    whole = vit()
    broken = Swapped(**{field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)})
    with pytest.raises(ValueError, match=rf"--to {name}: .* features differ: embedding by"):
        export(broken, name, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_export__by_recorded_names_where_the_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pas_train.exporting.export.target", lambda name: Named())
    verified = export(vit(), "plain", tmp_path / "out")
    assert (verified.by, verified.difference, verified.library) == ("the names recorded from Named", 0, False)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("restore", swap, "it has other values in 2 tensors (blocks.0.norm1.weight, blocks.0.norm2.weight)"),
        ("restore", lambda found: dict(list(found.items())[1:]), "it lacks 1 tensors (cls_token)"),
        ("read", lambda found: {**found, "net.more": torch.zeros(1)}, "it has besides 1 tensors (net.more)"),
        ("read", lambda found: {**found, "net.norm.bias": torch.zeros(1)}, "another shape 1 tensors (net.norm.bias)"),
        ("recorded", lambda found: {**found, "net.gone": (1,)}, "it lacks 1 tensors (net.gone)"),
    ],
)
def test_export__broken_names_fail_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, change: Callable, said: str
) -> None:
    whole = getattr(Named, part)
    monkeypatch.setattr(Named, part, lambda self, *given: change(whole(self, *given)))
    monkeypatch.setattr("pas_train.exporting.export.target", lambda name: Named())
    with pytest.raises(ValueError, match="by the names recorded from Named") as error:
        export(vit(), "plain", tmp_path / "out")
    assert said in str(error.value) and not list(tmp_path.iterdir())


def test_export__a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: Timm, source: Source, folder: Path) -> None:
        (folder / "part").write_text("half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Timm, "write", write)
    with pytest.raises(OSError, match=r"--output: .* has no room for the export \(No space left on device\); free"):
        export(vit(), "timm", tmp_path / "below" / "out")
    assert not list(tmp_path.iterdir())


def test_export__two_at_once_leave_what_was_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: Timm, source: Source, folder: Path) -> None:
        whole(self, source, folder)
        (tmp_path / "out").mkdir()  # of another process, meanwhile
        (tmp_path / "out" / "theirs").write_text("whole")

    whole = Timm.write
    monkeypatch.setattr(Timm, "write", write)
    with pytest.raises(FileExistsError, match="--output: .*out has appeared while this export was written"):
        export(vit(), "timm", tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["theirs"]


def test_export__a_place_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"--output: .*file cannot be written to \(.*\); name another with --output"):
        export(vit(), "timm", tmp_path / "file" / "out")


def test_export__refuses_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, taken = vit(), tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(ValueError, match="--output: .*taken exists; remove it, or name another folder"):
        export(source, "timm", taken)
    assert taken.read_text() == "mine"
    with pytest.raises(ValueError, match=r"--to tim is unknown; did you mean timm\? Targets are timm, "):
        export(source, "tim", tmp_path / "out")
    with pytest.raises(ValueError, match="--python: /no/python is no program"):
        export(source, "timm", tmp_path / "out", "/no/python")
    monkeypatch.setattr(Timm, "library", "no_such_library")
    with pytest.raises(ValueError, match=r"timm, which is not installed here: pip install timm, or .*--python /path"):
        export(source, "timm", tmp_path / "out")
    monkeypatch.setattr(Timm, "writers", ("no_such_writer",))
    with pytest.raises(ValueError, match="--to timm needs no_such_writer: pip install timm"):
        export(source, "timm", tmp_path / "out")
    assert os.listdir(tmp_path) == ["taken"]


def test_export__no_numbers_are_refused(tmp_path: Path) -> None:
    source = vit()
    source.backbone.norm.bias.data[0] = float("nan")  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match="values that are no numbers"):
        export(source, "plain", tmp_path / "out")


def test_verify__in_another_python(tmp_path: Path) -> None:
    source = vit()
    verified = export(source, "timm", tmp_path / "out", sys.executable)
    assert verified.difference == 0 and verified.by.startswith("timm ") and ", torch " in verified.by


def test_verify__what_another_python_says_counts(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 'embedding  greatest difference 1 (of 3)'\necho 'not equal' >&2\nexit 1\n")
    other.chmod(0o755)
    with pytest.raises(ValueError, match=r"by timm in .*python, features differ: embedding by 1 \(of 3\)"):
        export(vit(), "timm", tmp_path / "out", str(other))
    assert os.listdir(tmp_path) == ["python"]


def test_verify__the_script_ends_with_a_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    export(vit(), "timm", folder)
    runpy.run_path(str(folder / "verify.py"), run_name="__main__")
    assert "verified by timm" in capsys.readouterr().out
    expected = dict(np.load(folder / "verification.npz"))
    np.savez(folder / "verification.npz", **{**expected, "embedding": expected["embedding"] + 1})  # type: ignore
    with pytest.raises(SystemExit, match="not equal: embedding beyond 0.0001 of the greatest value"):
        runpy.run_path(str(folder / "verify.py"), run_name="__main__")


def test_verify__a_python_without_the_library_is_told(tmp_path: Path) -> None:
    source, bare = vit(), tmp_path / "python"
    bare.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'timm'\" >&2\nexit 1\n")
    bare.chmod(0o755)
    with pytest.raises(ValueError, match=r"--python: .*python lacks what --to timm needs \(.*'timm'\): pip install"):
        export(source, "timm", tmp_path / "out", str(bare))
    assert os.listdir(tmp_path) == ["python"]


def test_timm__opens_with_classes_and_knows_the_colours(tmp_path: Path) -> None:
    import timm

    source = vit()
    export(source, "timm", tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path}/out", pretrained=True, num_classes=5)
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(model.eval().forward_features(images), source.backbone.forward_features(images))  # type: ignore
    assert model(images).shape == (2, 5)
    data = timm.data.resolve_model_data_config(model)
    assert data["input_size"] == (3, 48, 48) and tuple(data["mean"]) == source.mean and int(48 / data["crop_pct"]) == 55
    larger = timm.create_model(f"local-dir:{tmp_path}/out", pretrained=True, num_classes=0, img_size=64)
    assert larger(torch.randn(1, 3, 64, 64)).shape == (1, 64)


@pytest.mark.parametrize("side", [32, 48, 96, 224, 384, 500, 518])
def test_timm__makes_the_short_side_as_long_as_we_do(side: int) -> None:
    import timm
    from PIL import Image

    resize = round(side * 256 / 224)
    transform = timm.data.create_transform((3, side, side), crop_pct=_crop(side, resize), interpolation="bilinear")
    assert transform.transforms[0](Image.new("RGB", (600, 700))).size[0] == resize


def test_card__says_what_this_export_gives(tmp_path: Path) -> None:
    for name, given, said in (
        ("onnx", "gives an embedding of 64 numbers, its class token's last state.", "})  # embedding\n"),
        ("mmpretrain", "gives a feature map and an embedding of 64 numbers", "})  # embedding, map\n"),
        ("mmseg", "gives a feature map.", "})  # map\n"),
        ("detectron2", "gives a feature map.", "})  # patch_map\n"),
    ):
        export(vit(depth=4), name, tmp_path / name)
        text = (tmp_path / name / "README.md").read_text()
        assert given in text and said in text, name
        assert " _base_" not in text  # emphasis, in Markdown
    export(vit(), "plain", tmp_path / "plain")
    assert "library_name: pytorch\n" in (tmp_path / "plain" / "README.md").read_text()


def test_card__figures_of_another_size_and_weights_of_others(tmp_path: Path) -> None:
    source = vit()
    judged = {"evaluation": {"cells": {"knn": {"top1": 0.5}}}, "training": {"method": "MoCoV3"}}
    known = {"file": "net.pth", "weights": "all", "image_size": 32}
    export(dataclasses.replace(source, metadata={"source": known, **judged}), "plain", tmp_path / "own")
    text = (tmp_path / "own" / "README.md").read_text()
    assert "Judged as it was trained, with 32 px, not with this export's 48." in text
    export(dataclasses.replace(source, metadata={"source": known}), "plain", tmp_path / "others")
    text = (tmp_path / "others" / "README.md").read_text()
    assert "- None is known here for net.pth: what its publisher says of it holds." in text


@pytest.mark.parametrize(
    "made", [vit(), resnet(global_pool="catavgmax"), source("mobilenetv3_small_050", 64)], ids=["vit", "pools", "head"]
)
def test_metadata__width_of_the_embedding(made: Source) -> None:
    images = torch.zeros(1, 3, made.image_size, made.image_size)
    assert made.metadata["embedding"]["dim"] == made.outputs(images)["embedding"].shape[1]


def test_card__front_matter_and_metadata(tmp_path: Path) -> None:
    export(resnet(layers=[1, 1, 1, 1]), "timm", tmp_path / "out")
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "timm" and "license" not in yaml.safe_load(front)
    assert "None are known of these weights." in text and "None is set for these weights" in text
    told = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert told["embedding"] == {"pooling": "avg", "dim": 512} and told["resize"] == 73
    assert told["verification"] == {"images": 8, "tolerance": 1e-4, "library": "timm"}
