import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from datamodules import view_arrays, view_kernels, views
from datamodules.view_arrays import resize_taps
from datamodules.views import VIEW_1, VIEW_2, ViewPair, ViewSettings, draw_view

SIZE = 48
PLAIN = ViewSettings(jitter=0, grey=0, blur=0, solarize=0, flip=0, crop_min=1.0)


def picture(seed: int = 0, height: int = 80, width: int = 100) -> np.ndarray:
    """A smooth random image with edges, as photographs have."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def planes_of(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)


def distance(planes: np.ndarray, image: Image.Image) -> np.ndarray:
    return np.abs(planes.transpose(1, 2, 0) - np.asarray(image).astype(np.float32))


@pytest.mark.parametrize("pixels", [view_arrays, view_kernels])
@pytest.mark.parametrize("factor", [0.6, 0.85, 1.0, 1.3])
@pytest.mark.parametrize(
    ("operation", "pillow"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
def test_jitter__as_pillow(pixels, operation: int, pillow, factor: float) -> None:
    image = picture(1, SIZE, SIZE)
    planes, factors = planes_of(image), np.full(4, factor, dtype=np.float32)
    pixels.jitter(planes, np.array([operation]), factors)
    assert distance(planes, pillow(Image.fromarray(image)).enhance(factor)).max() <= 1


@pytest.mark.parametrize("shift", [-0.1, -0.03, 0.0, 0.1])
def test_jitter__hue_as_pillow_but_finer(shift: float) -> None:
    image = picture(2, SIZE, SIZE)
    hue, saturation, value = Image.fromarray(image).convert("HSV").split()
    moved = Image.fromarray((np.asarray(hue).astype(np.int64) + int(shift * 255)).astype(np.uint8))
    expected = Image.merge("HSV", (moved, saturation, value)).convert("RGB")
    planes, factors = planes_of(image), np.array([1, 1, 1, int(shift * 255) / 255], dtype=np.float32)
    view_kernels.jitter(planes, np.array([3]), factors)
    # Pillow keeps hue and saturation in 8 bits, which costs it up to 3 levels; ours does not.
    assert distance(planes, expected).mean() < 1


def finished(pixels, image: np.ndarray, grey=False, sigma=0.0, threshold=256, flip=False) -> np.ndarray:
    out = np.empty((3, *image.shape[:2]), dtype=np.uint8)
    pixels.finish(planes_of(image), grey, views.blur_taps(sigma), threshold, flip, out)
    return out.transpose(1, 2, 0).astype(np.int64)


@pytest.mark.parametrize("pixels", [view_arrays, view_kernels])
def test_grey_and_solarize__equal_pillow(pixels) -> None:
    image = picture(3, SIZE, SIZE)
    grey = Image.fromarray(image).convert("L").convert("RGB")
    np.testing.assert_array_equal(finished(pixels, image, grey=True), np.asarray(grey))
    expected = ImageOps.mirror(ImageOps.solarize(Image.fromarray(image)))
    np.testing.assert_array_equal(finished(pixels, image, threshold=128, flip=True), np.asarray(expected))


@pytest.mark.parametrize("pixels", [view_arrays, view_kernels])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur__near_pillow(pixels, sigma: float) -> None:
    image = picture(4, SIZE, SIZE)
    # Pillow approximates the Gaussian by box blurs.
    expected = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))).astype(np.int64)
    assert np.abs(finished(pixels, image, sigma=sigma) - expected).mean() < 0.7


def test_blur__is_the_gaussian() -> None:
    dot = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    dot[20, 22] = 255
    far = np.add.outer((np.arange(SIZE) - 20.0) ** 2, (np.arange(SIZE) - 22.0) ** 2)
    expected = 255 * np.exp(-far / (2 * 1.5**2)) / (2 * np.pi * 1.5**2)
    assert np.abs(finished(view_kernels, dot, sigma=1.5)[..., 1] - expected).max() < 0.8  # cut at three deviations


@pytest.mark.parametrize("pixels", [view_arrays, view_kernels])
@pytest.mark.parametrize(
    "box", [(0, 0, 80, 100), (10, 20, 50, 60), (5, 7, 12, 9), (0, 0, 48, 1), (30, 3, 1, 1), (1, 2, 33, 48)]
)
def test_resize__equals_pillow(pixels, box: tuple[int, int, int, int]) -> None:
    image, planes = picture(5), np.empty((3, SIZE, SIZE), dtype=np.float32)
    image = (image + np.random.default_rng(0).integers(0, 20, image.shape)).clip(0, 255).astype(np.uint8)
    top, left, height, width = box
    pixels.resize(image, *map(float, box), planes)
    crop = Image.fromarray(image).crop((left, top, left + width, top + height))
    # Rows first, as Pillow did up to version 12; from 13 on it takes the cheaper order, a level apart at most.
    expected = crop.resize((SIZE, height), Image.Resampling.BILINEAR).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert distance(planes, expected).max() == 0
    assert distance(planes, crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).max() <= 1


@pytest.mark.parametrize("pixels", [view_arrays, view_kernels])
@pytest.mark.parametrize("box", [(10.25, 20.5, 50.125, 60.75), (0.5, 0.0, 79.5, 9.75), (30.25, 3.5, 0.5, 1.25)])
def test_resize__of_parts_of_pixels_equals_pillow(pixels, box: tuple[float, float, float, float]) -> None:
    image, planes = picture(6), np.empty((3, SIZE, SIZE), dtype=np.float32)
    top, left, height, width = box
    pixels.resize(image, *box, planes)
    first, last = np.floor([top, left]).astype(int), np.ceil([top + height, left + width]).astype(int)
    crop = Image.fromarray(image[first[0] : last[0], first[1] : last[1]])
    low, high = left - first[1], top - first[0]
    rows = crop.resize((SIZE, crop.height), Image.Resampling.BILINEAR, box=(low, 0, low + width, crop.height))
    expected = rows.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(0, high, SIZE, high + height))
    assert distance(planes, expected).max() == 0


def test_compile__leaves_nothing_to_compile_to_the_workers() -> None:
    program = """
