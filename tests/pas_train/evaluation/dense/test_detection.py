import copy
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from transformers import ResNetConfig, ResNetModel

from datamodules.dense import BoxedImages
from pas_train.backbones import build_backbone
from pas_train.evaluation import module_training
from pas_train.evaluation.candidates import Candidate
from pas_train.evaluation.dense.detection import Detection, train_detector
from pas_train.evaluation.dense.detector import Detector
from pas_train.evaluation.evaluation import Evaluation
from pas_train.evaluation.hub_backbones import HubBackbone
from pas_train.evaluation.image_classifier import drop_paths
from pas_train.evaluation.judging import Judging
from pas_train.evaluation.protocol import Subject
from tests.pas_train.evaluation.dense.pasted import HEIGHT, WIDTH, save_pasted
from tests.pas_train.evaluation.dense_sets import save_boxed

SIZES = {"short_side": HEIGHT // 2, "longest_side": WIDTH // 2, "anchor_scale": 4.0}
TINY: dict[str, Any] = {**SIZES, "epochs": 2, "batch_size": 4, "channels": 8, "proposals": 16, "samples": 8}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[BoxedImages, BoxedImages]:
    folder = tmp_path_factory.mktemp("pasted")
    return save_pasted(folder / "train", 8), save_pasted(folder / "test", 5, first=100)


def resnet(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("resnet18", 64, options={"channels": (width, width, 32, 32), "layers": (1, 1, 1, 1)})


def vit() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(
        "vit_tiny_patch16_224", 64, options={"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 16}
    )


@pytest.fixture
def subject(sets: tuple[BoxedImages, BoxedImages], tmp_path: Path) -> Subject:
    half = (0.5, 0.5, 0.5)
    trainer = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": None, "max_epochs": 7}
    return Subject("shapes", resnet(), *sets, _none, 64, half, half, torch.device("cpu"), tmp_path, trainer)


def _none() -> Any:
    raise AssertionError("no features are needed")


def train(protocol: Detection, subject: Subject, folder: Path) -> Detector:
    return train_detector(subject, protocol.recipe(subject, 0), protocol.training(subject, folder))[1]


def test_detection__learns_to_find_shapes(subject: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    subject = replace(subject, test=subject.train)
    before = copy.deepcopy(subject.backbone.state_dict())
    protocol = Detection(
        **SIZES, epochs=25, batch_size=4, channels=16, proposals=32, samples=16, optimizer="adamw", lr=4e-3,
        frozen_stages=0, warmup_steps=10,
    )  # fmt: skip
    found = protocol.judge(subject)["detection"]
    assert list(found) == ["map", "map50", "map75"] and found["map"] < found["map50"] and found["map50"] > 0.4
    torch.testing.assert_close(subject.backbone.state_dict(), before, rtol=0, atol=0)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "detection     shapes: 25 epochs of 8 images, 3 classes, adamw 0.004, batches of 4"
    assert said[-1].startswith(f"detection     shapes: mAP {100 * found['map']:.1f} %, in ")


def test_detector__finds_in_pixels_of_the_original(subject: Subject) -> None:
    module = Detector(subject, Detection(**TINY).recipe(subject, 0)).eval()
    image = torch.full((3, 50, 100), 7, dtype=torch.uint8)
    item = {"image": image, "size": torch.tensor([50, 100]), "index": torch.tensor(3)}
    module.detector.roi_heads.score_thresh = 0.0
    with torch.inference_mode():
        row, small = module.predict_step(item, 0)
        _, large = module.predict_step({**item, "size": torch.tensor([100, 400])}, 0)
    assert row == 3 and len(small) and small.shape[1] == 6
    np.testing.assert_allclose(large, small * [4, 2, 4, 2, 1, 1], rtol=1e-5)
    assert set(small[:, 4]) <= {0, 1, 2} and (small[:, 2] <= 100).all() and (small[:, 3] <= 50).all()


def test_raw_pixels__have_no_backbone_to_train(subject: Subject) -> None:
    assert Detection().judge(replace(subject, backbone=None)) == {}


def test_recipe__is_mmdetection_s_for_resnets_and_vitdet_s_for_transformers(subject: Subject) -> None:
    sgd, adamw = (Detection().recipe(replace(subject, backbone=one), 0) for one in (resnet(), vit()))
    assert (sgd.optimizer, sgd.lr, sgd.weight_decay, sgd.layer_decay) == ("sgd", 0.02 * 8 / 16, 1e-4, 1.0)
    assert (adamw.optimizer, adamw.lr, adamw.weight_decay, adamw.layer_decay) == ("adamw", 1e-4, 0.1, 0.7)
    assert (sgd.frozen_stages, adamw.frozen_stages) == (1, 0)
    rates = [sgd.rate(step, 1000) / sgd.lr for step in (0, 250, 500, 7999, 8000, 10999, 11000)]
    assert rates == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.1, 0.01])
    assert [sgd.rate(step, 5) / sgd.lr for step in (10, 20)] == pytest.approx([0.5005, 1])  # of 60 steps


def test_detector__leaves_first_stage_and_statistics_as_the_pretraining_made_them(
    subject: Subject, tmp_path: Path
) -> None:
    start = resnet()
    start.conv1.requires_grad_(False)  # what the pretraining froze says nothing here
    for name, options in (("mmdet", {}), ("all", {"frozen_stages": 0, "frozen_norms": False})):
        module = train(Detection(**TINY, **options), replace(subject, backbone=start), tmp_path / name)
        known = start.state_dict()
        moved = {
            key for key, value in module.backbone.maps.backbone.state_dict().items() if (value != known[key]).any()
        }
        below = {key for key in moved if key.startswith(("conv1", "bn1", "layer1"))}
        assert bool(below) == (name == "all"), below
        assert any(key.endswith("running_mean") for key in moved) == (name == "all")
        assert {"layer2.0.conv1.weight", "layer2.0.bn1.bias", "layer4.0.conv2.weight"} <= moved


def small_stem() -> nn.Module:
    return build_backbone("resnet18", 32, small_images=True, options={"channels": (4, 4, 8, 8), "layers": (1, 1, 1, 1)})


def of_transformers() -> nn.Module:
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1]}
    return HubBackbone(ResNetModel(ResNetConfig(layer_type="basic", **sizes)))


