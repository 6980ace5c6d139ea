import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from pas_train.checkpointing import Checkpoints
from pas_train.methods import NNCLR, MoCoV3
from pas_train.watch import Watch, feature_std, rankme
from tests.pas_train.methods.small_training import BATCH, RESNET, VIT, batches, train

SMALL = {"image_size": 16, "projector_hidden": 24, "projector_dim": 8, "base_lr": 0.02, "warmup_epochs": 0}
LOOK = 64 // BATCH  # steps that give the fewest embeddings of a look


class Goes(MoCoV3):
    """A small training in which something goes wrong after some steps."""

    def __init__(self, wrong: Callable[[MoCoV3, dict], None], after: int = 0) -> None:
        super().__init__(**VIT, **SMALL)
        self.wrong, self.after = wrong, after

    def training_step(self, batch: dict, batch_idx: int) -> dict:
        output = super().training_step(batch, batch_idx)
        if self.trainer.global_step >= self.after:
            self.wrong(self, output)
        return output


def no_number(module: MoCoV3, output: dict) -> None:
    output["loss"] = output["loss"] * float("nan")


def nothing(module: MoCoV3, output: dict) -> None:
    pass


def own_directions(module: MoCoV3, output: dict) -> None:
    output["embeddings"] = torch.eye(16)[module.global_rank * BATCH :][:BATCH]


def one_place(module: MoCoV3, output: dict) -> None:
    output["embeddings"] = torch.ones_like(output["embeddings"])


def few_directions(module: MoCoV3, output: dict) -> None:
    signs = torch.where(torch.arange(BATCH) % 2 == 0, 1.0, -1.0)
    output["embeddings"] = signs[:, None] * torch.ones_like(output["embeddings"])


def test_rankme__counts_the_directions_in_use() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 40, generator=generator) * torch.linspace(0.01, 3, 40)
    for embeddings in (rows, rows[:20]):
        values = torch.linalg.svdvals(embeddings.double())
        shares = values / values.sum() + 1e-7
        assert float(rankme(embeddings)) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-4)
    assert float(rankme(torch.eye(16).repeat(5, 1) * 7)) == pytest.approx(16, rel=1e-3)
    assert float(rankme(torch.ones(100, 16))) == pytest.approx(1, rel=1e-3)
    assert float(rankme(torch.zeros(100, 16))) == pytest.approx(1, rel=1e-3)


def test_feature_std__is_one_for_all_directions_and_zero_for_one_place() -> None:
    rows = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    assert float(feature_std(rows)) == pytest.approx(1, abs=0.02)
    assert float(feature_std(torch.ones(100, 32))) == pytest.approx(0, abs=1e-6)


def test_watch__loss_that_is_no_number_stops_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    saving = {"callbacks": [Checkpoints(every_n_train_steps=1, dirpath=str(tmp_path))], "enable_checkpointing": True}
    with pytest.raises(ValueError, match=r"not a finite number at step 4, epoch 0\.80\. Lower model\.base_lr \(0\.02\)"
                       r".*model\.warmup_epochs.*trainer\.precision.*step=2\.ckpt.*--ckpt_path"):  # fmt: skip
        train(Goes(no_number, after=3), log_every_n_steps=2, **saving)


def test_watch__loss_that_is_no_number_is_not_saved() -> None:
    module, watch = Goes(one_place), Watch()
    train(module, batches(2), callbacks=[watch], max_epochs=1)
    watch._losses = [torch.tensor(float("inf"))]
    with pytest.raises(ValueError, match="not a finite number"):
        watch.on_save_checkpoint(module.trainer, module, {})


@pytest.mark.parametrize(
    ("wrong", "cause"), [(one_place, r"is 0\.0000 \(about 1"), (few_directions, r"rank 1\.0 of 16")]
)
def test_watch__collapse_stops_with_cause_remedy_and_checkpoint(wrong: Callable, cause: str, tmp_path: Path) -> None:
    saving = {
        "callbacks": [Watch(LOOK, 64, looks=2), Checkpoints(every_n_train_steps=LOOK, dirpath=str(tmp_path), keep=9)]
    }
    module = Goes(wrong, after=LOOK)
    with (
        pytest.warns(UserWarning, match="have collapsed at step 16.*after 2 such looks"),
        pytest.raises(ValueError, match=rf"have collapsed at step 24, .*{cause}.*model\.base_lr.*data\.batch_size.*"
                      r"step=8\.ckpt.*--ckpt_path.*watch\.stop_on_collapse"),
    ):  # fmt: skip
        train(module, batches(40), max_epochs=1, enable_checkpointing=True, **saving)


def test_watch__collapse_is_only_named_where_it_need_not_stop() -> None:
    with pytest.warns(UserWarning, match="have collapsed") as warned:
        train(Goes(one_place), batches(4 * LOOK), max_epochs=1, callbacks=[Watch(LOOK, 64, stop_on_collapse=False)])
    assert len([1 for warning in warned if "collapsed" in str(warning.message)]) == 1


def test_watch__untrained_backbone_is_no_collapse() -> None:
    module = Goes(one_place)
    module.warmup_epochs = 2
    train(module, batches(4 * LOOK), max_epochs=1, callbacks=[Watch(LOOK, 64, looks=1)])


