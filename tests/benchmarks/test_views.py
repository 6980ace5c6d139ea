"""Two views from JPEG bytes beside other libraries' pipelines: `pytest -m benchmark -s` shows figures.

One thread, its own CPU time, all pipelines in turn on the same photos; a ratio is the median over the turns. The
recipe is MoCo v3's at 224 px. albumentations is compared where it is installed.
"""

import io
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from datamodules.decoding import ImageLimits
from datamodules.rows import read_rows
from datamodules.two_views import TwoViewDataset
from datamodules.views import VIEW_1, VIEW_2, ViewPair
from tests.benchmarks.photos import large_photo, photo

PHOTOS, CHUNK, TURNS = int(os.environ.get("PAS_PHOTOS", "64")), 16, int(os.environ.get("PAS_TURNS", "5"))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pipeline = Callable[[list[int]], None]  # makes the views of the photos of these numbers


def official(photos: list[bytes]) -> Pipeline:
    """As in MoCo v3's published code: Pillow, torchvision's classic transforms, floats at the end."""
    from torchvision import transforms as tv

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))

    def view(blurred: float, solarized: float) -> tv.Compose:
        return tv.Compose(
            [
                tv.RandomResizedCrop(224, scale=(0.08, 1.0)),
                tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                tv.RandomGrayscale(p=0.2),
                tv.RandomApply([blur], p=blurred),
                *([tv.RandomApply([ImageOps.solarize], p=solarized)] if solarized else []),
                tv.RandomHorizontalFlip(),
                tv.ToTensor(),
                tv.Normalize(MEAN, STD),
            ]
        )

    first, second = view(1.0, 0.0), view(0.1, 0.2)

    def run(numbers: list[int]) -> None:
        for number in numbers:
            image = Image.open(io.BytesIO(photos[number])).convert("RGB")
            first(image), second(image)

    return run


def albumentations(photos: list[bytes]) -> Pipeline | None:
    """The same recipe with albumentations on OpenCV; None where it is not installed."""
    try:
        import albumentations as al
        from albumentations.pytorch import ToTensorV2
    except ImportError:
        return None
    import cv2

    cv2.setNumThreads(0)

    def view(blurred: float, solarized: float) -> Callable:
        steps = [
            al.RandomResizedCrop(size=(224, 224), scale=(0.08, 1.0)),
            al.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
            al.ToGray(p=0.2),
            al.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=blurred),
            *([al.Solarize(p=solarized)] if solarized else []),
            al.HorizontalFlip(p=0.5),
        ]
        return al.Compose([*steps, al.Normalize(MEAN, STD), ToTensorV2()])

    first, second = view(1.0, 0.0), view(0.1, 0.2)

    def run(numbers: list[int]) -> None:
        for number in numbers:
            pixels = cv2.imdecode(np.frombuffer(photos[number], np.uint8), cv2.IMREAD_COLOR)
            image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            first(image=image), second(image=image)

    return run


def pair() -> ViewPair:
    return ViewPair(224, (VIEW_1, VIEW_2), 0)


def ours(photos: list[bytes], folder: Path) -> Pipeline:
    """The data set of a training, files included."""
    for number, data in enumerate(photos):
        (folder / f"{number:05d}.jpg").write_bytes(data)
    dataset = TwoViewDataset(read_rows(folder), pair(), ImageLimits())
    passes = iter(range(10**9))

    def run(numbers: list[int]) -> None:
        dataset[np.full(len(numbers), next(passes)), np.array(numbers)]

    return run


def rates(pipelines: dict[str, Pipeline]) -> dict[str, list[float]]:
    """CPU milliseconds an image of each pipeline in each turn; a turn is the same photos for all."""
    chunks = [list(range(start, start + CHUNK)) for start in range(0, PHOTOS, CHUNK)]
    for run in pipelines.values():
        run(chunks[0])
    spent: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(TURNS):
        for chunk in chunks:
            for name, run in pipelines.items():
                begin = time.process_time()
                run(chunk)
                spent[name].append((time.process_time() - begin) * 1000 / CHUNK)
    return spent


@pytest.mark.benchmark
@pytest.mark.parametrize(("short_side", "bound"), [(None, 2.8), (256, 6.0)])
def test_views__faster_than_others(short_side: int | None, bound: float, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    random.seed(0)
    photos = [photo(number, short_side) for number in range(PHOTOS)]
    pipelines = {"official": official(photos), "ours": ours(photos, tmp_path)}
    if (other := albumentations(photos)) is not None:
        pipelines["albumentations"] = other
    spent = rates(pipelines)
    print(f"\nshort side {short_side or 'as it was'}, {np.mean([len(data) for data in photos]) / 1000:.0f} kB a photo")
    ratios = {}
    for name, times in spent.items():
        ratios[name] = statistics.median(a / b for a, b in zip(spent["official"], times, strict=True))
        print(f"{name:15s} {1000 / statistics.median(times):7.1f} images/s a core, {ratios[name]:.2f} times official")
    assert ratios["ours"] >= bound
    assert ratios["ours"] >= ratios.get("albumentations", 0)


@pytest.mark.benchmark
def test_views__large_photos_reduced_while_decoded(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(large_photo(number))
    source = read_rows(tmp_path)
    sets = [TwoViewDataset(source, pair(), ImageLimits(), reduced=reduced) for reduced in (False, True)]
    turns: list[list[float]] = [[], []]
    for turn in range(TURNS + 1):
        for dataset, times in zip(sets, turns, strict=True):
            begin = time.process_time()
            dataset[np.full(8, turn), np.arange(8)]
            times.append((time.process_time() - begin) * 1000 / 8)
    spent = [statistics.median(times[1:]) for times in turns]
    gain = statistics.median(a / b for a, b in zip(turns[0][1:], turns[1][1:], strict=True))
    print(f"\n2000 x 1500 px: {spent[0]:.1f} ms an image decoded whole, {spent[1]:.1f} ms reduced, {gain:.2f} times")
    assert gain >= 1.1
