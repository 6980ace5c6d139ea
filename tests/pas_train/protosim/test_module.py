"""ProtoSim's training with a tiny transformer."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from datamodules.multi_crop import MultiCropDataModule
from pas_train.protosim import ProtoSim
from tests.pas_train.planted import save_set

TINY = {"depth": 1, "patch_size": 8, "embed_dim": 48, "num_heads": 3}
SIZES = {"prototypes": 24, "output_dim": 32, "hidden_dim": 16, "bottleneck_dim": 8, "image_size": 32}


def made(**settings: Any) -> ProtoSim:
    options = {"backbone_options": TINY, "weights": None, **SIZES, "warmup_epochs": 0, "base_lr": 0.05, **settings}
    return ProtoSim(options.pop("backbone", "vit_tiny_patch16_224"), **options)


class Watched(ProtoSim):
    """Keeps the losses."""

    losses: list[float]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.losses = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        result = super().training_step(batch, batch_idx)
        self.losses.append(float(result["loss"].detach()))
        return result


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    home = tmp_path_factory.mktemp("sets")
    return [str(save_set(home / "plain", 8, 0)), str(save_set(home / "checked", 8, 1, planted=True))]


def fit(
    model: ProtoSim, pictures: list[str], epochs: int, folder: Path | None = None, start: Path | None = None,
    **options: Any,
) -> Any:  # fmt: skip
    data = MultiCropDataModule(pictures, 8, 32, small_size=16, small_crops=2, num_workers=0)
    saved = [ModelCheckpoint(folder, save_top_k=-1, filename="{step}")] if folder is not None else []
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=bool(saved), callbacks=saved,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        **options,
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=start, weights_only=False)
    return trainer


def test_protosim__learns_prototypes_block_and_head_alone(pictures: list[str]) -> None:
    model = made()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, pictures, 2)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("vit.") for name in changed)
    expected = {"prototypes", "block.norm1.weight", "block.mlp.fc1.weight", "head.layers.0.weight"}
    assert {f"{part}.{name}" for part in ("student", "teacher") for name in expected} < changed
    assert "student.head.last_layer.weight_v" in changed and "student.head.last_layer.weight_g" not in changed
    assert "loss.center" in changed


def test_protosim__the_last_layer_waits_an_epoch(pictures: list[str]) -> None:
    model = made()
    before = model.student.head.last_layer.weight_v.detach().clone()
    fit(model, pictures, 1)
    assert torch.equal(model.student.head.last_layer.weight_v, before)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_protosim__goes_on_with_the_losses_it_would_have_had(pictures: list[str], tmp_path: Path) -> None:
    settings = {**SIZES, "backbone_options": TINY, "weights": None, "warmup_epochs": 0, "hard_from": 1}
    whole, again = (Watched("vit_tiny_patch16_224", **settings) for _ in range(2))
    fit(whole, pictures, 3, tmp_path / "run" / "checkpoints")
    torch.rand(7)  # the state of the global generator must not matter
    fit(again, pictures, 3, tmp_path / "run" / "checkpoints", tmp_path / "run" / "checkpoints" / "step=2.ckpt")
    assert len(whole.losses) == 6 and again.losses == whole.losses[2:]
    assert torch.equal(again.teacher.prototypes, whole.teacher.prototypes)


def test_protosim__two_ranks_train_one_model_and_compare_together(
    pictures: list[str], tmp_path: Path, two_ranks: Any
) -> None:
    def work(rank: int) -> None:
        model = made()
        fit(model, pictures, 2, tmp_path / "run" / "checkpoints", devices=2, strategy="ddp")
        torch.save(model.state_dict(), tmp_path / f"{rank}.pt")

    two_ranks(work)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["student.prototypes"], made().student.prototypes)
    assert (tmp_path / "run" / "protosim" / "protosim.json").is_file()


def test_prototype_head__hard_draws_are_one_prototype_each() -> None:
    model = made(drop_path=0.0)
    tokens = model.vit(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    with model.drawing(0):
        given = model.student(tokens, model.vit, 1.0, True)
    with model.drawing(0):
        noisy = F.gumbel_softmax(tokens @ model.student.prototypes.T, tau=1.0, hard=False, dim=-1)
    seen = model.student.prototypes[noisy.argmax(-1)]
    expected = model.student.head(model.vit.norm(model.student.block(seen))[:, 0])
    assert torch.allclose(given, expected, atol=1e-5)


def test_prototype_head__products_made_twice_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(drop_path=0.0)
    tokens = model.vit(torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8))
    monkeypatch.setattr("pas_train.protosim.model.DRAWN_PRODUCTS", 2 * 17 * 24)  # two images
    gradients = []
    for _ in range(2):
        model.student.zero_grad()
        with model.drawing(0):
            out = model.student(tokens, model.vit, 1.0, True)
        torch.rand(5)  # what the backward pass draws again must not come from here
        out.square().sum().backward()
        gradients.append((out.detach(), model.student.prototypes.grad))
        monkeypatch.setattr("pas_train.protosim.model.checkpoint", lambda draw, *rest, use_reentrant: draw(*rest))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.allclose(gradients[0][1], gradients[1][1], atol=1e-6) and gradients[0][1].abs().max() > 0


def test_assign__is_the_largest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pas_train.protosim.model.BLOCK_PRODUCTS", 24 * 5)  # many blocks
    model = made()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    products = torch.einsum("ntd,pd->ntp", model.vit(images), model.teacher.prototypes)
    assert torch.equal(model.assign(images), products.argmax(-1)) and model.assign(images).shape == (3, 17)


def test_frozen_transformer__takes_small_crops_and_leaves_registers_out() -> None:
    model = made(backbone="vit_small_patch14_reg4_dinov2", backbone_options={**TINY, "patch_size": 8, "depth": 1})
    assert model.vit.backbone.num_prefix_tokens == 5
    assert model.vit(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 17, 48)
    assert model.vit(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).shape == (1, 5, 48)


def test_clipping__is_of_each_tensor_by_itself() -> None:
    model = made(clip=2.0)
    for parameter in model.student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    large, small = model.student.prototypes, model.student.block.attn.proj.bias
    large.grad, small.grad = torch.full_like(large, 1.0), torch.full_like(small, 0.01)
    model.on_before_optimizer_step(None)  # type: ignore[arg-type]
    assert float(large.grad.norm()) == pytest.approx(2.0, rel=1e-4) and float(small.grad[0]) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet18"}, "model.backbone: resnet18 is no vision transformer"),
        ({"backbone": "vit_tiny_patch17_224"}, "timm has no model"),
        ({"weights": "nowhere.pth"}, "model.weights: nowhere.pth does not exist"),
        ({"heads": "nowhere.pth"}, "model.heads: nowhere.pth does not exist.*dino_deitsmall16_pretrain_full"),
        ({"backbone_options": {**TINY, "drop_path_rate": 0.1}}, "drop_path_rate would change a transformer"),
        ({"prototypes": 1}, "model.prototypes must be at least 2"),
        ({"temperature": 0.0}, "model.temperature"),
        ({"momentum": 1.5}, "momentum"),
    ],
)
def test_protosim__wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        made(**settings)


def save_dino(path: Path, teacher: bool = True) -> dict[str, dict[str, Tensor]]:
    """DINO's full checkpoint in small: the heads' keys as published."""
    shapes = {"mlp.0": (16, 48), "mlp.2": (16, 16), "mlp.4": (8, 16)}
    parts = {}
    for part, prefix in (("student", "module."), ("teacher", ""))[: 1 + teacher]:
        generator = torch.Generator().manual_seed(len(prefix))
        state = {}
        for name, shape in shapes.items():
            state[f"{prefix}head.{name}.weight"] = torch.randn(shape, generator=generator)
            state[f"{prefix}head.{name}.bias"] = torch.randn(shape[0], generator=generator)
        state[f"{prefix}head.last_layer.weight_g"] = torch.ones(32, 1)
        state[f"{prefix}head.last_layer.weight_v"] = torch.randn(32, 8, generator=generator)
        parts[part] = state
    torch.save({**parts, "epoch": 5}, path)
    return parts


def test_heads__student_and_teacher_begin_with_their_own(tmp_path: Path) -> None:
    parts = save_dino(tmp_path / "full.pth")
    model = made(heads=str(tmp_path / "full.pth"))
    assert torch.equal(model.student.head.layers[2].weight, parts["student"]["module.head.mlp.2.weight"])
    assert torch.equal(model.teacher.head.layers[2].weight, parts["teacher"]["head.mlp.2.weight"])
    assert torch.equal(model.teacher.head.last_layer.weight_v, parts["teacher"]["head.last_layer.weight_v"])


def test_heads__a_file_without_them_is_named(tmp_path: Path) -> None:
    save_dino(tmp_path / "half.pth", teacher=False)
    with pytest.raises(ValueError, match="half.pth has no teacher; give DINO's full checkpoint"):
        made(heads=str(tmp_path / "half.pth"))
    save_dino(tmp_path / "full.pth")
    with pytest.raises(ValueError, match="student's head does not fit .*set model.output_dim"):
        made(heads=str(tmp_path / "full.pth"), output_dim=64)