@pytest.mark.parametrize(
    ("build", "first"),
    [
        (resnet, {"conv1", "bn1", "layer1"}),
        (small_stem, {"conv1", "bn1", "layer1"}),
        (of_transformers, {"model.embedder", "model.encoder.stages.0"}),
    ],
)
def test_detector__first_stage_is_that_of_any_resnet(
    subject: Subject, build: Callable[[], nn.Module], first: set[str]
) -> None:
    subject = replace(subject, backbone=build())
    inner = Detector(subject, Detection(**TINY).recipe(subject, 0)).backbone.maps.backbone
    for name, parameter in inner.named_parameters():
        below = any(name.startswith(f"{one}.") for one in first)
        assert parameter.requires_grad != below, name


def test_detector__layers_of_a_transformer_learn_slower_the_lower_they_are(subject: Subject, tmp_path: Path) -> None:
    module = train(Detection(**TINY, drop_path=0.1), replace(subject, backbone=vit()), tmp_path)
    vision, scales = module.backbone.maps.backbone, {}
    for group in module.trainer.optimizers[0].param_groups:
        scales |= {id(parameter): (group["scale"], group["weight_decay"]) for parameter in group["params"]}
    assert scales[id(vision.patch_embed.proj.weight)] == (pytest.approx(0.7**3), 0.1)
    assert scales[id(vision.pos_embed)] == (pytest.approx(0.7**3), 0)
    assert scales[id(vision.blocks[1].mlp.fc1.weight)] == (pytest.approx(0.7), 0.1)
    assert scales[id(module.detector.rpn.head.bbox_pred.weight)] == (1, 0.1)
    assert len(scales) == sum(parameter.requires_grad for parameter in module.parameters())


def test_detector__heads_tell_boxes_in_float32_whatever_the_precision(subject: Subject) -> None:
    module = Detector(subject, Detection(**TINY).recipe(subject, 0)).eval()
    maps = module.backbone(torch.rand(1, 3, 64, 64))
    with torch.autocast("cpu", torch.bfloat16):
        scores, boxes = module.detector.rpn.head(list(maps.values()))
        classes, places = module.detector.roi_heads.box_predictor(torch.rand(2, 4 * 8))
    assert {one.dtype for one in (*scores, *boxes, classes, places)} == {torch.float32}


