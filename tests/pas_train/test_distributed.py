"""Two gloo processes with half of each batch train as one process with the whole batch."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.parallel import DistributedDataParallel

from pas_train.losses import gather_rows
from pas_train.methods import NNCLR, MoCoV3
from tests.pas_train.methods.small_training import BATCH, RESNET, VIT, batches, train

SMALL = {"image_size": 16, "projector_hidden": 24, "projector_dim": 8, "warmup_epochs": 0.5}
MOCO = {**SMALL, "base_momentum": 0.9}
FRIENDS = {**SMALL, "predictor_hidden": 24, "support_size": 20, "base_lr": 0.3}
METHODS: dict[str, Callable[[], LightningModule]] = {
    "moco-vit": lambda: MoCoV3(**VIT, **MOCO, base_lr=1.5e-3),
    "moco-resnet": lambda: MoCoV3(**RESNET, **MOCO, base_lr=0.3, optimizer="lars", temperature=1.0),
    "nnclr-resnet": lambda: NNCLR(**RESNET, **FRIENDS),
    "nnclr-vit": lambda: NNCLR(**VIT, **{**FRIENDS, "base_lr": 1.5e-4}, optimizer="adamw"),
}
TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}


def photos() -> list[dict[str, torch.Tensor]]:
    """Batches of images of a colour each: embeddings of noise differ by rounding, which batch norm would blow up."""
    generator = torch.Generator().manual_seed(1)
    colours = torch.randint(0, 200, (5, 1, BATCH, 3, 2, 2), generator=generator).repeat_interleave(8, -1)
    noise = torch.randint(0, 56, (5, 2, BATCH, 3, 16, 16), generator=generator)
    views = (colours.repeat_interleave(8, -2) + noise).byte()
    return [{**batch, "views": views[number]} for number, batch in enumerate(batches())]


def of_rank(rank: int) -> list[dict[str, torch.Tensor]]:
    """The rank's half of each batch."""
    half = BATCH // 2
    own = slice(rank * half, rank * half + half)
    return [{**batch, "views": batch["views"][:, own], "index": batch["index"][own]} for batch in photos()]


class Losses(Callback):
    """The loss of each step, averaged over the ranks."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.values.append(float(gather_rows(outputs["loss"].detach().reshape(1)).mean()))


def whole_tensor(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def outcome(module: LightningModule, losses: Losses) -> dict[str, Any]:
    gradients = {name: whole_tensor(p.grad) for name, p in module.named_parameters() if p.grad is not None}
    state = {name: whole_tensor(value) for name, value in module.state_dict().items()}
    logged = float(module.trainer.callback_metrics["train/loss"])
    return {"losses": losses.values, "logged": logged, "state": state, "gradients": gradients}


def alone(module: LightningModule, callbacks: Any = (), **settings: Any) -> dict[str, Any]:
    train(module, photos(), callbacks=[losses := Losses(), *callbacks], **settings)
    return outcome(module, losses)


def both(
    two_ranks, folder: Path, module: LightningModule, callbacks: Any = (), **settings: Any
) -> list[dict[str, Any]]:
    """The outcomes on both ranks."""

    def work(rank: int) -> None:
        train(module, of_rank(rank), callbacks=[losses := Losses(), *callbacks], **{**TWO, **settings})
        torch.save(outcome(module, losses), folder / f"{rank}.pt")

    two_ranks(work)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def same(ranks: list[dict[str, Any]], whole: dict[str, Any]) -> None:
    """Losses, and the last step's gradients; gradients that are 0 but for rounding (a bias before a norm) are not."""
    largest = max(float(gradient.norm()) for gradient in whole["gradients"].values())
    for rank in ranks:
        assert rank["losses"] == pytest.approx(whole["losses"], rel=1e-5)
        assert rank["logged"] == pytest.approx(whole["logged"], rel=1e-5)
        for name, expected in whole["gradients"].items():
            wrong = float((rank["gradients"][name] - expected).norm())
            assert wrong < 1e-3 * float(expected.norm()) + 1e-6 * largest, name
    for name, value in ranks[0]["state"].items():
        assert torch.equal(value, ranks[1]["state"][name]), name


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", METHODS)
def test_two_ranks__train_as_one_with_the_whole_batch(two_ranks, tmp_path: Path, name: str, strategy: str) -> None:
    module = METHODS[name]()
    ranks = both(two_ranks, tmp_path, copy.deepcopy(module), strategy=strategy)
    whole = alone(module)
    same(ranks, whole)
    if module.optimizer_name == "lars":  # AdamW makes steps of gradients that are 0 but for rounding
        torch.testing.assert_close(ranks[0]["state"], whole["state"], atol=1e-5, rtol=1e-4)
    assert max(whole["losses"]) - min(whole["losses"]) > 0.1  # it has moved


