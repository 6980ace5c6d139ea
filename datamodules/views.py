"""The two augmented views of an image (MoCo v3's recipe); every random number is a function of its place.

The parameters of a view are drawn from (seed, epoch, sample, view) alone, so views do not depend on workers, ranks,
order or restarts. Pixels are computed by numba kernels (`view_kernels`) or, where numba is missing, by numpy
(`view_arrays`), with equal results.
"""

import math
from dataclasses import dataclass, fields
from functools import cache
from types import ModuleType
from typing import NamedTuple

import numpy as np

from datamodules.decoding import Picture

CROP_TRIES = 10
SURPLUS = 2.0  # pixels of a crop to one of the view, in each direction, that are left when an image is reduced
FIXED_DRAWS = 14  # numbers of a view besides those of the crop
NO_JITTER = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class ViewSettings:
    """Probabilities and strengths of one view's augmentations, in the order in which they are applied.

    Args:
        crop_min: smallest share of the image's area in the crop.
        crop_max: largest share.
        aspect_min: smallest width / height of the crop.
        aspect_max: largest width / height.
        jitter: probability of the four colour changes, which come in random order.
        brightness: the factor is drawn from 1 - brightness to 1 + brightness; contrast and saturation likewise.
        contrast: strength.
        saturation: strength.
        hue: the shift is drawn from -hue to hue of the colour circle (at most 0.5).
        grey: probability of losing the colours.
        blur: probability of a Gaussian blur.
        blur_sigma_min: smallest standard deviation in pixels.
        blur_sigma_max: largest.
        solarize: probability of inverting the values from solarize_threshold on.
        solarize_threshold: 0 to 255.
        flip: probability of mirroring left and right.
    """

    crop_min: float = 0.08
    crop_max: float = 1.0
    aspect_min: float = 3 / 4
    aspect_max: float = 4 / 3
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 1.0
    blur_sigma_min: float = 0.1
    blur_sigma_max: float = 2.0
    solarize: float = 0.0
    solarize_threshold: int = 128
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name in ("jitter", "grey", "blur", "solarize", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"data.view1 or view2: {name} is a probability between 0 and 1, got {getattr(self, name)}"
                )
        if not 0 < self.crop_min <= self.crop_max <= 1:
            raise ValueError(
                f"data.view1 or view2: 0 < crop_min <= crop_max <= 1 is needed, got {self.crop_min}, {self.crop_max}"
            )
        if not 0 < self.aspect_min <= self.aspect_max:
            raise ValueError(
                f"data.view1 or view2: 0 < aspect_min <= aspect_max is needed, got {self.aspect_min}, {self.aspect_max}"
            )
        if not 0 < self.blur_sigma_min <= self.blur_sigma_max:
            raise ValueError(f"data.view1 or view2: 0 < blur_sigma_min <= blur_sigma_max is needed, got {self}")
        negative = [field.name for field in fields(self) if getattr(self, field.name) < 0]
        if negative or self.hue > 0.5 or max(self.brightness, self.contrast, self.saturation) > 1:
            raise ValueError(f"data.view1 or view2: strengths are between 0 and 1, hue between 0 and 0.5, got {self}")


VIEW_1 = ViewSettings()
VIEW_2 = ViewSettings(blur=0.1, solarize=0.2)


class ViewParameters(NamedTuple):
    """What is done to one image: a crop in pixels, then the operations of `ViewSettings`."""

    top: int
    left: int
    height: int
    width: int
    order: np.ndarray  # int64: 0 brightness, 1 contrast, 2 saturation, 3 hue; empty without jitter
    factors: np.ndarray  # float32 [4], of operation 0 to 3
    grey: bool
    sigma: float  # 0 without blur
    threshold: int  # values from it on are inverted; 256 without
    flip: bool

    def photometry(self) -> np.ndarray:
        """What is done after crop and flip but the order, as float32 [PHOTOMETRY]; see GREY and what follows it."""
        return np.array([*self.factors, self.grey, self.sigma, self.threshold], dtype=np.float32)

    def changes(self) -> np.ndarray:
        """The order as int8 [4], -1 where there is none."""
        return np.array(self.order if len(self.order) else [-1] * 4, dtype=np.int8)


GREY, SIGMA, THRESHOLD = 4, 5, 6  # columns of the photometry; those before are the factors
PHOTOMETRY = 7


def uniforms(seed: int, epoch: int, sample: int, view: int, count: int) -> np.ndarray:
    """`count` numbers in [0, 1), float64, a function of the arguments alone on every machine.

    Philox is counter-based: seed and sample are its key, epoch and view its counter, so the streams cannot meet.
    """
    key = np.array([seed % 2**64, sample], dtype=np.uint64)  # a plain list would pass through float64
    generator = np.random.Philox(key=key, counter=np.array([0, 0, view, epoch], dtype=np.uint64))
    return (generator.random_raw(count) >> np.uint64(11)) * 2.0**-53


