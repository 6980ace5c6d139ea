import copy
import math
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from pas_train.methods import NNCLR
from pas_train.methods.nnclr import SupportSet
from tests.pas_train.methods.small_training import (
    BATCH,
    EPOCHS,
    PRECISIONS,
    RESNET,
    STEPS_PER_EPOCH,
    VIT,
    assert_same_ten_steps,
    batches,
    train,
)

SMALL = {"image_size": 16, "projector_hidden": 24, "projector_dim": 8, "predictor_hidden": 20, "warmup_epochs": 1.5}
SMALL["support_size"] = 20  # the batch of 8 does not divide it: the ring closes within a batch
# Rates at which ten steps stay put: at ten times these, weights that differ by 1e-7 choose other neighbours by then.
RECIPES = {
    "resnet-lars": {**RESNET, **SMALL, "base_lr": 0.03, "weight_decay": 1e-4},
    "resnet-rows-both": {**RESNET, **SMALL, "base_lr": 0.03, "symmetric_columns": False, "support_views": "both"},
    "vit-adamw": {**VIT, **SMALL, "base_lr": 1e-4, "weight_decay": 0.1, "optimizer": "adamw"},
}


def reference_losses(module: NNCLR, recipe: dict, dtype: torch.dtype) -> list[float]:
    """NNCLR written from the paper: a forward a view, a support set that is a list, losses term by term."""
    vit, hidden, dim = "vit" in recipe["backbone"], 24, 8
    sizes = [module.backbone.num_features, hidden, hidden, dim]
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Linear(sizes[i], sizes[i + 1], bias=False), nn.BatchNorm1d(sizes[i + 1])]
        layers += [nn.ReLU()] if i < 2 else []
    projector = nn.Sequential(*layers)
    predictor = nn.Sequential(nn.Linear(dim, 20, bias=False), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, dim))
    projector.load_state_dict(module.projector.layers.state_dict())
    predictor.load_state_dict(module.predictor.layers.state_dict())
    predictor.to(dtype)
    encoder = nn.Sequential(copy.deepcopy(module.backbone), projector).to(dtype)
    trained = [p for p in [*encoder.parameters(), *predictor.parameters()] if p.requires_grad]
    queue = list(module.support.rows.to(dtype, copy=True))
    momenta = [torch.zeros_like(p) for p in trained]
    adamw = torch.optim.AdamW(trained, weight_decay=0.1)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    decay, losses = recipe.get("weight_decay", 1e-6), []
    for step in range(STEPS_PER_EPOCH * EPOCHS):
        views = (batches()[step % STEPS_PER_EPOCH]["views"].to(dtype) / 255 - mean) / std
        epoch = step / STEPS_PER_EPOCH
        peak = recipe["base_lr"] * BATCH / 256
        lr = peak * epoch / 1.5 if epoch < 1.5 else peak * 0.5 * (1 + math.cos(math.pi * (epoch - 1.5) / 0.5))
        z = [encoder(views[0]), encoder(views[1])]
        p = [F.normalize(predictor(each), dim=1) for each in z]
        z = [F.normalize(each, dim=1).detach() for each in z]
        terms = []
        for view in (0, 1):
            near = [min(queue, key=lambda row, zi=zi: float((row - zi).norm())) for zi in z[view]]
            other = p[1 - view]
            for i in range(BATCH):
                candidates = [(near[i] @ other[k] / 0.1).exp() for k in range(BATCH)]
                terms.append(-(candidates[i] / sum(candidates)).log())
                if recipe.get("symmetric_columns", True):
                    candidates = [(near[k] @ other[i] / 0.1).exp() for k in range(BATCH)]
                    terms.append(-(candidates[i] / sum(candidates)).log())
        loss = sum(terms) / len(terms)
        losses.append(loss.item())
        # The support rows stand in a ring; of a plain list the order does not matter to the nearest.
        incoming = [*z[0], *z[1]] if recipe.get("support_views") == "both" else [*z[0]]
        queue = [*queue, *incoming][-20:]
        gradients = torch.autograd.grad(loss, trained)
        if vit:
            for parameter, g in zip(trained, gradients, strict=True):
                parameter.grad = g
            adamw.param_groups[0]["lr"] = lr
            adamw.step()
            continue
        for parameter, g, u in zip(trained, gradients, momenta, strict=True):
            if parameter.ndim > 1:
                g = g + decay * parameter.data
                if parameter.data.norm() > 0 and g.norm() > 0:
                    g = g * 0.001 * parameter.data.norm() / g.norm()
            u.mul_(0.9).add_(g)
            parameter.data.sub_(lr * u)
    return losses