def test_finished__is_not_done_again_unless_something_changed(
    subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = Detection(**{**TINY, "epochs": 1}, seeds=[0, 1])
    first = protocol.judge(subject)["detection"]
    assert first["map"] == pytest.approx(sum(first["seeds"]) / 2) and len(first["seeds"]) == 2
    assert [path.suffix for path in subject.folder.iterdir()] == [".json"] * 2  # no checkpoint is left
    capsys.readouterr()
    assert protocol.judge(subject)["detection"] == first
    said = capsys.readouterr().out
    assert said.count("finished before: ") == 2 and said.count(" shapes, seed 1: ") == 1
    replace(protocol, seeds=[0], clip=1.0).judge(subject)
    assert "finished before" not in capsys.readouterr().out


def test_two_ranks__end_with_the_same_weights_and_figures(
    subject: Subject, tmp_path: Path, two_ranks: Callable[[Callable[[int], None]], None]
) -> None:
    two = replace(subject, trainer={**subject.trainer, "devices": 2, "strategy": "ddp"})
    protocol = Detection(**TINY)

    def work(rank: int) -> None:
        found = protocol.judge(two)
        torch.save((found, train(protocol, two, tmp_path / "two").state_dict()), tmp_path / f"{rank}.pt")

    two_ranks(work)
    (found, weights), (other, same) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert found == other and 0 <= found["detection"]["map"] <= 1
    torch.testing.assert_close(weights, same, rtol=0, atol=0)


class Killed(Callback):
    """As kill -9 does, in the middle of the second epoch."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed__goes_on_to_the_same_detector(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = Detection(**TINY)
    whole = train(protocol, subject, tmp_path / "whole").state_dict()
    monkeypatch.setattr(module_training, "CHECKPOINT_MINUTES", 1e-9)
    child = os.fork()
    if child == 0:
        module_training.Trainer = lambda callbacks, **more: _trainer(callbacks=[*callbacks, Killed()], **more)
        train(protocol, subject, tmp_path / "killed")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    capsys.readouterr()
    again = train(protocol, subject, tmp_path / "killed")
    assert "goes on from" in capsys.readouterr().out and again.trainer.global_step == 4
    torch.testing.assert_close(again.state_dict(), whole, rtol=0, atol=0)


_trainer = module_training.Trainer


def test_judging__detects_by_every_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = (0.5, 0.5, 0.5)
    candidates = [
        Candidate(name, name, "published", "", backbone, half, half)
        for name, backbone in (("convolutions", resnet()), ("transformer", vit()), ("pixels", None))
    ]
    evaluation = Evaluation([save_boxed(tmp_path / "tray")], detection=Detection(**{**TINY, "epochs": 1}))
    evaluation.check(tmp_path)
    judging = Judging(evaluation, tmp_path, torch.device("cpu"), 64, {"accelerator": "cpu", "devices": 1})
    found = judging.run(candidates)
    assert found.evaluation["tray"].pop("pixels") == {}
    assert found.evaluation["tray"].keys() == {"convolutions", "transformer"}
    assert all(
        0 <= told["detection"]["map"] <= told["detection"]["map50"] for told in found.evaluation["tray"].values()
    )
    assert found.protocols["tray"]["figures"]["detection"]["epochs"] == 1
    assert "detection     tray transformer: mAP " in capsys.readouterr().out
    assert judging.run(candidates[:2]).evaluation == found.evaluation
    assert "mAP" not in capsys.readouterr().out


def test_evaluation__a_missing_pycocotools_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(ValueError, match=r"evaluation\.detection needs pycocotools.*pas-train\[dense\]"):
        Evaluation([save_boxed(tmp_path / "tray")], detection=Detection()).check(tmp_path)


def test_settings__say_what_is_wrong(subject: Subject) -> None:
    for settings, said in (
        ({"epochs": 0}, r"evaluation\.detection\.epochs must be at least 1, got 0"),
        ({"lr": -1.0}, r"evaluation\.detection\.lr must not be negative, got -1"),
        ({"anchor_scale": 0.0}, r"evaluation\.detection\.anchor_scale must be above 0, got 0"),
        ({"longest_side": 700}, r"evaluation\.detection\.longest_side must be at least 800, got 700"),
        ({"frozen_stages": 5}, r"evaluation\.detection\.frozen_stages must be 0 to 4, or null, got 5"),
        ({"seeds": [1, 1]}, r"evaluation\.detection\.seeds must be one or more different numbers"),
        ({"layer_decay": 1.5}, r"evaluation\.detection\.layer_decay must be above 0, at most 1, got 1.5"),
    ):
        with pytest.raises(ValueError, match=said):
            Detection(**settings)
    with pytest.raises(ValueError, match=r"evaluation\.detection\.frozen_stages is 1, but .* vision transformer"):
        Detection(frozen_stages=1).judge(replace(subject, backbone=vit()))
    with pytest.raises(ValueError, match=r"evaluation\.detection\.drop_path is 0\.1, but Linear has no blocks"):
        drop_paths(nn.Linear(2, 2), 0.1, "detection")


def test_detection__weights_that_are_no_numbers_are_an_error(subject: Subject) -> None:
    with pytest.raises(ValueError, match=r"no finite numbers after .* Lower evaluation\.detection\.lr or"):
        Detection(**TINY, lr=1e30, warmup_steps=0).judge(subject)
