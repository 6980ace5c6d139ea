"""Mistakes end with one paragraph that names the key or the file and the remedy, and with nothing lost."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.pas_train.small_project import last, refused, settings

Said = pytest.CaptureFixture[str]


def changed(home: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A folder with small.yaml after a change of its values."""
    values = settings(home)
    change(values)
    (folder / "small.yaml").write_text(yaml.safe_dump(values))
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "key", "message"),
    [
        ("fit", "--curation.duplicates.treshold", "unknown key curation.duplicates.treshold; did you mean threshold?"),
        (
            "curate",
            "--curation.duplicates.treshold",
            "unknown key curation.duplicates.treshold; did you mean threshold?",
        ),
        ("predict", "--outputs", "unknown key outputs; did you mean output"),
        ("fit", "--workspac", "unknown key workspac; did you mean workspace?"),  # no abbreviation
        ("select", "--workspac", "unknown key workspac; did you mean workspace"),
    ],
)
def test_unknown_key__on_the_command_line(
    home: Path, tmp_path: Path, capsys: Said, command: str, key: str, message: str
) -> None:
    more = ["--size", "5"] if command == "select" else []
    assert message in refused(capsys, command, home, tmp_path / "ws", key, "0.5", *more)
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("command", ["fit", "curate", "select", "trace"])
def test_unknown_key__at_the_top_of_a_yaml(home: Path, tmp_path: Path, capsys: Said, command: str) -> None:
    changed(home, tmp_path, lambda values: values.update(curration={"domain": "cats"}))
    more = {"select": ["--size", "5"], "trace": ["a.png"]}.get(command, [])
    said = refused(capsys, command, tmp_path, tmp_path / "ws", *more)
    assert f"unknown key curration.domain in {tmp_path}/small.yaml; did you mean curation?" in said


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("model", "temprature", "unknown key model.init_args.temprature in {file}; did you mean temperature"),
        ("data", "batchsize", "unknown key data.init_args.batchsize in {file}; did you mean batch_size?"),
        ("model", "frozen_patchs", "unknown key model.init_args.frozen_patchs in {file}; did you mean frozen_patches?"),
    ],
)
def test_unknown_key__in_a_section_of_a_yaml(
    home: Path, tmp_path: Path, capsys: Said, section: str, key: str, message: str
) -> None:
    changed(home, tmp_path, lambda values: values[section]["init_args"].update({key: 1}))
    said = refused(capsys, "fit", tmp_path, tmp_path / "ws")
    assert message.format(file=tmp_path / "small.yaml") in said


def test_unknown_key__in_a_stage_of_a_yaml(home: Path, tmp_path: Path, capsys: Said) -> None:
    changed(home, tmp_path, lambda values: values["curation"]["embed"].update(chunkrows=3))
    for command in ("fit", "curate"):
        said = refused(capsys, command, tmp_path, tmp_path / "ws")
        assert f"unknown key curation.embed.chunkrows in {tmp_path}/small.yaml; did you mean chunk_rows?" in said


def test_wrong_type__names_key_and_value(home: Path, tmp_path: Path, capsys: Said) -> None:
    said = refused(capsys, "fit", home, tmp_path / "ws", "--trainer.max_epochs", "many")
    assert "trainer.max_epochs" in said and "many" in said
    said = refused(capsys, "curate", home, tmp_path / "ws", "--curation.duplicates.threshold", "high")
    assert "threshold" in said and "high" in said


def test_yaml__that_is_damaged_is_named(home: Path, tmp_path: Path, capsys: Said) -> None:
    wrong = {
        "model: [1, 2\n": "is no valid yaml (line 2",
        "a:\n\t- 1\n": "is no valid yaml (line 2",
        "words\n": "holds no keys",
    }
    for text, message in wrong.items():
        (tmp_path / "small.yaml").write_text(text)
        for command in ("fit", "curate"):
            assert f"--config {tmp_path}/small.yaml {message}" in refused(capsys, command, tmp_path, tmp_path / "ws")


def test_pool__missing_empty_or_broken(home: Path, tmp_path: Path, capsys: Said) -> None:
    for command in ("fit", "curate"):
        said = refused(capsys, command, home, tmp_path / "ws", "--pool", tmp_path / "nowhere")
        assert f"pool: {tmp_path}/nowhere does not exist; give a folder of images" in said
    (tmp_path / "empty").mkdir()
    said = refused(capsys, "curate", home, tmp_path / "ws2", "--pool", tmp_path / "empty")
    assert f"pool: {tmp_path}/empty holds no image" in said
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"\xff\xd8\xff")
    said = refused(capsys, "fit", home, tmp_path / "ws3", "--pool", tmp_path / "broken")
    assert "pool: none of the 1 images" in said


