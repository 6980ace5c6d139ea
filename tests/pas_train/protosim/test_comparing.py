"""The comparison of two sets by prototypes, from the command to the page."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from datamodules.labelled import LIMITS
from datamodules.sources import open_sources
from pas_train.__main__ import main
from pas_train.protosim import assigning
from pas_train.protosim.assigning import Assignments, assign, test_crop
from pas_train.protosim.comparing import compare
from pas_train.protosim.pictures import Example, Strip, draw_strips
from tests.pas_train.planted import save_set
from tests.pas_train.protosim.test_module import SIZES, TINY, made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    home = tmp_path_factory.mktemp("sets")
    return [str(save_set(home / "plain", 40, 0)), str(save_set(home / "checked", 40, 1, planted=True))]


def settings(pictures: list[str], workspace: Path) -> dict[str, Any]:
    sizes = {**SIZES, "prototypes": 48, "backbone_options": TINY, "weights": None, "warmup_epochs": 1, "base_lr": 0.02}
    crops = {"batch_size": 20, "image_size": 32, "small_size": 16, "small_crops": 2, "num_workers": 0}
    quiet = {"accelerator": "cpu", "devices": 1, "max_epochs": 4, "enable_progress_bar": False}
    return {
        "workspace": str(workspace),
        "trainer": quiet,
        "model": {"init_args": {"backbone": "vit_tiny_patch16_224", **sizes}},
        "data": {"init_args": {"source": pictures, **crops}},
        "tracking": {"enabled": False},
    }


def test_fit__shows_what_one_set_alone_holds(
    pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings(pictures, tmp_path / "ws")))
    assert main(["fit", "--config", "protosim.yaml", "--config", str(tmp_path / "small.yaml")]) == 0
    (run,) = (tmp_path / "ws" / "training").iterdir()
    result = json.loads((run / "protosim" / "protosim.json").read_text())
    own, chance = result["all_tokens"]["exclusive"], result["random_split"]["exclusive"]
    assert (
        own["checked"]["prototypes"] > chance["checked"]["high"]
        and own["plain"]["prototypes"] <= chance["plain"]["high"]
    )
    assert own["checked"]["images"] >= 15  # of the twenty with the pattern
    first = result["exclusive_prototypes"][0]
    assert first["set"] == "checked" and first["log10_chance"] < -2
    # Pictures with the pattern have even numbers.
    assert all(int(Path(path).stem) % 2 == 0 for path in first["examples"])
    page = (run / "protosim" / "index.html").read_text()
    assert "Only in checked" in page and "data:image/png" in page and "<script" not in page
    assert f"{own['checked']['prototypes']} only of checked" in capsys.readouterr().out


def test_fit__a_mistyped_setting_is_named(pictures: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for mistake, meant in (("--model.prototype", "prototypes"), ("--data.small_crop", "small_crops")):
        with pytest.raises(SystemExit):
            main(["fit", "--config", "protosim.yaml", "--model.weights", "null", mistake, "3"])
        assert f"did you mean {meant}" in " ".join(capsys.readouterr().err.split())


def open_both(pictures: list[str]) -> Any:
    return open_sources(pictures)


def test_assign__a_kill_loses_only_the_parts_in_flight(
    pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assigning, "PART", 16)
    model, source = made(), open_both(pictures)
    store = Assignments(tmp_path, len(source), {"model": "a"})
    store.begin()
    assign(model, source, LIMITS, store, store.missing(), 0, torch.device("cpu"))
    assert len(list(store)) == 5 and store.missing() == []
    before = [(rows.tolist(), assigned.tolist()) for rows, assigned in store]
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*")}
    store.path(3).unlink()
    store.begin()
    assign(model, source, LIMITS, store, store.missing(), 0, torch.device("cpu"))
    assert [(rows.tolist(), assigned.tolist()) for rows, assigned in store] == before
    again = {path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert again == {store.path(3)}
    Assignments(tmp_path, len(source), {"model": "b"}).begin()  # of another model nothing is kept
    assert store.missing() == [0, 1, 2, 3, 4]


def test_assign__two_ranks_share_the_parts(
    pictures: list[str], tmp_path: Path, two_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assigning, "PART", 16)
    model, source = made(), open_both(pictures)
    compare(model, source, ["plain", "checked"], tmp_path / "one", 0, torch.device("cpu"))

    look = Assignments.missing

    def work(rank: int) -> None:
        torch.distributed.init_process_group("gloo")
        # A slow rank, which comes when the other has written some parts.
        monkeypatch.setattr(Assignments, "missing", lambda store: (time.sleep(rank), look(store))[1])
        compare(model, source, ["plain", "checked"], tmp_path / "two", 0, torch.device("cpu"))

    two_ranks(work)
    files = [(tmp_path / name / "protosim.json").read_text() for name in ("one", "two")]
    assert files[0] == files[1]


def test_compare__what_fails_on_one_rank_ends_the_other(pictures: list[str], tmp_path: Path, two_ranks: Any) -> None:
    broken = save_set(tmp_path / "broken", 2, 0)
    for path in broken.iterdir():
        path.write_bytes(b"no image")
    model, source = made(), open_both([str(broken), pictures[1]])

    def work(rank: int) -> None:
        torch.distributed.init_process_group("gloo")
        with pytest.raises(ValueError, match="no image of broken can be read"):
            compare(model, source, ["broken", "checked"], tmp_path, 0, torch.device("cpu"))

    two_ranks(work)


def test_compare__unreadable_images_are_counted_and_left_out(
    pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = save_set(tmp_path / "broken", 4, 0)
    (broken / "001.png").write_bytes(b"no image")
    compare(made(), open_both([str(broken), pictures[1]]), ["broken", "checked"], tmp_path, 0, torch.device("cpu"))
    result = json.loads((tmp_path / "protosim.json").read_text())
    assert result["sets"][0] == {"name": "broken", "images": 3, "unreadable": 1}
    assert "80 images" not in capsys.readouterr().out


def test_test_crop__is_torchvisions(tmp_path: Path) -> None:
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    pixels = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((262, 180), Image.Resampling.BILINEAR)
    cropped = Compose([Resize(64, InterpolationMode.BICUBIC), CenterCrop(56)])(image)
    difference = test_crop(np.asarray(image), 56).astype(int) - np.asarray(cropped).transpose(2, 0, 1)
    # The crop is cut before the resize, so its places are exact rather than rounded to pixels.
    assert np.abs(difference).mean() < 4


def test_draw_strips__one_prototype_with_one_image(tmp_path: Path) -> None:
    example = Example(np.full((3, 32, 32), 200, np.uint8), np.eye(4, dtype=bool), whole=True)
    draw_strips(tmp_path / "strip.png", [Strip(3, 1, 4, [example])], 0)
    assert (tmp_path / "strip.png").stat().st_size > 3000
