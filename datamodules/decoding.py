"""Bytes from the open web to RGB, or a stated reason why not."""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from datamodules.containers import Excess, check_scans, thinned

REASONS = ("empty", "not_an_image", "truncated", "too_large", "too_small", "extreme_aspect", "flat_colour")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# What Pillow raises on damaged files, seen on a million cut, flipped and invented ones or in its plug-ins' code. Caught
# around Pillow's calls only, so that a mistake of ours is not taken for a damaged image.
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error
)  # fmt: skip
BOMB = (Image.DecompressionBombError, MemoryError)
PILLOW_MAX_PIXELS = 178_956_970  # above it Pillow refuses by itself, whatever our setting

MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
MIN_BYTES = 64  # fewer hold a header at most
MAX_EXIF_BYTES = 2**17  # a JPEG's one segment holds 2**16
USUAL_SCANS = 24  # a progressive JPEG has about ten; each goes over all pixels, at 200 million a second
MAX_SCANS, MAX_SCANNED = 100, 300_000_000  # more than usual only in this number, and pixels in all
MAX_RLE = 8_000_000  # bytes, and pixels, of a run-length BMP, which Pillow decodes in Python at 3 MB/s

_ORIENTATION, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 322, 323
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF orientation -> what undoes it
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
_TURNED, _UPSIDE_DOWN, _MIRRORED = (5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7)  # which sides change, or change ends


class RefusedImage(ValueError):
    """An image that cannot be used; `reason` is one of REASONS (or the status of a failed download)."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple:
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
        if self.max_pixels > PILLOW_MAX_PIXELS:
            raise ValueError(f"limits.max_pixels must be at most {PILLOW_MAX_PIXELS}, got {self.max_pixels}")
        if not self.max_aspect >= 1:
            raise ValueError(f"limits.max_aspect must be at least 1, got {self.max_aspect}")
        if not 0 <= self.flat_range <= 255:
            raise ValueError(f"limits.flat_range must be between 0 and 255, got {self.flat_range}")


@dataclass(frozen=True)
class Picture:
    """A decoded image, perhaps at a half, a quarter or an eighth of its size.

    Args:
        pixels: uint8 [H, W, 3], upright.
        height: Of the whole image in pixels.
        width: Likewise.
        factor: Pixels of the whole image to one here, in each direction: 1, 2, 4 or 8.
        above: Rows of the whole image's grid that lie above its first row, where the size is no multiple of factor
            and EXIF turns the image round: row y of the whole one lies at (y + above) / factor here.
        before: Columns likewise.
    """

    pixels: np.ndarray
    height: int
    width: int
    factor: int = 1
    above: int = 0
    before: int = 0

    @staticmethod
    def whole(pixels: np.ndarray) -> "Picture":
        """All pixels of an image; writable, as kernels are compiled anew for memory that is not."""
        return Picture(np.require(pixels, requirements=["C", "W"]), *pixels.shape[:2])


@dataclass(frozen=True)
class Header:
    """What a file says of its image before it is decoded.

    Args:
        height: Of the pixels as they are stored.
        width: Likewise.
        orientation: EXIF's, 1 where they are stored upright.
    """

    height: int
    width: int
    orientation: int = 1

    @property
    def turned(self) -> bool:
        """Whether height and width change places where the image is upright."""
        return self.orientation in _TURNED

    @property
    def mirrored(self) -> bool:
        """Whether its columns then change ends."""
        return self.orientation in _MIRRORED

    @property
    def upside_down(self) -> bool:
        """Whether its rows then change ends."""
        return self.orientation in _UPSIDE_DOWN

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        return (self.width, self.height) if self.turned else (self.height, self.width)

    def turn(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [H, W, ...] as they are stored, upright."""
        return _UPRIGHT.get(self.orientation, np.asarray)(pixels)


