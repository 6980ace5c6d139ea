import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import nn

from datamodules.dense import IGNORED, MaskedImages
from datamodules.dense_views import WholeImages
from pas_train.backbones import build_backbone
from pas_train.evaluation import module_training
from pas_train.evaluation.candidates import Candidate
from pas_train.evaluation.dense import segmentation, segmenter
from pas_train.evaluation.dense.segmentation import Segmentation, count_pixels, figures, train_segmenter
from pas_train.evaluation.dense.segmenter import Segmenter, likeliest
from pas_train.evaluation.evaluation import Evaluation
from pas_train.evaluation.hub_backbones import HubBackbone
from pas_train.evaluation.judging import Judging
from pas_train.evaluation.module_training import Training
from pas_train.evaluation.protocol import Subject
from tests.pas_train.evaluation.dense.made_masks import CLASSES, save_shapes
from tests.pas_train.evaluation.dense_sets import save_masked

RESNET = {"channels": (8, 8, 16, 16), "layers": (1, 1, 1, 1)}
VIT = {"embed_dim": 16, "depth": 4, "num_heads": 2, "patch_size": 8}
SMALL = {"steps": 4, "batch_size": 4, "image_size": 32, "channels": 8}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[MaskedImages, MaskedImages]:
    folder = tmp_path_factory.mktemp("shapes")
    return save_shapes(folder / "train", 0, 24), save_shapes(folder / "test", 100, 5)


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("resnet18", 32, options=RESNET)


def vit() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("vit_tiny_patch16_224", 32, options=VIT)


@pytest.fixture
def subject(sets: tuple[MaskedImages, MaskedImages], tmp_path: Path) -> Subject:
    half = (0.5, 0.5, 0.5)
    trainer = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": None, "max_epochs": 7}
    return Subject("shapes", resnet(), *sets, _none, 32, half, half, torch.device("cpu"), tmp_path, trainer, 8)


def _none() -> Any:
    raise AssertionError("no features are needed")


def train(subject: Subject, protocol: Segmentation, folder: Path) -> tuple[Trainer, Segmenter]:
    training = Training("segmentation", subject.trainer, folder, subject.progress, steps=protocol.steps)
    return train_segmenter(subject, protocol.recipe(subject, 0), training)


def test_segmentation__finds_what_the_backbone_did_not_know(
    subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"batch_size": 8, "image_size": 48, "channels": 32, "optimizer": "adamw", "lr": 0.004, "dropout": 0.0}
    found = Segmentation(steps=100, **small, scale=(1.0, 1.5), photometry=False).judge(subject)["segmentation"]
    untrained = Segmentation(steps=1, **small).judge(subject)["segmentation"]
    assert list(found) == ["miou", "macc", "accuracy"] == list(untrained)
    assert found["miou"] > 0.7 > 1 / 3 > untrained["miou"]  # a third of it has who finds the background alone
    assert found["macc"] > 0.7 and found["accuracy"] > 0.9
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "segmentation  shapes: 100 steps, 24 images, 3 classes, adamw 0.004, batches of 8"
    assert said[-1].startswith("segmentation  shapes: mIoU ")


def test_figures__are_those_of_a_case_computed_by_hand() -> None:
    counts = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [4, 0, 0, 0]])  # by true class and class found
    told = figures(counts)
    # Classes 0, 1 and 3: 6 of 8 + 11 - 6, 3 of 4 + 5 - 3, 0 of 4; class 2 is nowhere.
    assert told["miou"] == pytest.approx((6 / 13 + 3 / 6 + 0) / 3)
    assert told["macc"] == pytest.approx((6 / 8 + 3 / 4 + 0) / 3)
    assert told["accuracy"] == pytest.approx(9 / 16)
    only_found = figures(np.array([[3, 1], [0, 0]]))  # no pixel is of class 1, and one was taken for it
    assert (only_found["miou"], only_found["macc"]) == (pytest.approx((3 / 4 + 0) / 2), pytest.approx(3 / 4))
    with pytest.raises(ValueError, match=r"evaluation\.datasets: no pixel of the test images has a class that counts"):
        figures(np.zeros((2, 2), int))


