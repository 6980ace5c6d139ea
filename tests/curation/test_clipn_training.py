"""Training of the `no` tower on a few pictures of a tiny model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from curation.clipn import clipn_losses, load_no_branch
from curation.clipn_training import TrainNoBranch
from tests.tiny import save_clip

pytest.importorskip("open_clip")
CAPTIONS = ["a red square", "a blue circle", "green noise", "a red square"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip", no_branch=False)


def pairs(part: slice = slice(None)) -> DataLoader:
    """The same batch for ever."""
    images = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = {"image": images[part], "caption": CAPTIONS[part]}
    return DataLoader([batch] * 200, batch_size=None)


class Watched(TrainNoBranch):
    """Keeps the losses and the first gradients."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.losses: list[float] = []
        self.gradients: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.losses.append(float(self.trainer.callback_metrics["train/loss"]))
        if not self.gradients:
            self.gradients = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}


def fit(model: TrainNoBranch, folder: Path, steps: int = 1, loader: DataLoader | None = None, **options: Any) -> None:
    Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, **options,
    ).fit(model, loader or pairs())  # fmt: skip


def test_train_no_branch__learns_only_the_no_tower(folder: Path, tmp_path: Path) -> None:
    model = Watched(str(folder), None, lr=3e-3, logit_scale=10)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    fit(model, tmp_path, steps=40)
    assert model.losses[-1] < 0.8 * model.losses[0]
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert set(model.gradients) == {f"branch.{name}" for name, _ in model.branch.named_parameters()}
    assert all(name.startswith("branch.") for name in model.state_dict())  # nothing frozen in a checkpoint


