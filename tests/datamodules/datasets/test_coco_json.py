import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.datasets.coco_json import read_coco
from datamodules.datasets.listing import read_listing

KEY = "evaluation.datasets: 'tray'"


def content() -> dict[str, Any]:
    """Two images, of which the second has no box, and categories whose ids have a gap."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 24, "height": 20},
            {"id": 3, "file_name": "more/b.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [1, 2, 10, 5.5], "area": 55, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 4, 4]},
            {"id": 3, "image_id": 7, "category_id": 2, "bbox": [3, 3, 20, 10], "iscrowd": 1},
            {"id": 4, "image_id": 7, "category_id": 2, "bbox": [3, 3, 0, 10]},
        ],
        "categories": [{"id": 9, "name": "cup"}, {"id": 2, "name": "plate"}],
    }


def save(folder: Path, entries: Any) -> Path:
    (folder / "more").mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "more/b.png"):
        Image.new("RGB", (24, 20), (90, 40, 10)).save(folder / name)
    (folder / "instances.json").write_text(json.dumps(entries))
    return folder / "instances.json"


def test_read_coco__boxes_by_row_and_classes_by_id(tmp_path: Path) -> None:
    listing = read_listing(save(tmp_path, content()), "evaluation.datasets")
    assert listing.folder == tmp_path and listing.files == ["a.png", "more/b.png"]
    assert listing.classes == ["plate", "cup"] and listing.labels is None
    assert listing.boxes is not None and [one.shape for one in listing.boxes] == [(3, 5), (0, 5)]
    assert listing.boxes[0].tolist() == [[1, 2, 11, 7.5, 1], [0, 0, 4, 4, 0], [3, 3, 3, 13, 0]]
    assert listing.sizes == [(20, 24), None]


def test_read_coco__crowds_are_kept_apart(tmp_path: Path) -> None:
    listing = read_coco(save(tmp_path, content()), None, KEY)
    assert listing.crowds is not None
    assert [one.tolist() for one in listing.crowds] == [[[3, 3, 23, 13, 0]], []]
    without = content()
    del without["annotations"][2]
    assert read_coco(save(tmp_path, without), None, KEY).crowds is None


def test_read_coco__images_may_lie_in_another_folder(tmp_path: Path) -> None:
    file = save(tmp_path / "images", content()).rename(tmp_path / "instances.json")
    listing = read_listing(f"{file}?images={tmp_path / 'images'}", "evaluation.datasets")
    assert listing.folder == tmp_path / "images" and len(listing) == 2
    with pytest.raises(FileNotFoundError, match=r"2 of its 2 images are not in .*, such as a\.png, .*\?images=DIR"):
        read_listing(file, "evaluation.datasets")


def changed(change: Callable[[dict[str, Any]], Any]) -> Any:
    entries = content()
    return change(entries) or entries


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: [1], r"is no COCO file of boxes: it has no list of images; it needs images, annotations"),
        (lambda one: one.pop("annotations") and None, r"it has no list of annotations"),
        (lambda one: one.update(categories=[]), r"lists no category"),
        (lambda one: one["images"][0].pop("file_name") and None, r"image 0 of its list has no file_name or no id"),
        (lambda one: one["images"][0].update(id=3), r"lists the image id 3 twice"),
        (lambda one: one["images"][1].update(file_name="./a.png"), r"lists the image a\.png twice"),
        (lambda one: one["categories"][0].update(id=2), r"lists a category id twice"),
        (lambda one: one["categories"][0].pop("name") and None, r"has a category without a name"),
        (lambda one: one["annotations"][1].update(image_id=5), r"annotation 2 is of the image 5, which is not in"),
        (lambda one: one["annotations"][1].update(category_id=0), r"annotation 2 is of the category 0, which is not"),
        (lambda one: one["annotations"][1].pop("bbox") and None, r"annotation 2 has the bbox None; expected four"),
        (lambda one: one["annotations"][1].update(bbox=[1, 2, 3]), r"annotation 2 has the bbox \[1, 2, 3\]"),
        (lambda one: one["annotations"][1].update(bbox=[1, 2, 3, float("nan")]), r"annotation 2 has the bbox .*nan"),
    ],
)  # fmt: skip
def test_read_coco__what_is_wrong_is_said(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{KEY}.*{message}"):
        read_coco(save(tmp_path, changed(change)), None, KEY)


def test_read_coco__no_json_is_said(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=rf"^{KEY} is no JSON file"):
        read_coco(tmp_path / "cut.json", None, KEY)
    with pytest.raises(FileNotFoundError, match=r"gone\.json does not exist; give .* a COCO JSON file"):
        read_listing(tmp_path / "gone.json", "evaluation.datasets")


def test_read_coco__names_that_categories_share_are_told_apart(tmp_path: Path) -> None:
    entries = content()
    entries["categories"][0]["name"] = "plate"
    assert read_coco(save(tmp_path, entries), None, KEY).classes == ["plate (2)", "plate (9)"]
