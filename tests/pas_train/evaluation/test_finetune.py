import copy
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import nn

from datamodules.labelled import LabelledImages, read_labelled
from pas_train.backbones import build_backbone
from pas_train.evaluation import module_training
from pas_train.evaluation.finetune import Finetune, LinearImages
from pas_train.evaluation.image_classifier import ImageClassifier, Recipe, drop_paths
from pas_train.evaluation.image_training import train_classifier
from pas_train.evaluation.module_training import Training
from pas_train.evaluation.protocol import Subject

RESNET = {"channels": (4, 4, 8, 8), "layers": (1, 1, 1, 1)}
VIT = {"embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 8}
SIZE = 16


def save_stripes(folder: Path, first: int, count: int) -> LabelledImages:
    """Two classes, stripes that lie or stand, in colours that say nothing."""
    for number in range(count):
        rng = np.random.default_rng(first + number)
        stripes = np.repeat(rng.integers(0, 256, (8, 3)), 3, axis=0)[:, None].repeat(24, axis=1)
        for name, pixels in (("lie", stripes), ("stand", stripes.transpose(1, 0, 2))):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return read_labelled(folder)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledImages, LabelledImages]:
    folder = tmp_path_factory.mktemp("stripes")
    return save_stripes(folder / "train", 0, 16), save_stripes(folder / "test", 100, 10)


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("resnet18", SIZE, small_images=True, options=RESNET)


def vit() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("vit_tiny_patch16_224", SIZE, options=VIT)


@pytest.fixture
def subject(sets: tuple[LabelledImages, LabelledImages], tmp_path: Path) -> Subject:
    half = (0.5, 0.5, 0.5)
    trainer = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": None, "max_epochs": 7}
    return Subject("stripes", resnet(), *sets, _none, SIZE, half, half, torch.device("cpu"), tmp_path, trainer, 8)


def train(subject: Subject, recipe: Recipe, folder: Path) -> tuple[Trainer, ImageClassifier]:
    training = Training(recipe.key, subject.trainer, folder, subject.progress, epochs=recipe.epochs, sharded=True)
    return train_classifier(subject, recipe, training)


def _none() -> Any:
    raise AssertionError("no features are needed")


def test_finetune__learns_what_the_backbone_did_not_know(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module_training, "LINE_S", math.inf)  # on a busy machine it takes long enough for a line
    before = copy.deepcopy(subject.backbone.state_dict())
    found = Finetune(epochs=30, batch_size=16, lr=0.05, crop_min=0.6).judge(subject)
    assert list(found) == ["finetune"] and found["finetune"]["top1"] >= 0.9
    assert found["finetune"].keys() >= {"top1", "mean_per_class", "interval"}
    torch.testing.assert_close(subject.backbone.state_dict(), before, rtol=0, atol=0)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "finetune      stripes: 30 epochs of 32 images, 2 classes, sgd 0.05, batches of 16"
    assert said[-1].startswith("finetune      stripes: top-1 ") and len(said) == 2


def test_linear_images__trains_the_layer_alone(subject: Subject, tmp_path: Path) -> None:
    protocol = LinearImages(epochs=2, batch_size=16)
    _, module = train(subject, protocol.recipe(subject, 0), tmp_path)
    torch.testing.assert_close(module.backbone.state_dict(), subject.backbone.state_dict(), rtol=0, atol=0)
    assert module.head.bias.abs().sum() > 0 and int(module.standardise.num_batches_tracked) == 4
    assert 0 < protocol.judge(subject)["linear_images"]["top1"] <= 1


def test_raw_pixels__have_no_backbone_to_train(subject: Subject) -> None:
    assert Finetune().judge(replace(subject, backbone=None)) == {}


