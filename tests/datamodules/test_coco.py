import json
from pathlib import Path

import pytest
from PIL import Image

from datamodules.annotated import read_annotated, sound
from datamodules.coco import main, write_coco
from datamodules.dense import BoxedImages
from tests.datamodules.datasets import small_trees

KEY = "coco"


def test_write_coco__is_read_again_as_it_was(tmp_path: Path) -> None:
    small_trees.save_oktoberfest(tmp_path)
    source = f"oktoberfest:{tmp_path}?split=train"
    write_coco(source, tmp_path / "out" / "train.json")
    before, after = (sound(read_annotated(text, KEY), KEY) for text in (source, tmp_path / "out" / "train.json"))
    assert isinstance(before, BoxedImages) and isinstance(after, BoxedImages)
    assert [path.resolve() for path in after.paths] == before.paths and after.classes == before.classes
    assert [boxes.tolist() for boxes in after.boxes] == [boxes.tolist() for boxes in before.boxes]


def test_write_coco__what_pycocotools_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    small_trees.save_oktoberfest(tmp_path)
    upside = Image.Exif()
    upside[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "dataset" / "train" / "b.png", exif=upside)
    main([f"oktoberfest:{tmp_path}?split=train", str(tmp_path / "train.json")])
    assert "train.json: 2 images, 3 annotations, 15 categories" in capsys.readouterr().out
    read = coco.COCO(str(tmp_path / "train.json"))
    assert [image["file_name"] for image in read.loadImgs([1, 2])] == ["dataset/train/a.png", "dataset/train/b.png"]
    assert (read.imgs[2]["width"], read.imgs[2]["height"]) == (20, 30)  # as toolboxes decode it, turned by EXIF
    first, *_, last = read.loadAnns(read.getAnnIds())
    assert first["bbox"] == [10, 20, 5, 4] and first["area"] == 20 and first["iscrowd"] == 0  # cut at its edge
    assert read.cats[last["category_id"]]["name"] == "Cola" and last["image_id"] == 2


def test_main__says_what_is_wrong_and_writes_nothing(tmp_path: Path) -> None:
    small_trees.save_foodseg103(tmp_path)
    for source, message in (
        (f"foodseg103:{tmp_path}?split=train&partial=true", "has no boxes"),
        (str(tmp_path / "gone.json"), "does not exist"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([source, str(tmp_path / "out.json")])
    assert not (tmp_path / "out.json").exists()


def test_write_coco__crowds_stay_crowds(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    boxes = [{"id": n, "image_id": 0, "category_id": 5, "bbox": [0, 0, 4, 4], "iscrowd": n} for n in (0, 1)]
    entries = {"images": [{"id": 0, "file_name": "a.png"}], "annotations": boxes,
               "categories": [{"id": 5, "name": "cup"}]}  # fmt: skip
    (tmp_path / "given.json").write_text(json.dumps(entries))
    content = write_coco(str(tmp_path / "given.json"), tmp_path / "out.json")
    assert [one["iscrowd"] for one in content["annotations"]] == [0, 1]