def test_count_pixels__compares_masks_in_their_own_size(subject: Subject, tmp_path: Path) -> None:
    protocol = Segmentation(**SMALL)
    _, module = train(subject, protocol, tmp_path / "one")
    module.eval()
    expected = np.zeros((3, 3), int)
    for item in map(WholeImages(subject.test, 32, 128).__getitem__, range(5)):
        mask = item["mask"].numpy()
        assert min(item["image"].shape[1:]) == 32 < min(mask.shape)
        with torch.no_grad():
            logits = F.interpolate(module(item["image"][None]), mask.shape, mode="bilinear")
        for true, found in zip(mask.ravel(), logits[0].argmax(0).numpy().ravel(), strict=True):
            if true != IGNORED:
                expected[true, found] += 1
    training = Training("segmentation", subject.trainer, tmp_path / "two", "", steps=4)
    np.testing.assert_array_equal(count_pixels(subject, protocol.recipe(subject, 0), training), expected)


def test_count_pixels__memory_does_not_grow_with_the_images(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, module = train(subject, Segmentation(**SMALL), tmp_path)
    monkeypatch.setattr(segmentation, "train_segmenter", lambda *_: (trainer, module))
    counts = count_pixels(subject, module.recipe, Training("segmentation", subject.trainer, tmp_path, "", steps=4))
    assert counts.sum() > 0 and not trainer.predict_loop.predictions
    np.testing.assert_array_equal(module.counts, counts)


def test_likeliest__is_the_same_for_a_few_classes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 5, 6)
    whole = likeliest(logits, (21, 17))
    torch.testing.assert_close(whole, F.interpolate(logits[None], (21, 17), mode="bilinear")[0].argmax(0))
    monkeypatch.setattr(segmenter, "LOGITS", 3 * 21 * 17)
    torch.testing.assert_close(likeliest(logits, (21, 17)), whole)


def test_loss__is_that_of_transformers_with_the_same_weights(subject: Subject) -> None:
    from transformers import ResNetConfig, ResNetModel, UperNetConfig, UperNetForSemanticSegmentation

    stages = [f"stage{number}" for number in range(1, 5)]
    small = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    heads = {"hidden_size": 8, "auxiliary_channels": 4, "num_labels": 3}
    theirs = UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=ResNetConfig(**small, out_features=stages), **heads)
    )
    hub = HubBackbone(ResNetModel(ResNetConfig(**small)))
    protocol = Segmentation(**SMALL, dropout=0.0)
    ours = Segmenter(replace(subject, backbone=hub), protocol.recipe(subject, 0))
    ours.backbone.backbone.model.load_state_dict(theirs.backbone.state_dict(), strict=False)
    for own, other in ((ours.head, theirs.decode_head), (ours.auxiliary, theirs.auxiliary_head)):
        named = {name.replace("classifier.", "classifier.1."): value for name, value in other.state_dict().items()}
        own.load_state_dict(named)
    images, masks = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8), torch.randint(0, 3, (2, 64, 96))
    expected = theirs.train()(((images.float() - 127.5) / 127.5), labels=masks).loss
    torch.testing.assert_close(ours.training_step({"image": images, "mask": masks.byte()}, 0), expected)


def test_loss__ignored_pixels_count_nowhere(subject: Subject) -> None:
    module = Segmenter(subject, Segmentation(**SMALL, dropout=0.0).recipe(subject, 0))
    images, masks = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), torch.zeros(2, 32, 32, dtype=torch.uint8)
    whole = module.training_step({"image": images, "mask": masks}, 0)
    masks[:, 16:] = IGNORED
    assert 0 < module.training_step({"image": images, "mask": masks}, 0) < 0.75 * whole
    masks[:] = IGNORED
    assert module.training_step({"image": images, "mask": masks}, 0) == 0