def test_recipe__is_the_paper_s_for_each_kind_of_backbone(subject: Subject) -> None:
    sgd, adamw = (Finetune(batch_size=16).recipe(replace(subject, backbone=one), 0) for one in (resnet(), vit()))
    assert (sgd.optimizer, sgd.lr, sgd.weight_decay) == ("sgd", 0.3 * 16 / 256, 0.0)
    assert (adamw.optimizer, adamw.lr, adamw.weight_decay) == ("adamw", 1e-3, 0.05)
    assert [round(sgd.rate(epoch) / sgd.lr, 6) for epoch in (0, 59.9, 60, 79.9, 80)] == [1, 1, 0.1, 0.1, 0.01]
    assert [round(adamw.rate(epoch) / adamw.lr, 6) for epoch in (0, 50, 100)] == [1, 0.5, 0]
    warm = replace(sgd, warmup_epochs=10)
    assert [round(warm.rate(epoch) / sgd.lr, 6) for epoch in (0, 5, 10, 60)] == [0, 0.5, 1, 0.1]
    probe = LinearImages(batch_size=16, optimizer="sgd", lr=2.0).recipe(replace(subject, backbone=vit()), 0)
    assert (probe.optimizer, probe.lr, probe.weight_decay) == ("sgd", 2.0, 0.0)


def test_finetune__trains_what_the_pretraining_froze(subject: Subject, tmp_path: Path) -> None:
    frozen = vit()
    assert not frozen.pos_embed.requires_grad and not frozen.patch_embed.proj.weight.requires_grad
    recipe = Finetune(epochs=1, batch_size=16, drop_path=0.5, mixup=0.2, cutmix=1.0).recipe(subject, 0)
    _, module = train(replace(subject, backbone=frozen), recipe, tmp_path)
    for name in ("pos_embed", "patch_embed.proj.weight", "blocks.2.mlp.fc2.weight"):
        assert not torch.equal(module.backbone.get_parameter(name), frozen.get_parameter(name)), name
    exempt = module.trainer.optimizers[0].param_groups[1]["params"]
    assert any(one is module.backbone.pos_embed for one in exempt) and all(
        one.ndim == 1 or one is module.backbone.pos_embed or one is module.backbone.cls_token for one in exempt
    )


def test_drop_paths__last_block_is_skipped_most(subject: Subject) -> None:
    transformer, convolutions = vit(), resnet()
    drop_paths(transformer, 0.4)
    assert [block.drop_path2.drop_prob for block in transformer.blocks] == [0, 0.2, 0.4]
    drop_paths(convolutions, 0.3)
    assert convolutions.layer4[0].drop_path.drop_prob == pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"evaluation\.finetune\.drop_path is 0\.3, but Linear has no blocks"):
        drop_paths(nn.Linear(2, 2), 0.3)


