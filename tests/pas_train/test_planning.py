from pathlib import Path

import pytest

from curation.planning import Line, total
from pas_train.planning import images_seen, print_plan
from tests.pas_train.small_project import pas

Said = pytest.CaptureFixture[str]
MODEL = {"class_path": "pas_train.methods.MoCoV3", "init_args": {"backbone": "vit_tiny"}}
DATA = {"init_args": {"batch_size": 10}}


@pytest.mark.parametrize(
    ("trainer", "seen"),
    [
        ({"max_epochs": 3}, 300), ({"max_steps": 7}, 70), ({"max_epochs": 3, "max_steps": 7}, 70),
        ({"max_epochs": 3, "max_steps": -1}, 300), ({"max_epochs": 1, "max_steps": 70}, 100),
    ],
)  # fmt: skip
def test_images_seen__by_epochs_or_steps(trainer: dict, seen: int) -> None:
    assert images_seen(MODEL, DATA, trainer, 100) == (seen, "vit_tiny")


def test_images_seen__nothing_without_a_model() -> None:
    assert images_seen(None, DATA, {"max_epochs": 3}, 100) == (0, "")


def test_print_plan__tells_measured_from_assumed(capsys: Said) -> None:
    lines = [Line("fetch", 12345, "images", 0, 0, 1.25, 0.5, ("fetched",)), Line("embed", 1, "images", 0, 20, 0, 0,
             ("embedded_per_s", "fetched"))]  # fmt: skip
    print_plan(lines, total(lines), {"embedded_per_s": 17, "fetched": 0.65}, {"embedded_per_s"})
    said = capsys.readouterr().out.splitlines()
    assert said[2].split() == ["fetch", "12,345", "images", "1.2", "0.5"]
    assert said[5].split() == ["total", "20", "1.2", "0.5"]
    assert said[7] == "measured here: embedded_per_s 17"
    assert said[9] == "assumed (--rates.NAME VALUE changes one): fetched 0.65"


def test_plan__of_a_config_runs_nothing(home: Path, tmp_path: Path, capsys: Said) -> None:
    assert pas("plan", home, tmp_path / "ws", "--rates.readable", "0.5") == 0
    said = capsys.readouterr().out
    assert ["pool", "48", "images", "in", "place"] in map(str.split, said.splitlines()) and "readable 0.5" in said
    assert not (tmp_path / "ws").exists()


def test_plan__measures_the_models_that_are_here(
    home: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation.measuring.SECONDS", 0.05)
    assert pas("plan", home, tmp_path / "ws", "--measure", "true") == 0
    assert "measured here: decoded_per_s" in capsys.readouterr().out
    assert pas("plan", home, tmp_path / "ws", "--measure", "true", "--curation.embed.copy.model", "no.pt") == 0
    assert "embedded_per_s: not measured, as curation.embed.copy.model: no.pt does not exist" in capsys.readouterr().out