def test_recipe__is_mmsegmentation_s_for_each_kind_of_backbone(subject: Subject) -> None:
    sgd, adamw = (Segmentation().recipe(replace(subject, backbone=one), 3) for one in (resnet(), vit()))
    assert (sgd.optimizer, sgd.lr, sgd.weight_decay, sgd.warmup_steps) == ("sgd", 0.01, 5e-4, 0)
    assert (adamw.optimizer, adamw.lr, adamw.weight_decay, adamw.warmup_steps) == ("adamw", 6e-5, 0.01, 1500)
    assert (sgd.steps, sgd.batch_size, sgd.image_size, sgd.channels, sgd.seed) == (80_000, 16, 512, 512, 3)
    assert [sgd.rate(step) / 0.01 for step in (0, 40_000, 80_000)] == pytest.approx([1, 0.5**0.9, 0])
    assert [adamw.rate(step) / 6e-5 for step in (0, 750, 1500, 40_750, 80_000)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    short = replace(adamw, steps=30)  # a third of it is the warm-up
    assert [short.rate(step) / 6e-5 for step in (0, 5, 10, 20)] == pytest.approx([0, 0.5, 1, 0.5])


def test_weights__decay_but_for_norms_and_positions(subject: Subject) -> None:
    subject = replace(subject, backbone=vit())
    module = Segmenter(subject, Segmentation(**SMALL).recipe(subject, 0))
    names = {id(one): name for name, one in module.named_parameters()}
    decayed, exempt = module.configure_optimizers().param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.01, 0.0)
    kept = {names[id(one)] for one in exempt["params"]}
    assert {"backbone.backbone.pos_embed", "backbone.backbone.cls_token", "head.classifier.1.bias"} <= kept
    assert not any(name.endswith(".weight") and "norm" not in name for name in kept)
    assert len(names) == len(decayed["params"]) + len(exempt["params"])