import io
import numpy as np
from PIL import Image
from datamodules import view_kernels
from datamodules.decoding import ImageLimits, Picture, decode_picture
from datamodules.views import VIEW_1, VIEW_2, ViewPair

kernels = view_kernels.resize, view_kernels.jitter, view_kernels.finish
pair = ViewPair(16, (VIEW_1, VIEW_2), 0)
pair.compile()
assert [len(kernel.signatures) for kernel in kernels] == [1, 1, 1]
pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
pictures = [Picture.whole(np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape))]
for kind in ("JPEG", "PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    pictures.append(decode_picture(buffer.getvalue(), ImageLimits()))
for picture in pictures:
    for sample in range(10):
        for view in pair.draw(picture.height, picture.width, 0, sample):
            for finished in (False, True):
                pair.render(picture, view, np.empty((3, 16, 16), np.uint8), finished)
assert [len(kernel.signatures) for kernel in kernels] == [1, 1, 1]
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_views__kernels_equal_their_numpy_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    outs = []
    for pixels in (view_kernels, view_arrays):
        monkeypatch.setattr(views, "pixel_functions", lambda pixels=pixels: pixels)
        pair = ViewPair(SIZE, (VIEW_1, dataclasses.replace(VIEW_2, blur=0.5, solarize=0.5)), seed=1)
        out = np.empty((24, 2, 3, SIZE, SIZE), dtype=np.uint8)
        for sample in range(len(out)):
            pair(picture(sample, 60 + sample, 90 - sample), epoch=2, sample=sample, out=out[sample])
        outs.append(out)
    np.testing.assert_array_equal(*outs)


def test_views__function_of_seed_epoch_sample_and_view() -> None:
    def pair(seed: int = 0, epoch: int = 0, sample: int = 0) -> np.ndarray:
        out = np.empty((2, 3, SIZE, SIZE), dtype=np.uint8)
        ViewPair(SIZE, (VIEW_1, VIEW_1), seed)(picture(), epoch, sample, out)
        return out

    first = pair()
    assert (pair() == first).all() and (first[0] != first[1]).any()
    assert all((other != first).any() for other in (pair(seed=1), pair(epoch=1), pair(sample=1)))


def test_views__nothing_but_a_resize() -> None:
    out = np.empty((2, 3, SIZE, SIZE), dtype=np.uint8)
    ViewPair(SIZE, (PLAIN, dataclasses.replace(PLAIN, flip=1)), 0)(picture(0, 60, 60), 0, 0, out)
    np.testing.assert_array_equal(out[0], out[1][:, :, ::-1])
    expected = Image.fromarray(picture(0, 60, 60)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.abs(out[0].transpose(1, 2, 0).astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("size", [1, 5, 16])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 90), (90, 1), (2, 3), (400, 7)])