def test_pool__not_given(home: Path, tmp_path: Path, capsys: Said) -> None:
    changed(home, tmp_path, lambda values: values.pop("pool"))
    assert "pool is not set; give --pool" in refused(capsys, "fit", tmp_path, tmp_path / "ws")


@pytest.mark.parametrize("command", ["fit", "curate"])
def test_workspace__that_cannot_be_written(home: Path, tmp_path: Path, capsys: Said, command: str) -> None:
    (tmp_path / "file").write_text("mine")
    for workspace in (tmp_path / "file", tmp_path / "file" / "below"):
        said = refused(capsys, command, home, workspace)
        assert f"workspace: {workspace} cannot be written" in said and "--workspace" in said
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", ["fit", "curate"])
def test_workspace__of_another_configuration(home: Path, fitted: Path, capsys: Said, command: str) -> None:
    before = contents(fitted)
    said = refused(capsys, command, home, fitted, "--curation.domain", "cats")
    assert "holds the data set of another configuration (domain 'patterns', not 'cats')" in said
    assert contents(fitted) == before


@pytest.mark.parametrize("command", ["report", "select", "trace"])
def test_workspace__that_holds_nothing(home: Path, tmp_path: Path, capsys: Said, command: str) -> None:
    more = {"report": [], "select": ["--size", "5"], "trace": ["a.png"]}[command]
    said = refused(capsys, command, home, tmp_path / "ws", *more)
    assert str(tmp_path / "ws") in said and "curate" in said
    assert not (tmp_path / "ws").exists()


def test_weights__missing(home: Path, tmp_path: Path, capsys: Said) -> None:
    said = refused(capsys, "curate", home, tmp_path / "ws", "--curation.embed.copy.model", "nowhere.pt")
    assert "curation.embed.copy.model: nowhere.pt does not exist" in said
    said = refused(capsys, "curate", home, tmp_path / "ws", "--curation.embed.image_text.model", tmp_path / "clip")
    assert "curation.embed.image_text.model" in said and str(tmp_path / "clip") in said
    assert not (tmp_path / "ws" / "columns").exists()


def test_concepts__blank_and_repeated_lines(home: Path, tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "list.txt").write_text("apple\n\nbanana\nApple\n")
    said = refused(capsys, "fit", home, tmp_path / "ws", "--curation.concepts.file", tmp_path / "list.txt")
    assert f"curation.concepts.file: {tmp_path}/list.txt has blank lines 2 and repeated lines 4" in said


def test_target_size__beyond_the_pool(home: Path, curated: Path, capsys: Said) -> None:
    before = contents(curated)
    said = refused(capsys, "curate", home, curated, "--curation.select.target_size", "1000")
    assert "curation.select.target_size is 1000, but only 40" in said
    assert "--size is 41, but only 40" in refused(capsys, "select", home, curated, "--size", "41")
    assert contents(curated) == before


def test_trace__unknown_key_suggests(home: Path, fitted: Path, capsys: Said) -> None:
    assert "did you mean 005.png" in refused(capsys, "trace", home, fitted, "0005.png")


def test_select__without_a_size(home: Path, fitted: Path, capsys: Said) -> None:
    assert "size must be given" in refused(capsys, "select", home, fitted)


@pytest.mark.parametrize("command", ["evaluate", "validate", "predict"])
def test_checkpoint__not_given_or_of_another_model(home: Path, fitted: Path, capsys: Said, command: str) -> None:
    before = contents(fitted)
    assert "--ckpt_path is not set; name the checkpoint" in refused(capsys, command, home, fitted)
    more = ["--ckpt_path", last(fitted), "--model.init_args.projector_hidden", "24"]
    said = refused(capsys, command, home, fitted, *more)
    assert "was not trained with this model section: it has in another shape" in said
    assert contents(fitted) == before


def test_checkpoint__missing_or_damaged(home: Path, fitted: Path, tmp_path: Path, capsys: Said) -> None:
    said = refused(capsys, "evaluate", home, fitted, "--ckpt_path", tmp_path / "no.ckpt")
    assert f"--ckpt_path: {tmp_path}/no.ckpt does not exist" in said
    (tmp_path / "page.ckpt").write_text("<html>404")
    (tmp_path / "cut.ckpt").write_bytes(last(fitted).read_bytes()[:5000])
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    for name, message in (
        ("page", "cannot be read"),
        ("cut", "cannot be read"),
        ("other", "(a backbone's state dict) does not fit"),
    ):
        said = refused(capsys, "evaluate", home, fitted, "--ckpt_path", tmp_path / f"{name}.ckpt")
        assert f"{name}.ckpt {message}" in said