def read_header(path: Path) -> Header:
    """Of an image file, of which no more is read. Raises RefusedImage or OSError."""
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata
        try:
            image = Image.open(file, formats=FORMATS)
        except BOMB as error:
            raise RefusedImage("too_large", str(error)) from None
        except DAMAGE:
            raise RefusedImage("not_an_image" if os.fstat(file.fileno()).st_size else "empty") from None
        return Header(image.height, image.width, _orientation(image))


def decode_rgb(data: bytes, limits: ImageLimits | None = None) -> np.ndarray:
    """uint8 [H, W, 3] of JPEG, PNG, WebP, GIF (first frame), BMP or TIFF bytes, upright by EXIF.

    CMYK, 16-bit, grey and palette images are converted, transparent pixels laid on white. Memory stays within about
    20 bytes times max_pixels: the size is checked in the header, before decoding. Damaged data counts as truncated.
    Raises RefusedImage, and nothing else, whatever the bytes.
    """
    return decode_picture(data, limits or ImageLimits()).pixels


def decode_picture(data: bytes, limits: ImageLimits, factor: Callable[[int, int], int] | None = None) -> Picture:
    """As decode_rgb; factor: of the upright height and width, by how much a JPEG may be reduced while it is decoded.

    Libjpeg then computes fewer pixels of each block of 8 x 8. Other formats are decoded whole.
    """
    if not data:
        raise RefusedImage("empty")
    if len(data) > limits.max_bytes:
        raise RefusedImage("too_large", f"{len(data)} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels decide
        try:
            data = thinned(data)
        except Excess as error:
            raise RefusedImage("too_large", str(error)) from None
        picture = _decode(data, _open(data, limits), factor)
    _check_shape(picture.width, picture.height, limits)
    # What is reduced may be flat although the image is not.
    if picture.factor == 1 and _is_flat(picture.pixels, limits.flat_range):
        raise RefusedImage("flat_colour")
    return picture


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """The image with its header read and its size allowed, nothing decoded."""
    _check_pixels(_webp_size(data), limits)  # older Pillows allocate a WebP's canvas when they open it
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except BOMB as error:
        raise RefusedImage("too_large", str(error)) from None
    except DAMAGE as error:  # UnidentifiedImageError is an OSError
        begins = data.startswith(MAGIC) or _webp_size(data) != (0, 0)
        if len(data) < MIN_BYTES or not begins:
            raise RefusedImage("not_an_image") from None
        raise _damage(error) from None
    _check_pixels(image.size, limits)
    if image.format == "BMP" and image.tile and image.tile[0][0] == "bmp_rle":
        if max(len(data), image.size[0] * image.size[1]) > MAX_RLE:
            raise RefusedImage("too_large", f"{len(data)} bytes of run lengths")
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # one tile may be larger than its image
        width, height = (image.tag_v2.get(tag) for tag in (_TILE_WIDTH, _TILE_LENGTH))
        if isinstance(width, int) and isinstance(height, int):
            _check_pixels((width, height), limits)
    return image


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in a WebP's header; zeros where there is none."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0, 0
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _check_pixels(size: tuple[int, int], limits: ImageLimits) -> None:
    if size[0] * size[1] > limits.max_pixels:
        raise RefusedImage("too_large", f"{size[0]} x {size[1]} pixels")


def _check_shape(width: int, height: int, limits: ImageLimits) -> None:
    short, long = sorted((width, height))
    # A strip with one usable side is refused for its shape; only what is small both ways is too small.
    if long > limits.max_aspect * short and long >= limits.min_side_px:
        raise RefusedImage("extreme_aspect", f"{width} x {height} pixels")
    if short < limits.min_side_px:
        raise RefusedImage("too_small", f"{width} x {height} pixels")


def _is_flat(pixels: np.ndarray, flat_range: int) -> bool:
    """Whether every channel spans fewer than flat_range levels. A coarse grid clears nearly every image at once."""
    for part in (pixels[::8, ::8], pixels):
        spans = [int(part[..., channel].max()) - int(part[..., channel].min()) for channel in range(3)]
        if max(spans) >= flat_range:
            return False
    return True


def _decode(data: bytes, image: Image.Image, factor: Callable[[int, int], int] | None) -> Picture:
    pixels, reduced = None, 1
    if image.format in ("JPEG", "MPO"):
        turned = _orientation(image) in _TURNED
        reduced = factor(*(image.size if turned else image.size[::-1])) if factor else 1
        pixels = _decode_jpeg(data, image, reduced)
        if pixels is None:
            reduced = 1
    if pixels is None:
        try:
            image.load()
        except BOMB as error:
            raise RefusedImage("too_large", str(error)) from None
        except DAMAGE as error:
            raise _damage(error) from None
        pixels = _convert(image)
    orientation = _orientation(image)
    pixels = np.require(_UPRIGHT.get(orientation, np.asarray)(pixels), requirements=["C", "W"])  # see Picture.whole
    width, height = image.size[::-1] if orientation in _TURNED else image.size
    above = pixels.shape[0] * reduced - height if orientation in _UPSIDE_DOWN else 0
    before = pixels.shape[1] * reduced - width if orientation in _MIRRORED else 0
    return Picture(pixels, height, width, reduced, above, before)


def _damage(error: BaseException) -> RefusedImage:
    # Pillow's words for a text or colour profile chunk that inflates beyond measure, the pixels may be sound
    reason = "too_large" if "MAX_TEXT" in str(error) else "truncated"
    return RefusedImage(reason, f"{type(error).__name__}: {error}")


def _decode_jpeg(data: bytes, image: Image.Image, factor: int) -> np.ndarray | None:
    """Pixels of an 8-bit JPEG by libjpeg-turbo, without a factor equal to Pillow's; None where Pillow is to decide.

    Pillow takes a scan that ends early for a whole one, half grey; libjpeg-turbo tells it.
    """
    most = max(USUAL_SCANS, min(MAX_SCANS, MAX_SCANNED // (image.size[0] * image.size[1])))
    try:
        check_scans(data, most)
    except Excess as error:
        raise RefusedImage("too_large", str(error)) from None
    try:
        import simplejpeg
    except ImportError:
        return None
    cmyk = image.mode == "CMYK"
    width, height = (-(-side // factor) for side in image.size)
    least = {"min_height": height, "min_width": width, "min_factor": factor} if factor > 1 else {}
    try:
        pixels = simplejpeg.decode_jpeg(data, "CMYK" if cmyk else "RGB", **least)
    except ValueError as error:
        if any(words in str(error) for words in ("end of data segment", "bad Huffman code")):
            raise RefusedImage("truncated", str(error)) from None
        return None
    if pixels.shape[:2] != (height, width):
        return None
    if cmyk:  # stored inverted, after Adobe
        np.invert(pixels, out=pixels)
        pixels = np.asarray(Image.frombytes("CMYK", (width, height), pixels.tobytes()).convert("RGB"))
    return pixels


def _orientation(image: Image.Image) -> int:
    if max(len(image.info.get(name) or "") for name in ("exif", "Raw profile type exif")) > MAX_EXIF_BYTES:
        return 1  # tags may share bytes, and older Pillows copy them for each
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except DAMAGE:
        return 1  # a damaged EXIF block says nothing about the pixels


def _convert(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of a loaded image of any mode."""
    if image.mode == "LAB":  # Pillow converts from every mode of our formats but this
        raise RefusedImage("not_an_image", "colours in LAB")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_grey(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(colours, mask=colours.getchannel("A"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _from_deep_grey(image: Image.Image) -> np.ndarray:
    """16 bits to 8 by scale, not by clipping; wider integers and floats by their own range.

    8-bit values stored in 16 bits, and floats within [0, 1] or [0, 255], are taken as what they are.
    """
    values = np.nan_to_num(np.array(image, dtype=np.float32), copy=False, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        values = (values - low) * (255.0 / (high - low))
    elif high > 255:
        values = values / 257.0
    elif image.mode == "F" and high <= 1:
        values = values * 255.0
    grey = np.clip(values + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
