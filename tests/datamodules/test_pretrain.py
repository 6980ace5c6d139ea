import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

from datamodules.indexing import index_pool
from datamodules.pretrain import PretrainDataModule
from datamodules.rows import read_rows
from datamodules.sources import SourceItem
from datamodules.views import VIEW_2, ViewSettings

pytestmark = pytest.mark.filterwarnings("ignore:.*exists and is not empty")  # a run that continues saves there, too

COUNT, BATCH, STEPS, EPOCHS = 22, 4, 5, 3


def encoded(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 images, half of them in a tar shard."""
    path = tmp_path_factory.mktemp("pool")
    for number in range(0, COUNT, 2):
        (path / f"{number:03d}.png").write_bytes(encoded(number))
    with tarfile.open(path / "images.tar", "w") as tar:
        for number in range(1, COUNT, 2):
            member = tarfile.TarInfo(f"{number:03d}.png")
            member.size = len(encoded(number))
            tar.addfile(member, io.BytesIO(encoded(number)))
    return path


def data(source: Path | list, **settings) -> PretrainDataModule:
    options = {"batch_size": BATCH, "image_size": 16, "num_workers": 0, "seed": 5}
    return PretrainDataModule(source if isinstance(source, list) else str(source), **{**options, **settings})


def batches(module: PretrainDataModule) -> list[dict[str, torch.Tensor]]:
    module.setup("fit")
    return list(module.train_dataloader())


class Recorder(LightningModule):
    """One weight that depends on all that came before, so that equal losses mean equal histories."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.losses: dict[int, float] = {}
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        views = batch["views"].double()
        weights = torch.arange(views.numel(), dtype=torch.float64).view(views.shape).cos()
        loss = (views * weights).mean() * (self.weight + batch_idx)
        self.losses[self.trainer.fit_loop.total_batch_idx] = loss.item()
        self.seen.append(batch["index"].tolist())
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        raise AssertionError("there is nothing to validate on")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def fit(module: Recorder, datamodule: PretrainDataModule, ckpt_path: Path | None = None, **settings) -> Trainer:
    options = {"max_epochs": EPOCHS, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "enable_checkpointing": "callbacks" in settings}
    trainer = Trainer(**{**options, **settings})
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
    return trainer


def saving(folder: Path, **settings) -> dict[str, list[ModelCheckpoint]]:
    options = settings or {"every_n_train_steps": 1}
    return {"callbacks": [ModelCheckpoint(folder, "{epoch}-{step}", save_top_k=-1, **options)]}


def test_pretrain__batches_of_a_folder_with_shards(folder: Path) -> None:
    found = batches(data(folder))
    assert len(found) == STEPS
    assert found[0]["views"].shape == (2, BATCH, 3, 16, 16) and found[0]["views"].dtype == torch.uint8
    indices = torch.cat([batch["index"] for batch in found])
    assert indices.dtype == torch.int64 and len(set(indices.tolist())) == STEPS * BATCH
    assert (found[0]["views"][0] != found[0]["views"][1]).any()


def test_pretrain__views_are_of_their_image(folder: Path) -> None:
    plain = ViewSettings(jitter=0, grey=0, blur=0, flip=0, crop_min=1.0, aspect_min=0.5, aspect_max=2.0)
    module = data(folder, view1=plain, view2=plain, image_size=20)
    batch = batches(module)[0]
    keys = module.rows.table["key"].to_pylist()
    for image, row in zip(batch["views"][0], batch["index"], strict=True):
        number = int(Path(keys[row]).stem)
        whole = np.asarray(Image.open(io.BytesIO(encoded(number))).resize((20, 20), Image.Resampling.BILINEAR))
        assert np.abs(image.numpy().transpose(1, 2, 0).astype(int) - whole).mean() < 20  # crop differs a little


def test_pretrain__manifest_equals_its_folder(folder: Path, tmp_path: Path) -> None:
    table = index_pool(folder)
    failed = pa.table({**{name: [None] for name in table.schema.names}, "key": ["zz"], "root": ["pool"]}, table.schema)
    pq.write_table(pa.concat_tables([table, failed]), tmp_path / "manifest.parquet")
    (tmp_path / "roots.json").write_text(json.dumps({"pool": str(folder)}))
    from_manifest, from_folder = data(tmp_path / "manifest.parquet"), data(folder)
    for one, two in zip(batches(from_manifest), batches(from_folder), strict=True):
        assert torch.equal(one["views"], two["views"]) and torch.equal(one["index"], two["index"])
    assert from_manifest.state_dict() == from_folder.state_dict()


def test_pretrain__workers_change_nothing(folder: Path) -> None:
    for one, two in zip(batches(data(folder)), batches(data(folder, num_workers=2)), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_pretrain__unreadable_images_are_replaced_and_counted(folder: Path, tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encoded(number) if number % 4 else b"damaged")
    batch = batches(data(tmp_path, batch_size=8))[0]
    assert batch["replaced"].item() == 2
    assert sorted(batch["index"].tolist()) == [1, 1, 2, 3, 5, 5, 6, 7]


@pytest.mark.parametrize("workers", [0, 1])
def test_pretrain__unreadable_images_are_named_once(tmp_path: Path, workers: int) -> None:
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encoded(number) if number % 4 > 1 else b"damaged")
    with pytest.warns(UserWarning) as told:
        fit(Recorder(), data(tmp_path, num_workers=workers), max_epochs=2)
    named = [str(warning.message) for warning in told if "cannot be read" in str(warning.message)]
    assert len(named) == 1 and named[0].count("not_an_image") == 3
    assert sum(f"{tmp_path}/{bad}.png: not_an_image" in named[0] for bad in range(8)) == 3  # each once


def test_pretrain__every_rank_names_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    with pytest.warns(UserWarning, match=r"data\.source: .*the first: a\.png: truncated; b\.png"):
        assert data(folder).on_before_batch_transfer({"unreadable": ["a.png: truncated", "b.png"]}, 0) == {}


def test_pretrain__nothing_readable_is_an_error(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"data\.source: 4 images in a row cannot be read.*not_an_image"):
        batches(data(tmp_path))


def test_pretrain__more_workers_than_cores_are_named_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    module = data(folder, num_workers=8)
    with pytest.warns(UserWarning) as told:
        assert len(batches(module)) == STEPS
        module.predict_dataloader()
    said = [str(warning.message) for warning in told]
    assert len(said) == 1 and "data.num_workers is 8, but this machine lends 2 cores" in said[0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limits", [{}, {"max_epochs": -1, "max_steps": EPOCHS * STEPS}])
def test_pretrain__continues_exactly_from_every_step(folder: Path, tmp_path: Path, workers: int, limits: dict) -> None:
    whole = Recorder()
    fit(whole, data(folder, num_workers=workers), **saving(tmp_path), **limits)
    assert sorted(whole.losses) == list(range(EPOCHS * STEPS))
    for step in (1, 5, 7, 10, 14) if not workers else (8,):  # in the middle and at the end of epochs
        resumed = Recorder()
        checkpoint = next(tmp_path.glob(f"*-step={step}.ckpt"))
        fit(resumed, data(folder, num_workers=workers), checkpoint, **saving(tmp_path), **limits)
        assert list(resumed.losses.values()) == [whole.losses[i] for i in range(step, EPOCHS * STEPS)], step
        assert resumed.seen == whole.seen[step:]


def test_pretrain__continues_from_the_end_of_an_epoch(folder: Path, tmp_path: Path) -> None:
    whole, resumed = Recorder(), Recorder()
    fit(whole, data(folder), **saving(tmp_path, every_n_epochs=1))
    fit(resumed, data(folder), tmp_path / "epoch=0-step=5.ckpt", **saving(tmp_path, every_n_epochs=1))
    assert list(resumed.losses.values()) == list(whole.losses.values())[STEPS:]


def test_pretrain__continues_with_accumulation_and_limited_batches(folder: Path, tmp_path: Path) -> None:
    options = {"accumulate_grad_batches": 2, "limit_train_batches": 3}  # 2 optimiser steps an epoch
    whole, resumed = Recorder(), Recorder()
    fit(whole, data(folder), **saving(tmp_path), **options)
    fit(resumed, data(folder), tmp_path / "epoch=1-step=3.ckpt", **saving(tmp_path), **options)
    assert resumed.seen == whole.seen[5:] and whole.seen[3:6] != whole.seen[:3]
    assert list(resumed.losses.values()) == list(whole.losses.values())[5:]


@pytest.mark.parametrize(("changed", "key"), [({"batch_size": 2}, "batch_size"), ({"seed": 6}, "seed")])
def test_pretrain__changed_data_do_not_continue(folder: Path, tmp_path: Path, changed: dict, key: str) -> None:
    trainer = fit(Recorder(), data(folder), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=rf"data\.{key} is not what the checkpoint was trained with"):
        fit(Recorder(), data(folder, **changed), tmp_path / "last.ckpt")


def test_pretrain__mixtures_continue_exactly_and_are_remembered(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for number in range(3):
        (tmp_path / "made" / f"{number}.png").write_bytes(encoded(100 + number))
    source = [SourceItem(str(folder), 1.0), SourceItem(str(tmp_path / "made"), 2.0, synthetic=True)]
    mixed = {"synthetic_share": 0.5, "epoch_images": 24}
    whole, resumed = Recorder(), Recorder()
    fit(whole, data(source, **mixed), **saving(tmp_path))  # 6 batches of 4 an epoch
    fit(resumed, data(source, **mixed), tmp_path / "epoch=1-step=8.ckpt", **saving(tmp_path))
    assert resumed.seen == whole.seen[8:] and list(resumed.losses.values()) == list(whole.losses.values())[8:]
    shown = np.array(whole.seen).reshape(3, 24)
    assert ((shown >= COUNT).sum(axis=1) == 12).all()
    with pytest.raises(ValueError, match=r"data\.source \(its weights\), synthetic_share or epoch_images is not what"):
        changed = data(source, **{**mixed, "synthetic_share": 0.25})
        fit(Recorder(), changed, tmp_path / "epoch=1-step=8.ckpt", **saving(tmp_path))


def test_pretrain__labelled_sets_for_knn(tmp_path: Path, folder: Path) -> None:
    for part, classes in (("bank", "abc"), ("queries", "ac")):
        for number, name in enumerate(classes):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "x.png").write_bytes(encoded(number))
    module = data(folder, knn_bank=str(tmp_path / "bank"), knn_queries=str(tmp_path / "queries"))
    module.setup("validate")
    bank, queries = ([batch for batch in loader] for loader in module.val_dataloader())
    assert bank[0]["image"].shape == (3, 3, 16, 16) and bank[0]["image"].dtype == torch.uint8
    assert bank[0]["label"].tolist() == [0, 1, 2] and queries[0]["label"].tolist() == [0, 2]
    assert queries[0]["index"].tolist() == [0, 1]


def test_pretrain__queries_of_the_bank_are_told(tmp_path: Path, folder: Path, capsys) -> None:
    for part, seeds in (("bank", (0, 1)), ("queries", (1, 2))):
        for number in seeds:
            (tmp_path / part / "a").mkdir(parents=True, exist_ok=True)
            (tmp_path / part / "a" / f"{part}-{number}.png").write_bytes(encoded(number))
    data(folder, knn_bank=str(tmp_path / "bank"), knn_queries=str(tmp_path / "queries")).setup("validate")
    assert "k-NN        1 of 2 images of data.knn_queries are in data.knn_bank too" in capsys.readouterr().out


def test_pretrain__says_what_will_be_shown(tmp_path: Path, folder: Path) -> None:
    assert data(folder).check(2) == "22 images, 5 steps an epoch"
    (tmp_path / "made").mkdir()
    for number in range(2):
        (tmp_path / "made" / f"{number}.png").write_bytes(encoded(100 + number))
    source = [SourceItem(str(folder), 3.0), SourceItem(str(tmp_path / "made"), 1.0, synthetic=True)]
    told = data(source).check(1)
    assert told == "22 + 2 images, 2 of them synthetic, drawn as 75 % of 22 + 25 % of 2, 6 steps an epoch"
    with pytest.raises(ValueError, match=r"data\.batch_size 4 cannot be shared among 3 devices"):
        data(folder).check(3)


def test_pretrain__a_short_epoch_is_logged(folder: Path) -> None:
    module = Recorder()
    fit(module, data(folder))
    assert module.trainer.log_every_n_steps == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 23}, r"data\.batch_size is 23, but .* has only 22 images"),
        ({"batch_size": 0}, r"data\.batch_size must be at least 1"),
        ({"knn_bank": "x"}, r"data\.knn_bank and data\.knn_queries belong together"),
        ({"synthetic_share": 1.5}, r"data\.synthetic_share must be between 0 and 1, got 1\.5"),
        ({"epoch_images": 3}, r"data\.epoch_images must be at least data\.batch_size 4, got 3"),
        ({"synthetic_share": 0.5}, r"data\.source has no synthetic image"),
        ({"num_workers": -1}, r"data\.num_workers must be at least 0, or null, got -1"),
        ({"source": None}, r"data\.source is missing"),
        ({"source": "/nowhere"}, r"data\.source: /nowhere does not exist"),
    ],
)
def test_pretrain__wrong_settings_name_their_key(folder: Path, settings: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        PretrainDataModule(**{"source": str(folder), "batch_size": 4, **settings}).setup("fit")


def test_pretrain__batch_must_be_shared_evenly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PretrainDataModule, "_ranks", lambda self: (0, 3))
    with pytest.raises(ValueError, match=r"data\.batch_size 4 cannot be shared among 3 devices"):
        data(folder).setup("fit")