def test_seed__alone_decides_the_heads(subject: Subject) -> None:
    protocol = Segmentation(**SMALL)
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(heads))
        heads.append(Segmenter(subject, protocol.recipe(subject, seed)).head.bottleneck.conv.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_finished__is_not_done_again_unless_something_changed(
    subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = Segmentation(**SMALL, seeds=[0, 1])
    first = protocol.judge(subject)["segmentation"]
    assert first["miou"] == pytest.approx(np.mean(first["seeds"])) and len(first["seeds"]) == 2
    assert [path.suffix for path in subject.folder.iterdir()] == [".json"] * 2  # no checkpoint is left
    capsys.readouterr()
    assert protocol.judge(subject)["segmentation"] == first
    said = capsys.readouterr().out
    assert said.count("finished before: ") == 2 and said.count(" shapes, seed 1: ") == 1
    one = replace(protocol, seeds=[1])
    one.judge(subject)
    assert capsys.readouterr().out.count("finished before: ") == 1
    for changed in (replace(subject, test=subject.train), replace(subject, mean=(0.4,) * 3)):
        one.judge(changed)
        assert "finished before" not in capsys.readouterr().out


def test_raw_pixels__have_no_backbone_to_train(subject: Subject) -> None:
    assert Segmentation().judge(replace(subject, backbone=None)) == {}


def test_judging__segments_by_every_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masked = save_masked(tmp_path / "cloth")
    evaluation = Evaluation([masked], image_size=32, knn=None, linear=None, segmentation=Segmentation(**SMALL))
    evaluation.check(tmp_path)
    half = (0.5, 0.5, 0.5)
    named = {"model": resnet(), "start": vit(), "pixels": None}
    candidates = [Candidate(name, name, "trained", "", one, half, half) for name, one in named.items()]
    judging = Judging(evaluation, tmp_path, torch.device("cpu"), 32, {"accelerator": "cpu", "devices": 1})
    judged = judging.run(candidates)
    found = judged.evaluation["cloth"]
    assert list(found["model"]["segmentation"]) == list(found["start"]["segmentation"]) == ["miou", "macc", "accuracy"]
    assert found["pixels"] == {} and judged.protocols["cloth"]["figures"]["segmentation"]["steps"] == 4
    assert json.loads(json.dumps(found)) == found
    capsys.readouterr()
    assert judging.run(candidates).evaluation["cloth"] == found
    assert capsys.readouterr().out.count("segmentation as before") == 2


@pytest.mark.parametrize(("kind", "strategy"), [("resnet", "ddp"), ("vit", "fsdp2")])
def test_two_ranks__train_and_count_as_one(
    subject: Subject, tmp_path: Path, two_ranks: Callable[[Callable[[int], None]], None], kind: str, strategy: str
) -> None:
    subject = replace(subject, backbone={"resnet": resnet, "vit": vit}[kind]())
    protocol = Segmentation(**SMALL, optimizer="sgd", lr=0.05, dropout=0.0)

    def work(rank: int) -> None:
        two = replace(subject, trainer={**subject.trainer, "devices": 2, "strategy": strategy})
        torch.save(train(two, protocol, tmp_path / "two")[1].state_dict(), tmp_path / f"{rank}.pt")
        torch.save(protocol.judge(two), tmp_path / f"{rank}.figures.pt")

    two_ranks(work)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    alone = train(subject, protocol, tmp_path / "one")[1].state_dict()
    torch.testing.assert_close(first, alone, rtol=1e-3, atol=1e-4)
    told = [torch.load(tmp_path / f"{rank}.figures.pt")["segmentation"] for rank in range(2)]
    assert told[0] == told[1]
    one = protocol.judge(replace(subject, folder=tmp_path / "alone"))["segmentation"]
    assert told[0] == pytest.approx(one, abs=0.01)  # a pixel between two classes may fall to either


class Killed(Callback):
    """As kill -9 does, after half of the training."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed__goes_on_to_the_same_weights(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = replace(subject, backbone=vit())
    protocol = Segmentation(**SMALL | {"steps": 8}, drop_path=0.2)
    _, whole = train(subject, protocol, tmp_path / "whole")
    monkeypatch.setattr(module_training, "CHECKPOINT_MINUTES", 1e-9)
    child = os.fork()
    if child == 0:
        module_training.Trainer = lambda callbacks, **more: Trainer(callbacks=[*callbacks, Killed()], **more)
        train(subject, protocol, tmp_path / "killed")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    capsys.readouterr()
    trainer, module = train(subject, protocol, tmp_path / "killed")
    assert "goes on from" in capsys.readouterr().out and trainer.global_step == 8
    torch.testing.assert_close(module.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_settings__say_what_is_wrong(subject: Subject) -> None:
    for settings, said in (
        ({"steps": 0}, r"evaluation\.segmentation\.steps must be at least 1, got 0"),
        ({"batch_size": 1}, r"evaluation\.segmentation\.batch_size must be at least 2, as the head has batch norms"),
        ({"lr": -1.0}, r"evaluation\.segmentation\.lr must not be negative, got -1"),
        ({"scale": (2.0, 0.5)}, r"evaluation\.segmentation\.scale must be two numbers above 0 that rise"),
        ({"category_max": 0.0}, r"evaluation\.segmentation\.category_max must be above 0"),
        ({"dropout": 1.0}, r"evaluation\.segmentation\.dropout must be at least 0 and below 1"),
        ({"seeds": []}, r"evaluation\.segmentation\.seeds must be one or more different numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            Segmentation(**settings)
    single = MaskedImages(subject.train.source, subject.train.masks[:1], CLASSES)
    with pytest.raises(ValueError, match=r"'shapes' has one training image, and evaluation\.segmentation needs two"):
        Segmentation().judge(replace(subject, train=single))


def test_segmentation__weights_that_are_no_numbers_are_an_error(subject: Subject) -> None:
    with pytest.raises(ValueError, match=r"no finite numbers after .* Lower evaluation\.segmentation\.lr or"):
        Segmentation(**SMALL, lr=1e30).judge(subject)