def test_views__of_tiny_images_and_to_tiny_sides(
    height: int, width: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(60, 200, (height, width, 3), dtype=np.uint8)
    outs = []
    for pixels in (view_kernels, view_arrays):
        monkeypatch.setattr(views, "pixel_functions", lambda pixels=pixels: pixels)
        out = np.zeros((20, 2, 3, size, size), dtype=np.uint8)
        for sample in range(len(out)):
            ViewPair(size, (dataclasses.replace(PLAIN, blur=1, crop_min=0.1), PLAIN), 0)(image, 0, sample, out[sample])
        outs.append(out)
    np.testing.assert_array_equal(*outs)
    assert image.min() <= outs[0].min() and outs[0].max() <= image.max()  # averages, nothing from outside


@pytest.mark.parametrize("size", [1, 2, 7, 224])
@pytest.mark.parametrize("length", [1, 2, 6, 7, 8, 223, 5000])
def test_resize_taps__averages_within_the_input(length: int, size: int) -> None:
    first, weights = resize_taps(0.0, length, length, size)
    for ours, twin in zip(view_kernels.resize_taps(0.0, float(length), length, size), (first, weights), strict=True):
        np.testing.assert_array_equal(ours, twin)
    assert first.min() >= 0 and (first + weights.shape[1]).max() <= length
    assert weights.min() >= 0
    weights = weights / 2**22
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    centres = (weights * (first[:, None] + np.arange(weights.shape[1]) + 0.5)).sum(axis=1)
    inner = slice(size // 4 + 1, size - size // 4 - 1)  # at the ends the triangle is cut
    np.testing.assert_allclose(centres[inner], ((np.arange(size) + 0.5) * length / size)[inner], rtol=0.01, atol=0.5)


def test_uniforms__uniform_and_apart() -> None:
    numbers = np.stack([views.uniforms(0, 0, sample, 0, 54) for sample in range(2000)])
    assert 0 <= numbers.min() and numbers.max() < 1
    assert np.abs(np.sort(numbers.ravel()) - np.linspace(0, 1, numbers.size)).max() < 0.01
    assert np.abs(np.corrcoef(numbers.T) - np.eye(54)).max() < 0.12
    assert len(np.unique(numbers)) == numbers.size
    assert views.uniforms(2**64 - 1, 3, 5, 1, 2).tolist() == views.uniforms(-1, 3, 5, 1, 2).tolist()


def test_draw_view__boxes_and_frequencies() -> None:
    drawn = [draw_view(VIEW_2, (75, 100), 0, 0, sample, 1) for sample in range(4000)]
    shares = np.array([view.height * view.width / 7500 for view in drawn])
    assert 0.07 < shares.min() and shares.max() <= 1
    assert all(view.top + view.height <= 75 and view.left + view.width <= 100 for view in drawn)
    assert {tuple(view.order) for view in drawn if len(view.order)} == set(map(tuple, _permutations()))
    for name, expected in (("grey", 0.2), ("flip", 0.5)):
        assert np.mean([getattr(view, name) for view in drawn]) == pytest.approx(expected, abs=0.03)
    assert np.mean([view.threshold == 128 for view in drawn]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([view.sigma > 0 for view in drawn]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([len(view.order) == 4 for view in drawn]) == pytest.approx(0.8, abs=0.03)


def _permutations():
    import itertools

    return itertools.permutations(range(4))


def test_crop_box__distributed_as_torchvision() -> None:
    import torch
    from torchvision.transforms import RandomResizedCrop

    ours = [draw_view(VIEW_1, (50, 120), 3, 0, sample, 0)[:4] for sample in range(2000)]
    torch.manual_seed(0)
    image = torch.empty(3, 50, 120)
    theirs = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    for level in (0.1, 0.5, 0.9):  # of top, left, height and width; a wide image, so that tries fail
        difference = np.quantile(ours, level, axis=0) - np.quantile(theirs, level, axis=0)
        assert np.abs(difference).max() <= 5


def test_crop_box__very_wide_image_is_cropped_at_the_centre() -> None:
    view = draw_view(dataclasses.replace(VIEW_1, crop_min=1.0), (10, 100), 0, 0, 0, 0)
    assert view[:4] == (0, 43, 10, 13)


@pytest.mark.parametrize(
    "wrong", [{"flip": 1.5}, {"crop_min": 0}, {"hue": 0.6}, {"blur_sigma_min": 3.0}, {"contrast": -0.1}]
)
def test_view_settings__wrong_values_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"^data\.view1 or view2: "):
        ViewSettings(**wrong)


def test_reduction__leaves_twice_the_pixels_of_the_views() -> None:
    pair, seen = ViewPair(SIZE, (VIEW_1, VIEW_2), 0), set()
    for sample in range(60):
        factor = pair.reduction(900, 1400, 2, sample)
        least = min(min(view.height, view.width) for view in pair.draw(900, 1400, 2, sample))
        assert factor == 1 or least >= 2 * factor * SIZE
        assert factor == 8 or least < 4 * factor * SIZE
        seen.add(factor)
    assert seen == {2, 4, 8}
