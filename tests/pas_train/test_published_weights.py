"""Published weights in the place of a training's checkpoint."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.utils import logging

from pas_train.weight_files import source_of
from pas_train.weights import (
    figures_path,
    is_published,
    load_published,
)
from tests.pas_train.published import RESNET, assert_same, features, method, official, own, tv_resnet


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.disable_progress_bar()
    torch.manual_seed(0)


def test_load_published__takes_what_is_no_checkpoint_of_a_training(tmp_path: Path) -> None:
    path, encoder = official(tmp_path)
    model = method(projector_hidden=48)
    assert load_published(model, own(tmp_path / "a.ckpt", model)) is None
    assert load_published(model, None) is None
    found = load_published(model, path)
    assert found is not None and found["global_step"] is None
    encoder.head = nn.Identity()
    assert_same(model, features(encoder))
    with pytest.raises(
        ValueError, match=r"^--ckpt_path: vit-b-300ep\.pth\.tar .* does not fit model\.backbone resnet18"
    ):
        load_published(method(**RESNET), path)


@pytest.mark.parametrize("content", [b"", b"<html>404", b"PK\x03\x04 cut", b"\x80\x02."])
def test_is_published__damaged_files_are_left_to_those_who_know_trainings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    assert not is_published(tmp_path / "a.ckpt")


def test_is_published__old_formats_and_names(tmp_path: Path) -> None:
    torch.save(tv_resnet().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert is_published(tmp_path / "old.pth") and is_published("timm") and is_published("hf:a/b")
    assert is_published("vit-b-300ep.pth.tar") and not is_published("gone.ckpt")
    assert source_of("resnext50_32x4d-1a0047aa.pth") and source_of("other.pth") is None


def test_figures_path__beside_a_checkpoint_or_in_the_workspace(tmp_path: Path) -> None:
    assert figures_path(str(tmp_path / "step=8.ckpt"), tmp_path) == tmp_path / "step=8.evaluation.json"
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "b.pth.tar")  # perhaps in a folder that all share
    assert figures_path(str(tmp_path / "b.pth.tar"), tmp_path) == tmp_path / "evaluation" / "b.pth.evaluation.json"
    assert figures_path("hf:facebook/dino-vits16", tmp_path).name == "facebook-dino-vits16.evaluation.json"
    assert figures_path("timm:r160_in1k", tmp_path).parent == tmp_path / "evaluation"
