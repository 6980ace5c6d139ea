import ast
import copy
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

import pas_train
from datamodules.pretrain import PretrainDataModule
from datamodules.sampling import epoch_order
from pas_train.methods import MoCoV3
from tests.pas_train.methods.small_training import (
    BATCH,
    EPOCHS,
    PRECISIONS,
    RESNET,
    STEPS_PER_EPOCH,
    VIT,
    Record,
    assert_same_ten_steps,
    batches,
    train,
)

SMALL = {"image_size": 16, "projector_hidden": 24, "projector_dim": 8, "base_lr": 0.005, "warmup_epochs": 1.5}
SMALL["base_momentum"] = 0.9  # so that ten steps show the momentum encoder
RECIPES = {
    "vit-adamw": {**VIT, **SMALL},
    "resnet-lars": {**RESNET, **SMALL, "optimizer": "lars", "base_lr": 0.3, "temperature": 1.0, "weight_decay": 1e-4},
}


def reference_losses(module: MoCoV3, recipe: dict, dtype: torch.dtype) -> list[float]:
    """MoCo v3 written from the paper and the official code: two forwards an encoder, a Python EMA, plain optimisers."""
    vit = "vit" in recipe["backbone"]
    width, hidden, dim = module.backbone.num_features, 24, 8

    def linear_stack(sizes, last_norm):
        layers = []
        for i in range(len(sizes) - 1):
            layers.append(nn.Linear(sizes[i], sizes[i + 1], bias=False))
            if i < len(sizes) - 2:
                layers += [nn.BatchNorm1d(sizes[i + 1]), nn.ReLU()]
            elif last_norm:
                layers.append(nn.BatchNorm1d(sizes[i + 1], affine=False))
        return nn.Sequential(*layers)

    projector = linear_stack([width, hidden, hidden, dim] if vit else [width, hidden, dim], True)
    predictor = linear_stack([dim, hidden, dim], vit)
    projector.load_state_dict(module.projector.state_dict())
    predictor.load_state_dict(module.predictor.state_dict())
    predictor.to(dtype)
    query = nn.Sequential(copy.deepcopy(module.backbone), projector).to(dtype)
    key = copy.deepcopy(query)
    trained = [p for p in [*query.parameters(), *predictor.parameters()] if p.requires_grad]
    momenta = [torch.zeros_like(p) for p in trained]
    adamw = torch.optim.AdamW(trained, weight_decay=0.1)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    tau, losses = recipe.get("temperature", 0.2), []
    for step in range(STEPS_PER_EPOCH * EPOCHS):
        views = (batches()[step % STEPS_PER_EPOCH]["views"].to(dtype) / 255 - mean) / std
        epoch = step / STEPS_PER_EPOCH
        peak = recipe["base_lr"] * BATCH / 256
        lr = peak * epoch / 1.5 if epoch < 1.5 else peak * 0.5 * (1 + math.cos(math.pi * (epoch - 1.5) / 0.5))
        m = 1 - 0.1 * 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS))
        q1, q2 = predictor(query(views[0])), predictor(query(views[1]))
        with torch.no_grad():
            for p_query, p_key in zip(query.parameters(), key.parameters(), strict=True):
                p_key.data = p_key.data * m + p_query.data * (1 - m)
            k1, k2 = key(views[0]), key(views[1])
        loss = 0
        for q, k in ((q1, k2), (q2, k1)):
            logits = torch.einsum("nc,mc->nm", F.normalize(q, dim=1), F.normalize(k, dim=1)) / tau
            loss = loss + F.cross_entropy(logits, torch.arange(BATCH)) * 2 * tau
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, trained)
        if vit:
            for p, g in zip(trained, gradients, strict=True):
                p.grad = g
            adamw.param_groups[0]["lr"] = lr
            adamw.step()
            continue
        for p, g, u in zip(trained, gradients, momenta, strict=True):
            if p.ndim > 1:
                g = g + 1e-4 * p.data
                norm, rate = g.norm(), 1.0
                if p.norm() > 0 and norm > 0:
                    rate = 0.001 * p.data.norm() / norm
                g = g * rate
            u.mul_(0.9).add_(g)
            p.data.sub_(lr * u)
    return losses


