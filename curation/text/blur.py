"""The share of an image that words cover, and the image without them."""

import numpy as np


def text_area(polygons: list[np.ndarray], height: int, width: int) -> float:
    """Share of the image, in [0, 1], that the union of the polygons covers."""
    import cv2

    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.asarray(polygon, np.int32)], 1)
    return float(mask.mean())


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
        _blur_one(result, np.asarray(polygon, np.int32).reshape(-1, 2), strength, floor_px)
    return result


def _blur_one(rgb: np.ndarray, polygon: np.ndarray, strength: float, floor_px: float) -> None:
    """Blurs one region in place, working on a crop that holds all pixels that matter."""
    import cv2

    region_height = min(cv2.minAreaRect(polygon.astype(np.float32))[1]) + 1
    sigma = max(strength * region_height, floor_px)
    margin = max(1.0, 0.1 * region_height)  # px beyond the polygon: strokes reach out of tight boxes
    fade = max(2.0, 0.2 * region_height)
    reach = int(np.ceil(margin + fade + 3 * sigma))
    (left, top), (right, bottom) = polygon.min(axis=0) - reach, polygon.max(axis=0) + reach + 1
    left, top = max(left, 0), max(top, 0)
    crop = rgb[top:bottom, left:right]
    outside = np.ones(crop.shape[:2], np.uint8)
    cv2.fillPoly(outside, [polygon - (left, top)], 0)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)  # px to the polygon
    alpha = np.clip(1 - (distance - margin) / fade, 0, 1)[..., None]
    mixed = crop * (1 - alpha) + _gaussian(crop, sigma) * alpha
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
