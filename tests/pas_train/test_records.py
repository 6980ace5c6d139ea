from pathlib import Path
from typing import Any

import pytest

from datamodules.files import write_json
from pas_train.methods import NNCLR, MoCoV3
from pas_train.records import data_record, grown, short_name

TRAINING: dict[str, Any] = {"method": "MoCoV3", "batch_size": 8, "passes_per_image": 4}


def manifest(root: Path, name: str) -> Path:
    write_json(root / "workspace.json", {})
    path = root / "dataset" / name / "manifest.parquet"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_short_name__of_data_sets_as_a_table_calls_them(tmp_path: Path) -> None:
    assert short_name(str(manifest(tmp_path / "food", "full"))) == "food"
    assert short_name(str(manifest(tmp_path / "birds", "half"))) == "birds half"
    assert short_name(str(tmp_path / "photos")) == "photos"
    assert short_name("torchvision:CIFAR10?root=/data/cifar") == "CIFAR10"
    assert short_name("hf:ethz/food101?split=train") == "ethz/food101"
    assert short_name("food-101:/data/food?split=train") == "food-101"


def test_data_record__of_what_was_made_here_and_of_several(tmp_path: Path) -> None:
    own = str(manifest(tmp_path / "food", "full"))
    record = data_record([own, "hf:a/b"])
    assert record == {"name": "food + a/b", "images": None, "synthetic": None, "curated": True}
    assert data_record(str(tmp_path / "photos"))["curated"] is False


def test_grown__counts_images_and_forward_passes(tmp_path: Path) -> None:
    told = grown(TRAINING, tmp_path, 10, 2)
    assert (told["steps"], told["epochs"], told["images_seen"], told["forward_passes"]) == (10, 2, 80, 320)
    assert told["curve"] == [] and "passes_per_image" not in told
    unknown = grown({**TRAINING, "passes_per_image": None, "batch_size": None}, tmp_path, 10, None)
    assert (unknown["images_seen"], unknown["forward_passes"]) == (None, None)


def test_grown__has_the_curve_up_to_the_step(tmp_path: Path) -> None:
    rows = ["epoch,step,train/loss,val/knn_top1", "0,3,1.5,", "0,4,,0.25", "1,9,,0.5"]
    (tmp_path / "metrics.csv").write_text("\r\n".join(rows) + "\r\n")
    curve = [{"images_seen": 40, "top1": 0.25}, {"images_seen": 80, "top1": 0.5}]
    assert grown(TRAINING, tmp_path, 10, 2)["curve"] == curve
    assert grown(TRAINING, tmp_path, 5, 1)["curve"] == curve[:1]  # of an earlier checkpoint


@pytest.mark.parametrize(("method", "passes"), [(MoCoV3, 4), (NNCLR, 2)])
def test_methods__say_how_many_views_go_through_encoders(method: Any, passes: int) -> None:
    assert method.passes_per_image == passes