@pytest.mark.parametrize(("precision", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", RECIPES)
def test_moco_v3__ten_steps_equal_a_plain_loop(name: str, precision: str, tolerance: float) -> None:
    assert_same_ten_steps(MoCoV3, RECIPES[name], reference_losses, precision, tolerance)


def test_moco_v3__heads_of_the_paper() -> None:
    def shape(head):
        return [
            (type(layer).__name__, getattr(layer, "out_features", None), getattr(layer, "affine", None))
            for layer in head
        ]

    hidden = [("Linear", 24, None), ("BatchNorm1d", None, True), ("ReLU", None, None)]
    out, plain = ("Linear", 8, None), ("BatchNorm1d", None, False)
    vit, resnet = MoCoV3(**RECIPES["vit-adamw"]), MoCoV3(**RECIPES["resnet-lars"])
    assert shape(vit.projector) == [*hidden, *hidden, out, plain] and shape(vit.predictor) == [*hidden, out, plain]
    assert shape(resnet.projector) == [*hidden, out, plain] and shape(resnet.predictor) == [*hidden, out]
    assert vit.projector[0].bias is None and vit.projector[0].in_features == 16


@pytest.mark.parametrize("name", RECIPES)
def test_moco_v3__views_share_a_forward_only_without_batch_statistics(name: str) -> None:
    module = MoCoV3(**RECIPES[name])
    shapes: list[tuple[int, ...]] = []
    module.backbone.register_forward_hook(lambda _, images, __: shapes.append(tuple(images[0].shape)))
    views = module.normalise(batches(1)[0]["views"])
    together = module.embed_views(module.backbone, views)
    assert shapes == ([(16, 3, 16, 16)] if name == "vit-adamw" else [(8, 3, 16, 16)] * 2)
    for view, embeddings in zip(views, together, strict=True):
        torch.testing.assert_close(embeddings, module.backbone(view))


def test_moco_v3__transformer_on_a_resnet_keeps_views_apart() -> None:
    options = {"embed_dim": 16, "depth": 1, "num_heads": 2}
    module = MoCoV3("vit_base_resnet26d_224", projector_hidden=24, projector_dim=8, backbone_options=options)
    assert module.transformer and module.separate_views


def test_moco_v3__seed_decides_the_initial_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(torch.seed() % 1000)  # the global state must not matter
        return torch.cat([p.flatten() for p in MoCoV3(**RECIPES["vit-adamw"], seed=seed).parameters()])

    state = torch.get_rng_state()
    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
    torch.set_rng_state(state)
    MoCoV3(**RECIPES["vit-adamw"])
    assert torch.equal(torch.get_rng_state(), state)


def test_moco_v3__logs_schedules_and_spread() -> None:
    steps = train(MoCoV3(**RECIPES["vit-adamw"])).steps
    assert steps[0]["train/lr"] == 0 and steps[0]["train/momentum"] == pytest.approx(0.9)
    assert steps[5]["train/momentum"] == pytest.approx(0.95)
    assert 0 < steps[1]["train/feature_std"] < 1.5


def test_moco_v3__schedules_end_with_max_steps_too() -> None:
    by_steps = train(MoCoV3(**RECIPES["vit-adamw"]), max_epochs=-1, max_steps=STEPS_PER_EPOCH * EPOCHS).steps
    by_epochs = train(MoCoV3(**RECIPES["vit-adamw"])).steps
    assert by_steps == by_epochs


def test_moco_v3__accumulated_batches_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"trainer\.accumulate_grad_batches is 2: .* contrasted .* data\.batch_size"):
        train(MoCoV3(**RECIPES["vit-adamw"]), batches(4), accumulate_grad_batches=2)


def test_moco_v3__knn_of_separable_classes() -> None:
    colours = torch.tensor([[250, 0, 0], [0, 250, 0], [0, 0, 250]], dtype=torch.uint8)

    def labelled(count: int) -> DataLoader:
        labels = torch.arange(count) % 3
        noise = torch.randint(0, 5, (count, 3, 16, 16), generator=torch.Generator().manual_seed(count))
        rows = [
            {"image": colours[label].view(3, 1, 1) + noise[i].byte(), "label": label, "index": torch.tensor(i)}
            for i, label in enumerate(labels)
        ]
        return DataLoader(rows, batch_size=4)

    module = MoCoV3(**RECIPES["vit-adamw"])
    train(module, batches(1), [labelled(12), labelled(9)], max_epochs=1)
    assert float(module.trainer.callback_metrics["val/knn_top1"]) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0}, r"model\.temperature"),
        ({"base_momentum": 2}, r"model\.base_momentum"),
        ({"optimizer": "sgd"}, r"model\.optimizer.*adamw, lars"),
        ({"weight_decay": -1}, r"model\.weight_decay"),
    ],
)
def test_moco_v3__wrong_settings_name_their_key(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoCoV3(**{**RECIPES["vit-adamw"], **wrong})


@pytest.mark.parametrize("name", RECIPES)
def test_moco_v3__continues_exactly_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    saving = {"callbacks": [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)], "enable_checkpointing": True}
    whole = train(MoCoV3(**RECIPES[name]), **saving).steps
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*exists and is not empty")
        resumed = train(MoCoV3(**RECIPES[name]), ckpt_path=tmp_path / "epoch=0.ckpt", **saving).steps
    assert [step["train/loss"] for step in resumed] == [step["train/loss"] for step in whole[STEPS_PER_EPOCH:]]


def test_moco_v3__two_ranks_share_batches_and_agree(two_ranks, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for number in range(9):
        (photos / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / "ab"[number % 2] / f"{number}.png")

    def work(rank: int) -> None:
        module = MoCoV3(**RECIPES["resnet-lars"])
        sets = {"knn_bank": str(photos), "knn_queries": str(photos)}
        data = PretrainDataModule(str(photos), batch_size=4, image_size=16, num_workers=0, **sets)
        record = Record()
        trainer = Trainer(
            accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[record],
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
        weights = torch.cat([p.detach().flatten() for p in module.parameters()])
        knn = float(trainer.callback_metrics["val/knn_top1"])
        torch.save((record.shown, weights, knn), tmp_path / f"{rank}.pt")

    two_ranks(work)
    (shown0, weights0, knn0), (shown1, weights1, knn1) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    expected = np.concatenate([epoch_order(9, 0, epoch)[:8] for epoch in range(2)]).reshape(4, 2, 2)
    np.testing.assert_array_equal(shown0, expected[:, 0])
    np.testing.assert_array_equal(shown1, expected[:, 1])
    assert torch.equal(weights0, weights1)
    assert knn0 == knn1 == 1  # every image is its own nearest neighbour, although rank 1 has one twice


def test_methods__heavy_libraries_are_imported_where_they_are_used() -> None:
    folder = Path(pas_train.__file__).parent
    files = [*folder.glob("methods/*.py"), *(folder / name for name in ("backbones.py", "heads.py", "losses.py"))]
    imports = [node for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom)]
    imports += [node for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import)]
    names = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert not {name.split(".")[0] for name in names} & {"timm", "torchvision", "lightly", "cv2", "numba"}
