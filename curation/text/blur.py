"""The share of an image that words cover, and the image without them."""

from typing import Literal

import numpy as np

Fill = Literal["blur", "mean"]


def text_area(polygons: list[np.ndarray], height: int, width: int) -> float:
    """Share of the image, in [0, 1], that the union of the polygons covers."""
    import cv2

    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.asarray(polygon, np.int32)], 1)
    return float(mask.mean())


def remove_words(rgb: np.ndarray, polygons: list[np.ndarray], fill: Fill = "blur", strength: float = 0.5) -> np.ndarray:
    """A copy of an image uint8 [H, W, 3] without the polygons' words: blurred, or in the colours around."""
    return blur_regions(rgb, polygons, strength) if fill == "blur" else fill_regions(rgb, polygons)


def blur_regions(
    rgb: np.ndarray, polygons: list[np.ndarray], strength: float = 0.5, floor_px: float = 2.0
) -> np.ndarray:
    """A copy of an image uint8 [H, W, 3] with the polygons' words made illegible.

    Each region is mixed with its Gaussian blur, sigma = max(strength * height of the region, floor_px); the mask
    reaches a little over the polygon and fades out. All other pixels are unchanged. Open in the paper ("blurred"): we
    tie sigma to the region's height, since letters of any size vanish at half of it.
    """
    result = rgb.copy()
    for polygon in polygons:
        region = _Region(polygon)
        sigma = max(strength * region.height, floor_px)
        rows, columns = region.window(3 * sigma)
        crop = result[rows, columns]
        _mix(crop, _gaussian(crop, sigma), region.alpha(region.distance(rows, columns, crop.shape[:2])))
    return result


def fill_regions(rgb: np.ndarray, polygons: list[np.ndarray]) -> np.ndarray:
    """A copy of an image uint8 [H, W, 3] with each polygon in the mean colour around it.

    As T-MARS describes it (Maini et al. 2023, arXiv 2307.03132), whose published code has no such step. Around: a ring
    beyond the faded rim, half as wide as the region is high, without the pixels of other words; the mean of all that
    is no word where the ring is empty. The mask is that of `blur_regions`.
    """
    import cv2

    words = np.zeros(rgb.shape[:2], np.uint8)
    for polygon in polygons:
        cv2.fillPoly(words, [np.asarray(polygon, np.int32)], 1)
    result = rgb.copy()
    for polygon in polygons:
        region = _Region(polygon)
        beyond = region.margin + region.fade
        width = max(2.0, 0.5 * region.height)
        rows, columns = region.window(width)
        distance = region.distance(rows, columns, rgb[rows, columns].shape[:2])
        ring = (distance > beyond) & (distance <= beyond + width) & (words[rows, columns] == 0)
        around = rgb[rows, columns][ring] if ring.any() else rgb[words == 0]
        colour = (around if len(around) else rgb.reshape(-1, 3)).mean(axis=0)
        _mix(result[rows, columns], colour, region.alpha(distance))
    return result


class _Region:
    """A polygon with the rim over which it fades into the image."""

    def __init__(self, polygon: np.ndarray) -> None:
        import cv2

        self.polygon = np.asarray(polygon, np.int32).reshape(-1, 2)
        self.height = min(cv2.minAreaRect(self.polygon.astype(np.float32))[1]) + 1
        self.margin = max(1.0, 0.1 * self.height)  # px beyond the polygon: strokes reach out of tight boxes
        self.fade = max(2.0, 0.2 * self.height)

    def window(self, further: float) -> tuple[slice, slice]:
        """Rows and columns up to so many pixels beyond the rim."""
        reach = int(np.ceil(self.margin + self.fade + further))
        (left, top), (right, bottom) = self.polygon.min(axis=0) - reach, self.polygon.max(axis=0) + reach + 1
        return slice(max(top, 0), bottom), slice(max(left, 0), right)

    def distance(self, rows: slice, columns: slice, shape: tuple[int, ...]) -> np.ndarray:
        """Pixels from each pixel of a window to the polygon, 0 inside, float32."""
        import cv2

        outside = np.ones(shape, np.uint8)
        cv2.fillPoly(outside, [self.polygon - (columns.start, rows.start)], 0)
        return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)

    def alpha(self, distance: np.ndarray) -> np.ndarray:
        """Share of the replacement in each pixel, [h, w, 1]."""
        return np.clip(1 - (distance - self.margin) / self.fade, 0, 1)[..., None]


def _mix(crop: np.ndarray, replacement: np.ndarray, alpha: np.ndarray) -> None:
    mixed = crop * (1 - alpha) + replacement * alpha
    changed = alpha[..., 0] > 0
    crop[changed] = np.rint(mixed[changed]).astype(np.uint8)


def _gaussian(rgb: np.ndarray, sigma: float, largest: float = 8.0) -> np.ndarray:
    """Gaussian blur; a large sigma is worked at a lower resolution, which is equal to the eye and far faster."""
    import cv2

    height, width = rgb.shape[:2]
    factor = min(1.0, largest / sigma)
    if factor == 1:
        return cv2.GaussianBlur(rgb, (0, 0), sigma)
    small = cv2.resize(
        rgb, (max(1, round(width * factor)), max(1, round(height * factor))), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), largest), (width, height), interpolation=cv2.INTER_LINEAR)
