from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import photometry
from datamodules.decoding import Picture
from datamodules.views import PHOTOMETRY, VIEW_1, VIEW_2, ViewPair, ViewSettings

SIZE, COUNT = 64, 40
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
NOTHING = ViewSettings(jitter=0, grey=0, blur=0, solarize=0, flip=0.5)


def picture(seed: int, height: int = 80, width: int = 100) -> np.ndarray:
    """A smooth random image with edges and some grain, as photographs have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    return (large + rng.integers(-6, 7, large.shape)).clip(0, 255).astype(np.uint8)


def both_ways(settings: ViewSettings, device: str, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """The views of `count` images finished by the worker and by the device, uint8 [2, count, 3, SIZE, SIZE]."""
    pair = ViewPair(SIZE, (settings, replace(settings, solarize=settings.solarize / 2)), seed=3)
    worker, crops = np.empty((2, 2, count, 3, SIZE, SIZE), dtype=np.uint8)
    parameters = np.zeros((2, count, PHOTOMETRY), dtype=np.float32)
    order = np.zeros((2, count, 4), dtype=np.int8)
    for sample in range(count):
        image = Picture.whole(picture(sample))
        for number, view in enumerate(pair.draw(image.height, image.width, 0, sample)):
            pair.render(image, view, worker[number, sample])
            pair.render(image, view, crops[number, sample], finished=False)
            parameters[number, sample], order[number, sample] = view.photometry(), view.changes()
    tensors = [torch.from_numpy(array).to(device) for array in (crops, parameters, order)]
    return worker, photometry.finish_views(*tensors, settings.blur_sigma_max if settings.blur else 0).cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"jitter": 1, "contrast": 0, "saturation": 0, "hue": 0},
        {"jitter": 1, "brightness": 0, "saturation": 0, "hue": 0},
        {"jitter": 1, "brightness": 0, "contrast": 0, "hue": 0},
        {"jitter": 1, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0.5},
        {"grey": 0.5},
        {"blur": 0.5},
        {"solarize": 0.5},
    ],
    ids=lambda change: "-".join(change) or "nothing",
)
def test_finish_views__each_operation_as_the_worker_does_it(change: dict[str, float], device: str) -> None:
    worker, on_device = both_ways(replace(NOTHING, **change), device)
    apart = np.abs(worker.astype(int) - on_device)
    assert apart.mean() < 0.01 and apart.max() <= 1
    if not change:
        assert apart.max() == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", [VIEW_1, VIEW_2])
def test_finish_views__whole_recipe_as_the_worker_does_it(settings: ViewSettings, device: str) -> None:
    worker, on_device = both_ways(replace(settings, blur=0.5, solarize=0.2), device)
    apart = np.abs(worker.astype(int) - on_device)
    # A level of difference before the inversion of what is light turns into many at its threshold.
    assert apart.mean() < 0.02 and (apart <= 2).mean() > 0.999


def test_finish_views__chunks_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = both_ways(VIEW_2, "cpu", 5)
    monkeypatch.setattr(photometry, "CHUNK", 3)
    _, chunked = both_ways(VIEW_2, "cpu", 5)
    assert np.abs(whole.astype(int) - chunked).max() <= 1


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur__keeps_a_flat_image_and_the_mean(sigma: float) -> None:
    flat = torch.full((1, 3, 20, 20), 77.0)
    assert (photometry.blur(flat, torch.tensor([sigma]), 2.0) == 77).all()
    dot = torch.zeros(1, 3, 21, 21)
    dot[..., 10, 10] = 255 * 40
    assert photometry.blur(dot, torch.tensor([sigma]), 2.0).sum() == pytest.approx(3 * 255 * 40, rel=0.01)


@pytest.mark.gpu
def test_finish_views__never_waits_for_the_device() -> None:
    both_ways(VIEW_2, "cuda", 2)
    crops = torch.randint(0, 256, (2, 8, 3, SIZE, SIZE), dtype=torch.uint8, device="cuda")
    parameters, order = torch.ones(2, 8, PHOTOMETRY).cuda(), torch.zeros(2, 8, 4, dtype=torch.int8).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        photometry.finish_views(crops, parameters, order, 2.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
