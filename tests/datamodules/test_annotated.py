import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.annotated import Annotated, kind_of, read_annotated, sound
from datamodules.decoding import Header, read_header
from datamodules.dense import BoxedImages, MaskedImages, clip_boxes, turn_boxes
from datamodules.dense_views import BoxedViews, WholeImages
from tests.datamodules.datasets import small_trees

KEY = "evaluation.datasets: 'tray'"
HEIGHT, WIDTH = 20, 30


def mask() -> np.ndarray:
    """A square of class 1 at the upper left, 255 in the lower right corner."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:8, 3:12] = 1
    mask[-1, -1] = 255
    return mask


def save_masked(folder: Path, masks: Any = None, **image: Any) -> MaskedImages:
    """Images of which the green is where the class is 1, and masks."""
    for number, one in enumerate(masks if masks is not None else [mask(), mask()]):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        pixels[..., 1] = np.where(mask() == 1, 220, 20)
        Image.fromarray(pixels).save(folder / f"{number}.png", **image)
        picture = one if isinstance(one, Image.Image) else Image.fromarray(one)
        picture.save(folder / f"{number}-mask.png")
    rows = "".join(f"{number}.png,{number}-mask.png\n" for number in range(len(masks) if masks is not None else 2))
    (folder / "set.csv").write_text(f"path,mask\n{rows}")
    (folder / "classes.txt").write_text("cloth\nsquare\n")
    images = read_annotated(folder / "set.csv", KEY)
    assert isinstance(images, MaskedImages)
    return images


def save_boxed(folder: Path, boxes: list[list[float]], size: tuple[int, int] | None = None, **image: Any) -> Annotated:
    """An image whose pixels in columns 3 to 12 and rows 2 to 8 are green, before EXIF turns it."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[2:8, 3:12, 1] = 220
    Image.fromarray(pixels).save(folder / "a.png", **image)
    told = {} if size is None else {"height": size[0], "width": size[1]}
    entries = [{"id": n, "image_id": 1, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)]
    crowd = {"id": 99, "image_id": 1, "category_id": 1, "bbox": [20, 10, 50, 50], "iscrowd": 1}
    content = {"images": [{"id": 1, "file_name": "a.png", **told}], "annotations": [*entries, crowd],
               "categories": [{"id": 1, "name": "square"}]}  # fmt: skip
    (folder / "boxes.json").write_text(json.dumps(content))
    return read_annotated(folder / "boxes.json", KEY)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def test_read_annotated__three_kinds(tmp_path: Path) -> None:
    small_trees.save_foodseg103(tmp_path)
    small_trees.save_oktoberfest(tmp_path)
    small_trees.save_food_101(tmp_path)
    kinds = {
        name: kind_of(read_annotated(f"{name}:{tmp_path}?split=train&partial=true", KEY))
        for name in ("foodseg103", "oktoberfest", "food-101")
    }
    assert kinds == {"foodseg103": "masks", "oktoberfest": "boxes", "food-101": "labels"}


def test_sound__masks_that_fit_are_left_as_they_are(tmp_path: Path) -> None:
    images = save_masked(tmp_path)
    assert sound(images, KEY) is images
    palette = [_painted(mask()), _painted(mask())]
    assert len(sound(save_masked(tmp_path, palette), KEY)) == 2
    assert np.array_equal(save_masked(tmp_path, palette).mask(0, (HEIGHT, WIDTH)), mask())