def test_finished__is_not_done_again_unless_something_changed(
    subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = Finetune(epochs=1, batch_size=16, seeds=[0, 1])
    first = protocol.judge(subject)["finetune"]
    assert first["top1"] == pytest.approx(np.mean(first["seeds"])) and len(first["seeds"]) == 2
    assert [path.suffix for path in subject.folder.iterdir()] == [".json"] * 2  # no checkpoint is left
    capsys.readouterr()
    assert protocol.judge(subject)["finetune"] == first
    said = capsys.readouterr().out
    assert said.count("finished before: ") == 2 and said.count(" stripes, seed 1: ") == 1
    Finetune(epochs=1, batch_size=16, seeds=[1, 2]).judge(subject)
    assert capsys.readouterr().out.count("finished before: ") == 1
    with torch.no_grad():
        subject.backbone.conv1.weight.mul_(2)
    for changed in (subject, replace(subject, image_size=24), replace(subject, test=subject.train)):
        protocol.judge(changed)
        assert "finished before" not in capsys.readouterr().out


class Unused(nn.Module):
    """A part of it, as a pooler, takes no part in the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.pooler = resnet(), nn.Linear(8, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)


@pytest.mark.parametrize(("kind", "strategy"), [("resnet", "ddp"), ("unused", "ddp"), ("vit", "fsdp2")])
def test_two_ranks__train_as_one(
    subject: Subject, tmp_path: Path, two_ranks: Callable[[Callable[[int], None]], None], kind: str, strategy: str
) -> None:
    subject = replace(subject, backbone={"resnet": resnet, "unused": Unused, "vit": vit}[kind]())
    protocol = Finetune(epochs=2, batch_size=16, optimizer="sgd", lr=0.1, label_smoothing=0.1)

    def weights(one: Subject, folder: Path) -> dict[str, torch.Tensor]:
        _, module = train(one, protocol.recipe(one, 0), folder)
        return {name: getattr(value, "full_tensor", lambda v=value: v)() for name, value in module.state_dict().items()}

    def work(rank: int) -> None:
        two = replace(subject, trainer={**subject.trainer, "devices": 2, "strategy": strategy})
        torch.save(weights(two, tmp_path / "two"), tmp_path / f"{rank}.pt")
        torch.save(protocol.judge(two), tmp_path / f"{rank}.figures.pt")

    two_ranks(work)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, weights(subject, tmp_path / "one"), rtol=1e-3, atol=1e-5)
    figures = [torch.load(tmp_path / f"{rank}.figures.pt") for rank in range(2)]
    assert figures[0] == figures[1] == protocol.judge(replace(subject, folder=tmp_path / "alone"))


class Killed(Callback):
    """As kill -9 does, in the middle of the second epoch."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed__goes_on_to_the_same_figures(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = replace(subject, backbone=vit())
    protocol = Finetune(epochs=3, batch_size=16, drop_path=0.5, mixup=0.2)
    recipe = protocol.recipe(subject, 0)
    _, whole = train(subject, recipe, tmp_path / "whole")
    monkeypatch.setattr(module_training, "CHECKPOINT_MINUTES", 1e-9)
    child = os.fork()
    if child == 0:
        module_training.Trainer = lambda callbacks, **more: _trainer(callbacks=[*callbacks, Killed()], **more)
        train(subject, recipe, tmp_path / "killed")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    capsys.readouterr()
    trainer, module = train(subject, recipe, tmp_path / "killed")
    assert "goes on from" in capsys.readouterr().out and trainer.global_step == 6
    torch.testing.assert_close(module.state_dict(), whole.state_dict(), rtol=0, atol=0)


_trainer = module_training.Trainer


def test_finetune__workers_load_the_same_batches(subject: Subject, tmp_path: Path) -> None:
    recipe = Finetune(epochs=2, batch_size=16).recipe(subject, 0)
    ends = []
    for workers in (0, 2):
        _, module = train(replace(subject, num_workers=workers), recipe, tmp_path / str(workers))
        ends.append(module.state_dict())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_linear_images__takes_the_trainer_s_precision(subject: Subject, tmp_path: Path) -> None:
    low = replace(subject, trainer={**subject.trainer, "precision": "bf16-mixed"})
    recipe = LinearImages(epochs=1, batch_size=16).recipe(subject, 0)
    full, half = (train(one, recipe, tmp_path / str(one is low))[1].head.weight for one in (subject, low))
    assert not torch.equal(full, half) and torch.allclose(full, half, atol=0.01)


def test_settings__say_what_is_wrong(subject: Subject) -> None:
    for settings, said in (
        ({"epochs": 0}, r"evaluation\.finetune\.epochs must be at least 1, got 0"),
        ({"lr": -1.0}, r"evaluation\.finetune\.lr must not be negative, got -1"),
        ({"crop_min": 0.0}, r"evaluation\.finetune\.crop_min must be above 0"),
        ({"seeds": [1, 1]}, r"evaluation\.finetune\.seeds must be one or more different numbers"),
        ({"drop_path": 1.0}, r"evaluation\.finetune\.drop_path must be at least 0 and below 1"),
        ({"mixup": -1.0}, r"evaluation\.finetune\.mixup must not be negative"),
    ):
        with pytest.raises(ValueError, match=said):
            Finetune(**settings)
    with pytest.raises(ValueError, match=r"evaluation\.linear_images\.epochs"):
        LinearImages(epochs=0)
    with pytest.raises(ValueError, match=r"evaluation\.finetune\.batch_size 15 cannot .*make it a multiple of 2"):
        Finetune(batch_size=15, cutmix=1.0).judge(subject)


def test_finetune__weights_that_are_no_numbers_are_an_error(subject: Subject) -> None:
    with pytest.raises(ValueError, match=r"no finite numbers after .* Lower evaluation\.finetune\.lr or"):
        Finetune(epochs=5, batch_size=16, lr=1e30).judge(subject)