def test_fit__checkpoint_of_another_model_is_refused_before_the_curation(
    home: Path, fitted: Path, tmp_path: Path, capsys: Said
) -> None:
    more = ["--ckpt_path", last(fitted), "--model.init_args.backbone", "resnet10t"]
    assert "it lacks" in refused(capsys, "fit", home, tmp_path / "ws", *more)
    assert "does not exist" in refused(capsys, "fit", home, tmp_path / "ws", "--ckpt_path", "no.ckpt")
    assert not (tmp_path / "ws").exists()


def test_evaluation__wrong_settings_are_named_before_the_curation(home: Path, tmp_path: Path, capsys: Said) -> None:
    said = refused(capsys, "fit", home, tmp_path / "ws", "--evaluation.baselines", "[pixel]")
    assert "evaluation.baselines: pixel is unknown (did you mean pixels?); choices: pixels, untrained" in said
    values = f"[{{name: a, train: {home}/train, test: {tmp_path}/nowhere}}]"
    said = refused(capsys, "fit", home, tmp_path / "ws", "--evaluation.datasets", values)
    assert f"evaluation.datasets: 'a': {tmp_path}/nowhere does not exist" in said
    assert not (tmp_path / "ws").exists()


def test_data__batch_larger_than_the_data_set(home: Path, fitted: Path, curated: Path, capsys: Said) -> None:
    shutil.rmtree(curated / "report")
    said = refused(capsys, "fit", home, curated, "--data.init_args.batch_size", "64", "--tracking.enabled", "false")
    assert "data.batch_size is 64, but" in said and "only 40 images" in said


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("model.init_args.temperature", "-1", "model.temperature must be positive, got -1.0"),
        ("model.init_args.backbone", "resnet10tt", "model.backbone: timm has no model 'resnet10tt'; close matches: "),
        ("model.class_path", "pas_train.methods.MoCoV4", "model.class_path: pas_train.methods.MoCoV4 cannot be used"),
        ("data.init_args.batch_size", "0", "data.batch_size must be at least 1, got 0"),
        ("data.init_args.knn_bank", "null", "data.knn_bank and data.knn_queries belong together"),
    ],
)
def test_settings__that_model_or_data_refuse(
    home: Path, tmp_path: Path, capsys: Said, setting: str, value: str, message: str
) -> None:
    assert message in refused(capsys, "fit", home, tmp_path / "ws", f"--{setting}", value)
    assert not (tmp_path / "ws").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["fit", "curate"])
def test_trainer__device_that_is_not_there(home: Path, tmp_path: Path, capsys: Said, command: str) -> None:
    said = refused(capsys, command, home, tmp_path / "ws", "--trainer.accelerator", "cuda")
    assert said.startswith("trainer: ") and "CUDA" in said


def test_evaluate__image_that_cannot_be_read(home: Path, fitted: Path, tmp_path: Path, capsys: Said) -> None:
    shutil.copytree(home / "test", tmp_path / "test")
    (tmp_path / "test" / "class-0" / "a.png").write_bytes(b"<html>404" * 20)
    more = ["--ckpt_path", last(fitted)]
    sets = f"[{{name: a, train: {home}/train, test: {tmp_path}/test}}]"
    more += ["--evaluation.allow_unscreened", "true"]  # the damaged file is another one than was screened
    said = refused(capsys, "evaluate", home, fitted, *more, "--evaluation.datasets", sets)
    assert f"evaluation image {tmp_path}/test/class-0/a.png cannot be used (not_an_image); repair or remove it" in said


def test_checkpoint__nothing_to_judge_it_on(home: Path, fitted: Path, tmp_path: Path, capsys: Said) -> None:
    more = ["--ckpt_path", last(fitted)]
    said = refused(capsys, "evaluate", home, fitted, *more, "--evaluation.datasets", "[]")
    assert "evaluation.datasets is empty" in said
    none = ["--data.init_args.knn_bank", "null", "--data.init_args.knn_queries", "null"]
    assert "data.knn_bank and data.knn_queries are not set" in refused(capsys, "validate", home, fitted, *more, *none)


def test_predict__output_that_is_a_file(home: Path, fitted: Path, tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "file").write_text("mine")
    said = refused(capsys, "predict", home, fitted, "--ckpt_path", last(fitted), "--output", tmp_path / "file")
    assert f"--output: {tmp_path}/file is a file" in said and (tmp_path / "file").read_text() == "mine"


def test_predict__before_there_is_a_data_set(home: Path, fitted: Path, tmp_path: Path, capsys: Said) -> None:
    said = refused(capsys, "predict", home, tmp_path / "ws", "--ckpt_path", last(fitted))
    assert f"{tmp_path}/ws/dataset/full/manifest.parquet does not exist" in said and "curate" in said