def _painted(classes: np.ndarray, first: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    image = Image.fromarray(classes)
    image.putpalette([*first, 128, 0, 0, *[9] * (3 * 254)])
    return image


def wrong(*pixels: tuple[int, int, int]) -> np.ndarray:
    """The mask with other values: (row, column, class)."""
    changed = mask()
    for row, column, value in pixels:
        changed[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([mask(), mask()[:, :-1]], r"mask .*1-mask\.png is 29 x 20 pixels, its image .*1\.png 30 x 20; both need"),
        ([mask(), wrong((4, 5, 2))], r"mask .*1-mask\.png has class 2 at row 4, column 5, but the 2 classes .* 0 to 1"),
        ([mask(), Image.new("RGB", (WIDTH, HEIGHT))], r"mask .*1-mask\.png has colours; .* one channel of 8 bits"),
        ([mask(), Image.new("I;16", (WIDTH, HEIGHT))], r"mask .*1-mask\.png has 16 bits a pixel"),
        ([mask(), Image.new("1", (WIDTH, HEIGHT))], r"mask .*1-mask\.png has 1 bit a pixel"),
        ([mask(), Image.new("LA", (WIDTH, HEIGHT))], r"mask .*1-mask\.png has transparency"),
        ([_painted(mask()), _painted(mask(), (1, 2, 3))], r"masks .*0-mask\.png and .*1-mask\.png have different pal"),
        ([np.where(mask() == 1, 255, 0).astype(np.uint8)], r"all masks, .* hold class 0 beside 255, which counts now"),
    ],
)
def test_sound__a_mask_that_does_not_fit_is_named(masks: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{KEY}: (the )?{message}"):
        sound(save_masked(tmp_path, masks), KEY)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("1-mask.png", b"GIF89a", r"mask .*1-mask\.png cannot be read as a PNG"),
        ("1.png", b"<!doctype html>", r"image .*1\.png cannot be used \(not_an_image\)"),
        ("1.png", b"", r"image .*1\.png cannot be used \(empty\)"),
    ],
)
def test_sound__an_unreadable_file_is_named(file: str, content: bytes, message: str, tmp_path: Path) -> None:
    images = save_masked(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{KEY}: the {message}"):
        sound(images, KEY)


def test_sound__a_cut_mask_is_named(tmp_path: Path) -> None:
    images = save_masked(tmp_path, [mask(), np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH), np.uint8)])
    data = (tmp_path / "1-mask.png").read_bytes()
    (tmp_path / "1-mask.png").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"the mask .*1-mask\.png cannot be read as a PNG"):
        sound(images, KEY)


# A mask on the stored pixels is known by its size; where EXIF only mirrors, masks are taken as upright.
DRAWN = [*(("upright", number) for number in range(1, 9)), *(("stored", number) for number in range(5, 9))]


@pytest.mark.parametrize(("drawn", "orientation"), DRAWN)
def test_masks__follow_an_image_that_exif_turns(drawn: str, orientation: int, tmp_path: Path) -> None:
    header = Header(HEIGHT, WIDTH, orientation)
    own = mask() if drawn == "stored" else np.ascontiguousarray(header.turn(mask()))
    images = save_masked(tmp_path, [own, own], exif=exif(orientation))
    assert read_header(images.paths[0]) == header
    item = WholeImages(sound(images, KEY), 20, 30)[0]  # type: ignore[arg-type]
    assert np.array_equal(item["image"][1] > 100, item["mask"] == 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes__follow_an_image_that_exif_turns(orientation: int, tmp_path: Path) -> None:
    header = Header(HEIGHT, WIDTH, orientation)
    turned = turn_boxes(np.array([[3, 2, 12, 8, 0]], np.float32), header)
    green = header.turn(mask() == 1)
    rows, columns = np.nonzero(green)
    assert turned.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, 0]]
    told = (HEIGHT, WIDTH) if header.turned else None  # what says that the annotator saw the stored pixels
    given = [3, 2, 9, 6] if header.turned else [*turned[0, :2], *(turned[0, 2:4] - turned[0, :2])]
    images = sound(save_boxed(tmp_path, [[float(one) for one in given]], told, exif=exif(orientation)), KEY)
    assert isinstance(images, BoxedImages) and images.boxes[0].tolist() == turned.tolist()
    made = BoxedViews(images, (20, 30))[np.array([0]), np.array([0])]
    left, top, right, bottom = made["boxes"][0][0].int().tolist()
    assert (made["image"][0][1, top:bottom, left:right] > 100).all() and (made["image"][0][1] > 100).sum() == 54