def test_two_ranks__without_synchronised_norms_differ(two_ranks, tmp_path: Path) -> None:
    module = MoCoV3(**RESNET, **MOCO, base_lr=0.3, optimizer="lars", sync_batchnorm=False)
    ranks = both(two_ranks, tmp_path, copy.deepcopy(module))
    assert ranks[0]["losses"][0] != pytest.approx(alone(module, max_steps=1)["losses"][0], abs=1e-3)


@pytest.mark.parametrize(
    ("strategy", "name"), [("ddp", "nnclr-resnet"), ("fsdp2", "moco-vit"), ("fsdp2", "moco-resnet")]
)
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_two_ranks__checkpoints_go_on_with_one_and_back(two_ranks, tmp_path: Path, strategy: str, name: str) -> None:
    def saving(folder: str) -> dict[str, Any]:
        return {"callbacks": [ModelCheckpoint(tmp_path / folder, "{epoch}", save_top_k=-1)], "enable_checkpointing": 1}

    def new() -> LightningModule:
        return METHODS[name]()

    both(two_ranks, tmp_path, new(), strategy=strategy, **saving("two"))
    whole = alone(new(), **saving("one"))["losses"]
    on_one = alone(new(), ckpt_path=tmp_path / "two" / "epoch=0.ckpt", **saving("on-one"))
    path = tmp_path / "one" / "epoch=0.ckpt"
    on_two = both(two_ranks, tmp_path, new(), strategy=strategy, ckpt_path=path, **saving("on-two"))
    assert on_one["losses"] == pytest.approx(whole[5:], rel=1e-5)
    assert on_two[0]["losses"] == pytest.approx(whole[5:], rel=1e-5)


@pytest.mark.filterwarnings("error:`broadcast_buffers` is deprecated")
def test_two_ranks__settings_of_ddp(two_ranks) -> None:
    class Look(Callback):
        def on_train_start(self, trainer, module) -> None:
            assert isinstance(trainer.strategy.model, DistributedDataParallel)
            assert trainer.strategy.model.gradient_as_bucket_view and not trainer.strategy.model.broadcast_buffers

    module = METHODS["nnclr-resnet"]()
    two_ranks(lambda rank: train(module, of_rank(rank), callbacks=[Look()], **TWO, max_steps=1) and None)


def test_training__trainers_own_synchronised_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.sync_batchnorm is true.*model\.sync_batchnorm"):
        train(METHODS["moco-resnet"](), sync_batchnorm=True, strategy="ddp", devices=1)
    torch.distributed.destroy_process_group()


def test_two_ranks__channels_last_of_shards_is_refused(two_ranks) -> None:
    module = MoCoV3(**RESNET, **MOCO, channels_last=True)

    def work(rank: int) -> None:
        with pytest.raises(ValueError, match=r"model\.channels_last is true, .*use ddp"):
            train(module, of_rank(rank), **{**TWO, "strategy": "fsdp2"})

    two_ranks(work)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at shards
def test_two_ranks__compiled_shards_train_as_one(two_ranks, tmp_path: Path) -> None:
    module = MoCoV3(**VIT, **MOCO, base_lr=1.5e-3, compile="eager")
    ranks = both(two_ranks, tmp_path, copy.deepcopy(module), strategy="fsdp2", max_epochs=1)
    same(ranks, alone(MoCoV3(**VIT, **MOCO, base_lr=1.5e-3), max_epochs=1))