def draw_view(
    settings: ViewSettings, size: tuple[int, int], seed: int, epoch: int, sample: int, view: int
) -> ViewParameters:
    """The parameters of view 0 or 1 of a sample in an epoch; size: height and width of the image in pixels."""
    u = uniforms(seed, epoch, sample, view, FIXED_DRAWS + 4 * CROP_TRIES)
    top, left, height, width = crop_box(settings, size, u[FIXED_DRAWS:].reshape(CROP_TRIES, 4))
    strengths = np.array([settings.brightness, settings.contrast, settings.saturation, settings.hue])
    factors = (2 * u[5:9] - 1) * strengths + np.array([1.0, 1.0, 1.0, 0.0])
    sigma = settings.blur_sigma_min + u[11] * (settings.blur_sigma_max - settings.blur_sigma_min)
    return ViewParameters(
        top=top,
        left=left,
        height=height,
        width=width,
        order=np.argsort(u[1:5]) if u[0] < settings.jitter else NO_JITTER,
        factors=factors.astype(np.float32),
        grey=bool(u[9] < settings.grey),
        sigma=float(sigma) if u[10] < settings.blur else 0.0,
        threshold=settings.solarize_threshold if u[12] < settings.solarize else 256,
        flip=bool(u[13] < settings.flip),
    )


def crop_box(settings: ViewSettings, size: tuple[int, int], u: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, distributed as torchvision's RandomResizedCrop.

    u: [tries, 4] uniform numbers. If no try fits, the largest centred crop with an allowed aspect.
    """
    rows, columns = size
    low, high = math.log(settings.aspect_min), math.log(settings.aspect_max)
    for share, shape, down, right in u:
        area = rows * columns * (settings.crop_min + share * (settings.crop_max - settings.crop_min))
        aspect = math.exp(low + shape * (high - low))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= columns and 0 < height <= rows:
            return int(down * (rows - height + 1)), int(right * (columns - width + 1)), height, width
    width = min(columns, max(1, round(rows * settings.aspect_max)))
    height = min(rows, max(1, round(columns / settings.aspect_min)))
    return (rows - height) // 2, (columns - width) // 2, height, width


@cache
def pixel_functions() -> ModuleType:
    """The module with the pixel operations: numba's kernels, or their numpy twins where numba is missing."""
    try:
        from datamodules import view_kernels
    except ImportError:
        from datamodules import view_arrays

        return view_arrays
    return view_kernels


def blur_taps(sigma: float) -> np.ndarray:
    """Weights float32 [radius + 1] of a Gaussian blur: of the middle, and of each pixel to one side.

    Out to three standard deviations; both sides and the middle sum to 1. Without blur (sigma 0) the middle alone.
    """
    if sigma <= 0:
        return np.ones(1, dtype=np.float32)
    weights = np.exp(-0.5 * (np.arange(math.ceil(3 * sigma) + 1) / sigma) ** 2)
    return (weights / (2 * weights.sum() - 1)).astype(np.float32)


class ViewPair:
    """Makes the views of an image, mostly two; owns the scratch memory, so one object serves one thread.

    Args:
        size: side of the views in pixels.
        settings: of view 1 and of view 2, or of as many views as there are.
        seed: of all random numbers.
    """

    def __init__(self, size: int, settings: tuple[ViewSettings, ...], seed: int) -> None:
        self.size = size
        self.settings = settings
        self.seed = seed
        self._planes = np.empty((3, size, size), dtype=np.float32)
        self._drawn: tuple[tuple[int, int, int, int], list[ViewParameters]] | None = None

    def compile(self) -> None:
        """Compiles the kernels, or loads them, before workers are forked: else each does, and keeps its own of them."""
        view = draw_view(self.settings[0], (8, 8), 0, 0, 0, 0)
        whole = view._replace(order=np.arange(4), grey=True, sigma=1.0)
        self.render(Picture.whole(np.zeros((8, 8, 3), np.uint8)), whole, np.empty((3, self.size, self.size), np.uint8))

    def __call__(self, image: np.ndarray, epoch: int, sample: int, out: np.ndarray) -> None:
        """Writes the views of an RGB image (uint8 [H, W, 3], contiguous) into out (uint8 [2, 3, size, size])."""
        picture = Picture.whole(image)
        for view, target in zip(self.draw(picture.height, picture.width, epoch, sample), out, strict=True):
            self.render(picture, view, target)

    def draw(self, height: int, width: int, epoch: int, sample: int) -> list[ViewParameters]:
        """What is done to an image of this size in its two views; the last ones are kept, as `reduction` asks first."""
        place = height, width, epoch, sample
        if self._drawn is None or self._drawn[0] != place:
            each = enumerate(self.settings)
            views = [draw_view(settings, (height, width), self.seed, epoch, sample, view) for view, settings in each]
            self._drawn = place, views
        return self._drawn[1]

    def reduction(self, height: int, width: int, epoch: int, sample: int) -> int:
        """By how much an image may be reduced before it is cropped: 1, 2, 4 or 8.

        The smaller side of both crops keeps SURPLUS times the pixels of the view.
        """
        views = self.draw(height, width, epoch, sample)
        least = min(min(view.height, view.width) for view in views)
        return next((factor for factor in (8, 4, 2) if least >= SURPLUS * factor * self.size), 1)

    def render(self, picture: Picture, view: ViewParameters, out: np.ndarray, finished: bool = True) -> None:
        """Writes one view with the given parameters into out (uint8 [3, size, size]).

        finished: else it is only cropped and flipped, and the rest left to `photometry.finish_views`.
        """
        pixels, planes = pixel_functions(), self._planes
        top, left = view.top + picture.above, view.left + picture.before
        box = [side / picture.factor for side in (top, left, view.height, view.width)]
        pixels.resize(picture.pixels, *box, planes)
        if not finished:
            pixels.finish(planes, False, blur_taps(0), 256, view.flip, out)
            return
        if len(view.order):
            pixels.jitter(planes, view.order, view.factors)
        pixels.finish(planes, view.grey, blur_taps(view.sigma), view.threshold, view.flip, out)