def test_sound__boxes_without_an_area_are_left_out_and_told(tmp_path: Path) -> None:
    told: list[str] = []
    images = sound(save_boxed(tmp_path, [[3.0, 3, 0, 5], [1, 1, 5, 5], [40, 3, 5, -1]]), KEY, told.append)
    assert isinstance(images, BoxedImages) and images.boxes[0].tolist() == [[1, 1, 6, 6, 0]]
    assert told == ["2 of 3 boxes have no area and are left out"]


def test_sound__images_of_which_none_has_a_box_are_told_before_a_training(tmp_path: Path) -> None:
    for boxes in ([], [[3.0, 3, 0, 5]]):
        with pytest.raises(ValueError, match=rf"^{KEY}: none of 1 images, such as .*a\.png, has a box; give images"):
            sound(save_boxed(tmp_path, boxes), KEY)


def test_sound__boxes_are_cut_at_the_edge_of_their_image(tmp_path: Path) -> None:
    told: list[str] = []
    boxes = [[25.0, 15, 20, 20], [-5, -5, 10, 10], [40, 3, 5, 5], [1, 1, 5, 5], [0, 0, 30.4, 20]]
    images = sound(save_boxed(tmp_path, boxes, (HEIGHT, WIDTH)), KEY, told.append)
    assert isinstance(images, BoxedImages) and images.crowds is not None
    assert images.boxes[0].tolist() == [[25, 15, 30, 20, 0], [0, 0, 5, 5, 0], [1, 1, 6, 6, 0], [0, 0, 30, 20, 0]]
    assert images.crowds[0].tolist() == [[20, 10, 30, 20, 0]]
    assert told == [
        "3 of 5 boxes reach beyond their image and are cut at its edge, 1 of them wholly, which are left out"
    ]


def test_sound__boxes_of_an_image_of_another_size_are_refused(tmp_path: Path) -> None:
    images = save_boxed(tmp_path, [[1, 1, 5, 5]], (HEIGHT * 2, WIDTH))
    with pytest.raises(
        ValueError, match=rf"^{KEY}: the image .*a\.png is 30 x 20 pixels, but its boxes are .* 30 x 40"
    ):
        sound(images, KEY)


def test_clip_boxes__of_none_stay_none() -> None:
    assert clip_boxes(np.zeros((0, 5), np.float32), (4, 4)).shape == (0, 5)


def test_aligned__boxes_are_counted_in_the_other_classes(tmp_path: Path) -> None:
    images = save_boxed(tmp_path, [[1, 1, 5, 5]])
    assert isinstance(images, BoxedImages)
    moved = images.aligned(["disc", "square"])
    assert moved.classes == ["disc", "square"] and moved.boxes[0][0, 4] == 1
    assert moved.crowds is not None and moved.crowds[0][0, 4] == 1 and images.boxes[0][0, 4] == 0
    with pytest.raises(ValueError, match=r"the test images have classes that the training images lack: square"):
        images.aligned(["disc"])


def test_aligned__masks_need_the_same_list(tmp_path: Path) -> None:
    images = save_masked(tmp_path)
    assert images.aligned(["cloth", "square"]) is images
    with pytest.raises(
        ValueError, match=r"test images have 2 classes, the training images 2 \(cloth stands where .*sq"
    ):
        images.aligned(["square", "cloth"])


def test_fingerprint__tells_masks_and_boxes_apart_not_where_they_lie(tmp_path: Path) -> None:
    images = save_masked(tmp_path)
    before = images.fingerprint()
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    again = read_annotated(moved / "set.csv", KEY)
    assert again.fingerprint() == before
    Image.fromarray(wrong((4, 5, 0), (4, 6, 0))).save(moved / "0-mask.png", optimize=True)
    assert read_annotated(moved / "set.csv", KEY).fingerprint() != before
    boxes = [save_boxed(moved, [[1, 1, 5, 5]]), save_boxed(moved, [[1, 1, 5, 6]])]
    assert boxes[0].fingerprint() != boxes[1].fingerprint()
