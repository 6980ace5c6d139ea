"""Bytes from the open web to RGB, or a stated reason why not."""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

REASONS = ("empty", "not_an_image", "truncated", "too_large", "too_small", "extreme_aspect", "flat_colour")

# What Pillow's plug-ins raise on damaged bytes; anything else is a bug of ours and must be seen.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, struct.error,
          zlib.error, Image.DecompressionBombError, ZeroDivisionError, AttributeError, NotImplementedError, MemoryError,
          AssertionError)  # fmt: skip
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")


class RefusedImage(ValueError):
    """An image that cannot be used; `reason` is one of REASONS (or the status of a failed download)."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple:  # type: ignore[type-arg]
        return RefusedImage, (self.reason, self.detail)


@dataclass(frozen=True)
class ImageLimits:
    """What an image must be to be used.

    Args:
        max_bytes: Of the file.
        max_pixels: Width times height, read from the header before anything is decoded.
        min_side_px: Of the shorter side.
        max_aspect: Longer side over shorter side.
        flat_range: An image whose channels all span fewer grey levels (of 255) is of one flat colour.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 50_000_000
    min_side_px: int = 32
    max_aspect: float = 8.0
    flat_range: int = 4

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "min_side_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"limits.{name} must be at least 1, got {getattr(self, name)}")
        if self.max_aspect < 1:
            raise ValueError(f"limits.max_aspect must be at least 1, got {self.max_aspect}")


def decode_rgb(data: bytes, limits: ImageLimits | None = None) -> np.ndarray:
    """uint8 [H, W, 3] of JPEG, PNG, WebP, GIF (first frame), BMP or TIFF bytes, upright by EXIF.

    CMYK, 16-bit, grey and palette images are converted, transparent pixels laid on white. Memory stays within a few
    times max_pixels: sizes are checked in the header, before decoding. Raises RefusedImage.
    """
    limits = limits or ImageLimits()
    if not data:
        raise RefusedImage("empty")
    if len(data) > limits.max_bytes:
        raise RefusedImage("too_large", f"{len(data)} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels decide
        image = _open(data)
        width, height = image.size
        _check_size(width, height, limits)
        pixels = _fast_jpeg(data, image)
        if pixels is None:
            pixels = _decode(image)
    pixels = np.ascontiguousarray(pixels)
    flat = pixels.reshape(-1, 3)
    if int((flat.max(axis=0).astype(int) - flat.min(axis=0)).max()) < limits.flat_range:
        raise RefusedImage("flat_colour")
    return pixels


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise RefusedImage("truncated" if _cut_header(data) else "not_an_image") from None
    except Image.DecompressionBombError as error:
        raise RefusedImage("too_large", str(error)) from None
    except DAMAGE as error:
        raise RefusedImage("truncated" if _cut_header(data) else "not_an_image", str(error)) from None


def _cut_header(data: bytes) -> bool:
    """Whether the bytes begin as an image that a real one could continue."""
    magic = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"RIFF")
    return data.startswith(magic) and (not data.startswith(b"RIFF") or data[8:12] in (b"WEBP", b""))


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise RefusedImage("too_large", f"{width} x {height} pixels")
    if min(width, height) < limits.min_side_px:
        # A strip is told by its shape, not by its thin side, where the long side is a usable image's.
        if max(width, height) > limits.max_aspect * max(1, min(width, height)) and max(width, height) >= limits.min_side_px:
            raise RefusedImage("extreme_aspect", f"{width} x {height} pixels")
        raise RefusedImage("too_small", f"{width} x {height} pixels")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise RefusedImage("extreme_aspect", f"{width} x {height} pixels")


def _fast_jpeg(data: bytes, image: Image.Image) -> np.ndarray | None:
    """Pixels of a plain JPEG by libjpeg-turbo, twice as fast as Pillow; None where it needs more care."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or image.getexif().get(0x0112, 1) != 1:
        return None
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):  # an end that is missing or hidden: Pillow tells a cut file
        return None
    try:
        import simplejpeg

        return simplejpeg.decode_jpeg(data, "RGB")
    except (ImportError, ValueError, RuntimeError):
        return None


def _decode(image: Image.Image) -> np.ndarray:
    # Pillow fills the missing part of a cut file with grey when this is set; it is the default not to.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image.load()
        image = _upright(image)
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            return _from_deep_grey(image)
        if "A" in image.getbands() or "transparency" in image.info:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            image = Image.alpha_composite(white, rgba)
        return np.asarray(image.convert("RGB"))
    except DAMAGE as error:
        raise RefusedImage("truncated", str(error)) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except DAMAGE:
        return image  # a damaged EXIF block says nothing about the pixels


def _from_deep_grey(image: Image.Image) -> np.ndarray:
    """16 bits to 8 by scale, not by clipping; wider integers and floats by their own range.

    8-bit values stored in 16 bits (careless converters write such files) are taken as they are.
    """
    values = np.asarray(image).astype(np.float32)
    if values.min() >= 0 and 255 < values.max() <= 65535:
        values = values / 257.0
    elif values.size and (values.max() > 255 or values.min() < 0):
        span = max(float(values.max() - values.min()), 1e-6)
        values = (values - values.min()) * (255.0 / span)
    grey = np.clip(np.nan_to_num(values) + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