def test_watch__logs_spread_and_rank_of_each_source(tmp_path: Path) -> None:
    data = [{**batch, "synthetic": torch.arange(BATCH) % 2 == 0} for batch in batches(2 * LOOK)]
    train(Goes(one_place, 99), data, max_epochs=1, logger=CSVLogger(tmp_path, "", ""), callbacks=[Watch(LOOK, 64)])
    rows = list(csv.DictReader(open(tmp_path / "metrics.csv")))
    ranks = [row for row in rows if row["train/rankme"]]
    assert [int(row["step"]) for row in ranks] == [LOOK - 1, 2 * LOOK - 1]
    for row in ranks:
        whole, real, made = (float(row[f"train/rankme{name}"]) for name in ("", "/real", "/synthetic"))
        assert 1 < real <= 16 and 1 < made <= 16 and 1 < whole <= 16 and real != made
    spreads = [row for row in rows if row["train/feature_std"]]
    assert len(spreads) == 2 * LOOK and all(row["train/feature_std/synthetic"] for row in spreads)


TWO = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}


def test_watch__sees_the_embeddings_and_counts_of_all_ranks(two_ranks: Callable) -> None:
    def work(rank: int) -> None:
        module = Goes(own_directions)
        data = [{**batch, "replaced": torch.tensor([rank]), "synthetic": torch.arange(BATCH) % 2 == rank}
                for batch in batches(LOOK)]  # fmt: skip
        train(module, data, max_epochs=1, callbacks=[Watch(LOOK, 64)], **TWO)
        logged = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
        assert logged["train/rankme"] == pytest.approx(16, rel=1e-3)
        assert logged["train/rankme/real"] == pytest.approx(8, rel=1e-3)
        assert logged["train/replaced_images"] == LOOK

    two_ranks(work)


def test_watch__loss_that_is_no_number_on_one_rank_stops_all(two_ranks: Callable, tmp_path: Path) -> None:
    """Also where it is found because a checkpoint is to be saved."""

    class Save(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    def work(rank: int) -> None:
        module = Goes(no_number if rank else nothing, after=2)
        with pytest.raises(ValueError, match=r"not a finite number at step 3, .*No good checkpoint was saved"):
            train(module, callbacks=[Save()], log_every_n_steps=100, **TWO)
        assert not (tmp_path / "a.ckpt").exists()

    two_ranks(work)


def test_watch__counts_replaced_images() -> None:
    data = [{**batch, "replaced": torch.tensor([2])} for batch in batches(3)]
    module = Goes(one_place, 99)
    train(module, data, max_epochs=2)
    assert float(module.trainer.callback_metrics["train/replaced_images"]) == 12


class Judged(LightningModule):
    """Logs given k-NN accuracies, one a validation."""

    base_lr, warmup_epochs, accuracies = 0.1, 0, (0.5, 0.8, 0.65, 0.5, 0.4, 0.7)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> dict:
        return {"loss": self.layer(batch).mean()}

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/knn_top1", self.accuracies[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_watch__names_a_knn_accuracy_that_falls_once() -> None:
    rows = [{"index": torch.arange(1), "x": torch.ones(1)}]
    module = Judged()
    module.training_step = lambda batch, batch_idx: {"loss": module.layer(batch["x"]).mean()}
    with pytest.warns(
        UserWarning, match=r"k-NN accuracy fell to 50\.0 % at step 4, from 80\.0 %.*model\.base_lr"
    ) as warned:
        train(module, rows, DataLoader([torch.ones(1)]), max_epochs=6, callbacks=[Watch()])
    assert len([1 for warning in warned if "k-NN" in str(warning.message)]) == 1


def test_watch__goes_on_with_what_it_had_seen() -> None:
    before, after = Watch(), Watch()
    before._bad_looks, before._healthy_step, before._best_knn = 2, 400, 0.7
    after.load_state_dict(before.state_dict())
    assert (after._bad_looks, after._healthy_step, after._best_knn, after._fallen) == (2, 400, 0.7, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": 0}, r"watch\.every_n_steps must be at least 1, got 0"),
        ({"rows": 10}, r"watch\.rows must be at least 64"),
        ({"min_rankme": -1}, r"watch\.min_rankme"),
        ({"knn_fall": 1.5}, r"watch\.knn_fall must be between 0 and 1"),
    ],
)
def test_watch__wrong_settings_name_their_key(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Watch(**settings)


class Reads(TorchDispatchMode):
    """Counts the values that Python reads from tensors: on a GPU each waits for all that is queued."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "module",
    [
        lambda: MoCoV3(**VIT, **SMALL),
        lambda: MoCoV3(**RESNET, **SMALL, optimizer="lars"),
        lambda: NNCLR(
            **RESNET, image_size=16, projector_hidden=24, projector_dim=8, predictor_hidden=24, support_size=32
        ),
    ],
    ids=["vit-adamw", "resnet-lars", "nnclr"],
)
def test_training_step__reads_nothing_from_the_device_between_two_logs(module: Callable[[], LightningModule]) -> None:
    class Counted(Callback):
        counts: list[int] = []

        def on_train_batch_end(self, trainer, *_) -> None:
            self.counts.append(reads.count)

    reads, counted = Reads(), Counted()
    counted.counts = []
    data = [{**batch, "synthetic": torch.zeros(BATCH, dtype=torch.bool)} for batch in batches(20)]
    with reads:
        train(module(), data, max_epochs=1, log_every_n_steps=10, callbacks=[counted], record=False)
    steps = [b - a for a, b in zip(counted.counts[:-1], counted.counts[1:], strict=True)]
    assert sum(steps[:8]) == 0 and sum(steps[10:18]) == 0, steps
    assert reads.count > 0  # the logs do read