def test_train_no_branch__writes_a_file_that_loads(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = TrainNoBranch(str(folder), None)
    fit(model, tmp_path)
    path = tmp_path / "no_branch.safetensors"
    assert f"no branch   {path}" in capsys.readouterr().out
    loaded = load_no_branch(model.encoder.model, path)
    assert all(torch.equal(value, model.branch.state_dict()[name]) for name, value in loaded.state_dict().items())
    fit(TrainNoBranch(str(folder), None, output=str(tmp_path / "elsewhere.safetensors")), tmp_path)
    assert (tmp_path / "elsewhere.safetensors").exists()


def test_train_no_branch__first_loss_is_that_of_equal_towers(folder: Path, tmp_path: Path) -> None:
    model = Watched(str(folder), None)
    images, captions = (next(iter(pairs()))[name] for name in ("image", "caption"))
    with torch.no_grad():
        image, text = model.encoder.embed_images(images), model.encoder.embed_texts(captions)
    same = torch.eye(4, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True  # the same caption twice
    expected, parts = clipn_losses(image, text, text, torch.tensor(100.0), same)
    assert float(parts["yes"]) == pytest.approx(float(parts["no"])) == pytest.approx(0.6931, abs=1e-3)
    fit(model, tmp_path)
    assert model.losses == [pytest.approx(float(expected), abs=1e-5)]


def test_train_no_branch__same_seed_same_weights(folder: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit(TrainNoBranch(str(folder), None, seed=seed), tmp_path / name, steps=3)
        weights.append((tmp_path / name / "no_branch.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_train_no_branch__optimiser_and_schedule(folder: Path, tmp_path: Path) -> None:
    model = TrainNoBranch(str(folder), None, lr=0.01, weight_decay=0.3)
    fit(model, tmp_path, steps=4)
    optimizer = model.optimizers().optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    decay, none = optimizer.param_groups
    assert (decay["weight_decay"], none["weight_decay"]) == (0.3, 0)
    assert decay["betas"] == (0.9, 0.98) and decay["eps"] == 1e-6 and decay["initial_lr"] == 0.01
    assert {p.ndim for p in none["params"]} == {1} and {p.ndim for p in decay["params"]} == {2, 3}
    assert decay["lr"] == pytest.approx(0, abs=1e-9)  # the cosine ends with the run


def test_train_no_branch__two_ranks_have_the_gradient_of_the_global_batch(
    folder: Path, tmp_path: Path, two_ranks
) -> None:
    def begun() -> Watched:
        """With a tower that differs: among equal ones the root in the loss magnifies every rounding."""
        model, generator = Watched(str(folder), None, logit_scale=None), torch.Generator().manual_seed(0)
        with torch.no_grad():
            model.branch.text_projection_no.add_(torch.randn(16, 16, generator=generator))
        return model

    whole = begun()
    fit(whole, tmp_path / "whole")

    def work(rank: int) -> None:
        model = begun()
        part = slice(2 * rank, 2 * rank + 2)
        fit(model, tmp_path / "ranks", loader=pairs(part), devices=2, strategy="ddp", use_distributed_sampler=False)
        assert model.losses == [pytest.approx(whole.losses[0], abs=1e-6)]
        for name, gradient in whole.gradients.items():
            if name != "branch.prompt_no":  # the ranks draw other prompts, all zero at first
                torch.testing.assert_close(model.gradients[name], gradient, atol=1e-6, rtol=1e-4)
        total = model.gradients["branch.prompt_no"].sum(dim=0)
        torch.testing.assert_close(total, whole.gradients["branch.prompt_no"].sum(dim=0), atol=1e-6, rtol=1e-4)

    two_ranks(work)
    assert (tmp_path / "ranks" / "no_branch.safetensors").exists()


def test_train_no_branch__factor_of_the_cosines(folder: Path) -> None:
    assert float(TrainNoBranch(str(folder), None).scale) == 100  # of the published models and of the scores
    own = TrainNoBranch(str(folder), None, logit_scale=None)
    assert float(own.scale) == pytest.approx(float(own.encoder.model.logit_scale.exp()))
    with pytest.raises(ValueError, match="model.logit_scale must be positive"):
        TrainNoBranch(str(folder), None, logit_scale=0)


def test_train_no_branch__weight_of_the_opposite_texts(folder: Path, tmp_path: Path) -> None:
    losses = []
    for weight in (1.0, 0.0):
        model = Watched(str(folder), None, opposite_weight=weight)
        fit(model, tmp_path)
        losses.append(model.losses[0])
    tso = 2 - 1e-4**0.5  # of equal towers
    assert losses[0] - losses[1] == pytest.approx(tso / 2, abs=1e-4)
    with pytest.raises(ValueError, match="model.opposite_weight must not be negative, got -1"):
        TrainNoBranch(str(folder), None, opposite_weight=-1)


def test_train_no_branch__images_seen_before_are_not_embedded_again(folder: Path, tmp_path: Path) -> None:
    again, kept = Watched(str(folder), None), Watched(str(folder), None, reuse_images=True)
    embedded: list[int] = []
    kept.encoder.model.visual.register_forward_pre_hook(lambda _, images: embedded.append(len(images[0])))
    for model in (again, kept):
        fit(model, tmp_path, steps=3)
    assert kept.losses == again.losses
    assert embedded == [4]


def test_train_no_branch__losses_are_float32_in_mixed_precision(folder: Path, tmp_path: Path) -> None:
    exact, mixed = Watched(str(folder), None), Watched(str(folder), None)
    with torch.no_grad():
        for model in (exact, mixed):  # yes and no differ by less than bfloat16 tells at 100
            model.branch.text_projection_no.mul_(1.5).add_(0.01)
    fit(exact, tmp_path)
    fit(mixed, tmp_path, precision="bf16-mixed")
    assert mixed.losses[0] == pytest.approx(exact.losses[0], rel=0.05)


@pytest.mark.parametrize("lr", [0.0, -1.0])
def test_train_no_branch__learning_rate_must_be_positive(folder: Path, lr: float) -> None:
    with pytest.raises(ValueError, match=f"model.lr must be positive, got {lr}"):
        TrainNoBranch(str(folder), None, lr=lr)


def test_train_no_branch__missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^model\.model: .* no folder with an open_clip"):
        TrainNoBranch(str(tmp_path), None)