def test_read_rows__folder_of_a_manifest_is_gone(tmp_path: Path, folder: Path) -> None:
    pq.write_table(index_pool(folder), tmp_path / "manifest.parquet")
    with pytest.raises(FileNotFoundError, match=r"roots\.json is missing"):
        read_rows(tmp_path / "manifest.parquet")
    (tmp_path / "roots.json").write_text(json.dumps({"pool": "/nowhere"}))
    with pytest.raises(FileNotFoundError, match=r"/nowhere.*correct roots\.json"):
        read_rows(tmp_path / "manifest.parquet")


def test_read_rows__a_parquet_file_that_is_no_manifest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"], "image": [b"x"]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"has no column root, shard, offset, size, source; .*hf:FOLDER\?column=NAME"):
        read_rows(tmp_path / "train.parquet")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"data\.source: .*cut\.parquet is no Parquet file"):
        read_rows(tmp_path / "cut.parquet")


def test_pretrain__sources_come_from_a_yaml_or_a_sweep(tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(parser_mode="omegaconf")
    parser.add_class_arguments(PretrainDataModule, "data")
    weighted = '[{"source": "a", "weight": 2}, {"source": "hf:b?split=train", "weight": 1, "synthetic": true}]'
    for text, source in {
        "torchvision:CIFAR10?root=D&train=true": "torchvision:CIFAR10?root=D&train=true",
        '["a", "hf:b?split=train"]': ["a", "hf:b?split=train"],
        weighted: [SourceItem("a", 2), SourceItem("hf:b?split=train", 1, True)],
    }.items():
        parsed = parser.parse_args([f"--data.source={text}"])
        assert parser.instantiate(parsed).data.source == source
        (tmp_path / "again.yaml").write_text(parser.dump(parsed))  # the run's config.yaml
        assert parser.instantiate(parser.parse_path(tmp_path / "again.yaml")).data.source == source


def test_pretrain__settings_come_from_a_yaml_and_the_command_line() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(PretrainDataModule, "data")
    parsed = parser.parse_args(["--data.view2.blur=0.7", "--data.limits.max_pixels=99", "--data.batch_size=8"])
    module = parser.instantiate(parsed).data
    assert module.views[1] == ViewSettings(**{**VIEW_2.__dict__, "blur": 0.7})
    assert module.limits.max_pixels == 99 and module.views[0] == ViewSettings()