@pytest.mark.parametrize(("precision", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", RECIPES)
def test_nnclr__ten_steps_equal_a_plain_loop(name: str, precision: str, tolerance: float) -> None:
    assert_same_ten_steps(NNCLR, RECIPES[name], reference_losses, precision, tolerance)


def test_nnclr__heads_of_the_paper() -> None:
    def shape(head: nn.Module) -> list[tuple]:
        return [
            (type(layer).__name__, getattr(layer, "out_features", None), getattr(layer, "bias", None) is not None)
            for layer in head.layers
        ]

    module = NNCLR(**RECIPES["resnet-lars"])
    hidden = [("Linear", 24, False), ("BatchNorm1d", None, True), ("ReLU", None, False)]
    assert shape(module.projector) == [*hidden, *hidden, ("Linear", 8, False), ("BatchNorm1d", None, True)]
    first = [("Linear", 20, False), ("BatchNorm1d", None, True), ("ReLU", None, False)]
    assert shape(module.predictor) == [*first, ("Linear", 8, True)]
    assert {name.split(".")[0] for name in module.state_dict()} == {"backbone", "projector", "predictor", "support"}


def test_nnclr__defaults_are_the_papers() -> None:
    module = NNCLR(backbone="resnet10t", image_size=32)
    kept = {"temperature", "base_lr", "warmup_epochs", "weight_decay", "optimizer", "support_size"}
    assert {name: module.hparams[name] for name in kept} == {
        "temperature": 0.1, "base_lr": 0.3, "warmup_epochs": 10, "weight_decay": 1e-6, "optimizer": "lars",
        "support_size": 98304,
    }  # fmt: skip
    assert module.support.rows.shape == (98304, 256) and module.symmetric_columns
    assert module.projector.layers[0].out_features == 2048 and module.predictor.layers[0].out_features == 4096


def test_nnclr__logs_how_near_and_how_new_the_neighbours_are() -> None:
    steps = train(NNCLR(**RECIPES["resnet-lars"])).steps
    assert [step["train/support_replaced"] for step in steps[:3]] == pytest.approx([8 / 20, 16 / 20, 1])
    assert all(0 < step["train/neighbour_similarity"] <= 1 for step in steps)
    assert steps[-1]["train/neighbour_similarity"] > steps[0]["train/neighbour_similarity"]


def test_nnclr__continues_exactly_from_a_checkpoint(tmp_path: Path) -> None:
    saving = {"callbacks": [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)], "enable_checkpointing": True}
    whole = NNCLR(**RECIPES["resnet-lars"])
    steps = train(whole, **saving).steps
    resumed = NNCLR(**RECIPES["resnet-lars"], seed=1)  # other weights and another support set, until it is loaded
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*exists and is not empty")
        again = train(resumed, ckpt_path=tmp_path / "epoch=0.ckpt", **saving).steps
    assert [step["train/loss"] for step in again] == [step["train/loss"] for step in steps[STEPS_PER_EPOCH:]]
    assert torch.equal(whole.support.rows, resumed.support.rows) and resumed.support.seen == 80


def test_nnclr__support_set_larger_than_an_epoch_is_named() -> None:
    module = NNCLR(**{**RECIPES["resnet-lars"], "support_size": 41})
    with pytest.warns(UserWarning, match=r"model\.support_size is 41, but an epoch brings 40 .* at most 40"):
        train(module, max_epochs=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0}, r"model\.temperature"),
        ({"support_size": 0}, r"model\.support_size must be at least 1"),
        ({"support_views": "third"}, r"model\.support_views.*first, second, both"),
        ({"optimizer": "sgd"}, r"model\.optimizer.*adamw, lars, lars_timm"),
    ],
)
def test_nnclr__wrong_settings_name_their_key(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NNCLR(**{**RECIPES["resnet-lars"], **wrong})


def directions(*degrees: float) -> torch.Tensor:
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_support_set__takes_the_places_of_the_oldest() -> None:
    support = SupportSet(3, 2)
    assert torch.allclose(support.rows.norm(dim=1), torch.ones(3))
    assert support.replaced == 0
    support.enqueue(directions(0, 10))
    assert support.replaced == pytest.approx(2 / 3)
    support.enqueue(directions(20, 30))
    assert torch.equal(support.rows, directions(30, 10, 20)) and support.replaced == 1
    support.enqueue(directions(40, 50, 60, 70))  # more than it holds: the last three, 40 left out at once
    assert sorted(map(tuple, support.rows.tolist())) == sorted(map(tuple, directions(50, 60, 70).tolist()))
    support.enqueue(directions(80))
    assert sorted(map(tuple, support.rows.tolist())) == sorted(map(tuple, directions(60, 70, 80).tolist()))


def test_support_set__finds_the_nearest_in_float32_under_autocast() -> None:
    support = SupportSet(3, 2)
    support.enqueue(directions(0, 10, 10.1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        neighbours, similarities = support.nearest(directions(10.06, -50))
    assert neighbours.dtype == torch.float32
    assert torch.equal(neighbours, directions(10.1, 0))
    assert similarities.tolist() == pytest.approx([1, math.cos(math.radians(50))], abs=1e-6)


def test_support_set__is_in_the_checkpoint_and_seeded() -> None:
    first, again, other = (NNCLR(**RECIPES["vit-adamw"], seed=seed).state_dict() for seed in (0, 0, 1))
    assert {"support.rows", "support.seen"} <= set(first)
    assert torch.equal(first["support.rows"], again["support.rows"])
    assert not torch.equal(first["support.rows"], other["support.rows"])
