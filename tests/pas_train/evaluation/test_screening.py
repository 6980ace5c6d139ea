import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch

from curation.stages.leakage import Leakage
from curation.workspace import write_table
from datamodules.files import sha256_file, write_json
from datamodules.sources import SourceItem
from pas_train.evaluation.evaluation import Evaluation, EvaluationSet
from pas_train.evaluation.screening import (
    origin_of_checkpoint,
    origin_of_source,
    origin_of_training,
    screen,
    screen_before,
)
from tests.curation.small_workspace import save_workspace
from tests.pas_train.evaluation.dense_sets import save_boxed, save_masked
from tests.tiny import picture


def save_classes(folder: Path, *numbers: int) -> Path:
    for number in numbers:
        path = folder / f"class-{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, 16).save(path)
    return folder


def evaluation(*tests: Path, **more: Any) -> Evaluation:
    return Evaluation([EvaluationSet(path.name, str(path), str(path)) for path in tests], **more)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Test images of two evaluations."""
    save_classes(tmp_path / "birds", 0, 1)
    save_classes(tmp_path / "food", 2, 3, 4)
    return tmp_path


@pytest.fixture
def manifest(sets: Path) -> Path:
    """The manifest of a workspace whose data set was screened against the birds."""
    space = save_workspace(sets / "ws")
    write_json(space.root / "workspace.json", {"domain": "birds"})
    images = [sha256_file(path) for path in sorted((sets / "birds").rglob("*.png"))]
    write_table(space.stage_folder("leakage") / "screened.parquet", pa.table({"sha256": images}))
    rows, sums = list(range(8)), [f"sum-{row}" for row in range(8)]
    write_table(space.stage_folder("ingest") / "part-00000.parquet", pa.table({"row": rows, "sha256": sums}))
    write_table(space.manifest(), pa.table({"sha256": ["sum-3", "sum-4"]}))
    return space.manifest()


def trained_on(manifest: Path) -> dict[str, Any]:
    return origin_of_source(manifest, sha256_file(manifest))


def test_screen__all_images_of_the_set_were_screened(sets: Path, manifest: Path) -> None:
    told = screen(evaluation(sets / "birds"), sets, trained_on(manifest))
    assert told == {"birds": {"screened": True, "images": 2, "unscreened": 0, "why": None}}


def test_screen__refuses_with_numbers_and_the_remedy(sets: Path, manifest: Path) -> None:
    shutil.copytree(sets / "birds", sets / "food", dirs_exist_ok=True)
    judged = evaluation(sets / "birds", sets / "food")
    with pytest.raises(ValueError, match=r"3 of the 5 test images of 'food' .*curation\.leakage\.tests and run"):
        screen(judged, sets, trained_on(manifest))
    judged.allow_unscreened = True
    told = screen(judged, sets, trained_on(manifest))
    assert told["birds"]["screened"] and not told["food"]["screened"] and told["food"]["unscreened"] == 3


def test_screen__names_an_unreadable_image_of_a_table(sets: Path, manifest: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": (sets / "birds/class-0/0.png").read_bytes(), "path": None}, None], "label": [0, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features).save_to_disk(sets / "saved")
    text = f"hf:{sets / 'saved'}"
    with pytest.raises(ValueError, match=r"evaluation image image 1 of hf:.*saved cannot be used .*repair or remove"):
        screen(Evaluation([EvaluationSet("table", text, text)]), sets, trained_on(manifest))


def test_screen__looks_at_the_bytes(sets: Path, manifest: Path) -> None:
    moved = shutil.copytree(sets / "birds", sets / "elsewhere")
    assert screen(evaluation(moved), sets, trained_on(manifest))["elsewhere"]["screened"]
    (moved / "class-0" / "0.png").write_bytes(b"another picture")
    with pytest.raises(ValueError, match="1 of the 2 test images of 'elsewhere'"):
        screen(evaluation(moved), sets, trained_on(manifest))


def changed_manifest(manifest: Path) -> None:
    write_table(manifest, pa.table({"sha256": ["sum-3"]}))


def of_a_leak(manifest: Path) -> None:
    write_table(manifest, pa.table({"sha256": ["sum-1", "sum-4"]}))


def unfinished(manifest: Path) -> None:
    (manifest.parents[2] / "columns" / "leakage" / "stage.json").unlink()


def gone(manifest: Path) -> None:
    manifest.unlink()


@pytest.mark.parametrize(
    ("change", "before", "why"),
    [
        (changed_manifest, False, "holds other images since the backbone was trained on it"),
        (of_a_leak, True, "1 images of .* did not pass the present leakage gate"),
        (unfinished, True, "no finished leakage gate in"),
        (gone, False, "is gone"),
    ],
)
def test_screen__data_set_without_a_certificate(
    sets: Path, manifest: Path, change: Any, before: bool, why: str
) -> None:
    if before:
        change(manifest)
    origin = trained_on(manifest)
    if not before:
        change(manifest)
    with pytest.raises(ValueError, match=rf"2 of the 2 test images of 'birds' \(.*{why}"):
        screen(evaluation(sets / "birds"), sets, origin)


@pytest.mark.parametrize("source", [None, "photos", "other/dataset/full/manifest.parquet"])
def test_screen__backbone_from_outside_is_marked(sets: Path, source: str | None) -> None:
    origin = None if source is None else origin_of_source(sets / source, "identity")
    told = screen(evaluation(sets / "food"), sets, origin)["food"]
    assert not told["screened"] and "not trained on a data set that was curated here" in told["why"]


def test_origin_of_training__a_backbone_that_has_seen_other_images(sets: Path, manifest: Path) -> None:
    other, own = save_checkpoint(sets / "other.ckpt", None), sets / "own.ckpt"
    origin = origin_of_training(manifest, sha256_file(manifest), other)
    told = screen(evaluation(sets / "birds"), sets, origin)["birds"]
    assert not told["screened"] and "went on from other.ckpt, which had seen other images" in told["why"]
    # Its own checkpoints remember that, also where it goes on after a kill; others go on as they are.
    assert origin_of_training(manifest, sha256_file(manifest), save_checkpoint(own, origin))["why"] == origin["why"]
    plain = trained_on(manifest)
    assert origin_of_training(manifest, sha256_file(manifest), save_checkpoint(own, plain)) == plain
    assert origin_of_training(manifest, sha256_file(manifest), None) == plain


def save_checkpoint(path: Path, origin: dict[str, Any] | None) -> Path:
    entry = {} if origin is None else {"data_set": origin}
    torch.save({"state_dict": {}, "global_step": 1, "epoch": 0, "pytorch-lightning_version": "2.6.0", **entry}, path)
    return path


def test_origin_of_checkpoint__is_found_after_a_move(sets: Path, manifest: Path) -> None:
    origin = trained_on(manifest)
    (sets / "ws").rename(sets / "moved")
    checkpoint = sets / "moved" / "training" / "run" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    found = origin_of_checkpoint({"data_set": origin}, checkpoint)
    assert screen(evaluation(sets / "birds"), sets, found)["birds"]["screened"]
    assert origin_of_checkpoint({"data_set": origin}, sets / "copy.ckpt") == origin


def test_origin_of_checkpoint__without_an_entry_by_its_run_or_from_outside(sets: Path, manifest: Path) -> None:
    origin = trained_on(manifest)
    run = sets / "ws" / "training" / "run"
    write_json(run / "results.json", {"data": {"source": str(manifest), "identity": origin["identity"]}})
    assert origin_of_checkpoint({}, run / "checkpoints" / "last.ckpt") == {**origin, "images": None}
    assert origin_of_checkpoint({}, sets / "last.ckpt") is None


def test_origin_of_checkpoint__data_set_of_another_workspace(sets: Path, manifest: Path) -> None:
    origin = trained_on(manifest)
    own = save_workspace(sets / "own")  # where the run lies: it has a data set of the same name
    write_table(own.manifest(), pa.table({"sha256": ["sum-7"]}))
    checkpoint = own.root / "training" / "run" / "checkpoints" / "last.ckpt"
    assert origin_of_checkpoint({"data_set": origin}, checkpoint) == origin


def test_origin_of_checkpoint__without_an_entry_after_a_move(sets: Path, manifest: Path) -> None:
    identity = trained_on(manifest)["identity"]
    write_json(sets / "ws/training/run/results.json", {"data": {"source": str(manifest), "identity": identity}})
    (sets / "ws").rename(sets / "moved")
    found = origin_of_checkpoint({}, sets / "moved" / "training" / "run" / "checkpoints" / "last.ckpt")
    assert found is not None and found["workspace"] == str(sets / "moved")


@pytest.mark.parametrize("source", ["manifest.parquet", "../full/manifest.parquet", "link.parquet"])
def test_origin_of_source__however_the_manifest_is_named(
    sets: Path, manifest: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (manifest.parent / "link.parquet").symlink_to(manifest)
    monkeypatch.chdir(manifest.parent)
    assert origin_of_source(Path(source), sha256_file(manifest)) == trained_on(manifest)


def test_screen__manifest_of_the_same_images_with_other_scores(sets: Path, manifest: Path) -> None:
    origin = trained_on(manifest)
    write_table(manifest, pa.table({"sha256": ["sum-4", "sum-3"], "leak_similarity": [0.1, 0.2]}))
    assert screen(evaluation(sets / "birds"), sets, origin)["birds"]["screened"]


def test_screen__several_data_sets_one_from_outside(sets: Path, manifest: Path) -> None:
    sources = [str(manifest), SourceItem("torchvision:CIFAR10?root=x")]
    told = screen(evaluation(sets / "birds"), sets, origin_of_source(sources, "identity"))["birds"]
    assert not told["screened"] and told["why"] == (
        "torchvision:CIFAR10?root=x: the backbone was not trained on a data set that was curated here"
    )
    with pytest.raises(ValueError, match="3 of the 3 test images of 'food'"):  # as with the curated one alone
        screen(evaluation(sets / "food"), sets, origin_of_source(sources, "identity"))


def test_screen__several_data_sets_all_curated(sets: Path, manifest: Path) -> None:
    shutil.copytree(sets / "ws", sets / "second")
    both = [str(manifest), str(sets / "second" / "dataset" / "full" / "manifest.parquet")]
    origin = origin_of_source(both, "identity")
    assert screen(evaluation(sets / "birds"), sets, origin)["birds"]["screened"]
    unfinished(Path(both[1]))
    with pytest.raises(ValueError, match="2 of the 2 test images of 'birds' .no finished leakage gate in .*second"):
        screen(evaluation(sets / "birds"), sets, origin)


def test_origin_of_training__several_data_sets_go_on(sets: Path, manifest: Path) -> None:
    both: Any = [str(manifest), "hf:food101"]
    origin = origin_of_training(both, "identity", None)
    assert origin_of_training(both, "identity", save_checkpoint(sets / "own.ckpt", origin)) == origin
    other = origin_of_training(both, "another", save_checkpoint(sets / "own.ckpt", origin))
    assert "went on from own.ckpt" in screen(evaluation(sets / "birds"), sets, other)["birds"]["why"]


def gate(**folders: Path) -> Any:
    return SimpleNamespace(folders=lambda workspace: folders)


def test_screen_before__by_path_by_bytes_or_left_for_later(sets: Path) -> None:
    screen_before(evaluation(sets / "birds"), sets, gate(birds=sets / "birds"))
    screen_before(evaluation(sets / "birds"), sets, gate(all=sets))  # a folder of it
    shutil.copytree(sets / "birds", sets / "copy")
    screen_before(evaluation(sets / "copy"), sets, gate(birds=sets / "birds"))
    screen_before(evaluation(sets / "not-made-yet"), sets, gate(birds=sets / "birds"))


def test_screen_before__refuses_before_anything_runs(sets: Path) -> None:
    judged = evaluation(sets / "birds", sets / "food")
    with pytest.raises(ValueError, match=r"3 of the 3 test images of 'food' \(not among curation\.leakage\.tests\)"):
        screen_before(judged, sets, gate(birds=sets / "birds"))
    with pytest.raises(ValueError, match=r"'birds' \(curation\.leakage is null\); 3 of the 3 .*allow_unscreened true"):
        screen_before(judged, sets, None)
    judged.allow_unscreened = True
    screen_before(judged, sets, None)


def test_screen__no_evaluation_needs_no_screening(sets: Path, manifest: Path) -> None:
    assert screen(Evaluation(), sets, trained_on(manifest)) == {}
    screen_before(Evaluation(), sets, None)


@pytest.mark.parametrize("save", [save_masked, save_boxed])
def test_screen__test_images_with_masks_or_boxes_are_screened(
    save: Callable[[Path], EvaluationSet], sets: Path, manifest: Path
) -> None:
    item = save(sets / "dense")
    judged = Evaluation([item])
    with pytest.raises(
        ValueError, match=rf"not screened against the data set: 2 of the 2 test images of '{item.name}'"
    ):
        screen(judged, sets, trained_on(manifest))
    paths = item.read_test(sets).paths
    images = pa.table({"sha256": [sha256_file(path) for path in paths]})
    write_table(manifest.parents[2] / "columns" / "leakage" / "screened.parquet", images)
    assert screen(judged, sets, trained_on(manifest))[item.name]["screened"]


@pytest.mark.parametrize("save", [save_masked, save_boxed])
def test_screen_before__the_gate_takes_the_same_words(save: Callable[[Path], EvaluationSet], sets: Path) -> None:
    item = save(sets / "dense")
    judged = Evaluation([item])
    screen_before(judged, sets, Leakage(tests=item.test))
    screen_before(judged, sets, Leakage(tests=[item.train, item.test]))
    with pytest.raises(ValueError, match=r"2 of the 2 test images of .* \(not among curation\.leakage\.tests\)"):
        screen_before(judged, sets, Leakage(tests=item.train))


def test_screen_before__the_images_of_a_coco_file_may_lie_elsewhere(sets: Path) -> None:
    item = save_boxed(sets / "dense")
    screen_before(Evaluation([item]), sets, Leakage(tests=str(sets / "dense" / "images")))
    moved = (sets / "dense" / "test.json").rename(sets / "birds" / "test.json")
    other = EvaluationSet("tray", item.train, f"{moved}?images={sets / 'dense' / 'images'}")
    with pytest.raises(
        ValueError, match=r"2 of the 2 test images of 'tray'"
    ):  # though the file is in the gate's folder
        screen_before(Evaluation([other]), sets, Leakage(tests=str(sets / "birds")))
