import io
import os
import pickle
import random
import resource
import struct
import time
import traceback
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules.decoding import REASONS, ImageLimits, RefusedImage, decode_picture, decode_rgb

LIMITS = ImageLimits(max_pixels=1_000_000)


def picture(height: int = 48, width: int = 64) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 200 // width, y * 200 // height, (x + y) * 200 // (width + height)], -1)
    return Image.fromarray((smooth + np.random.default_rng(0).integers(0, 30, smooth.shape)).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def reason(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(RefusedImage) as refused:
        decode_rgb(data, limits)
    return refused.value.reason


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, pixels: bytes, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


IMAGE = picture()
PIXELS = np.asarray(IMAGE)
SAMPLES = {
    "jpeg": encoded(IMAGE, "JPEG"),
    "progressive": encoded(IMAGE, "JPEG", progressive=True),
    "jpeg rotated": encoded(IMAGE, "JPEG", exif=turned(6)),
    "jpeg cmyk": encoded(IMAGE.convert("CMYK"), "JPEG"),
    "jpeg grey": encoded(IMAGE.convert("L"), "JPEG"),
    "mpo": encoded(IMAGE, "MPO", save_all=True, append_images=[IMAGE]),
    "png": encoded(IMAGE, "PNG"),
    "png palette": encoded(IMAGE.convert("P"), "PNG"),
    "png alpha": encoded(IMAGE.convert("RGBA"), "PNG", exif=turned(3)),
    "png 1 bit": encoded(IMAGE.convert("1"), "PNG"),
    "png 16 bit": encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"),
    "webp": encoded(IMAGE, "WEBP"),
    "webp lossless": encoded(IMAGE, "WEBP", lossless=True),
    "webp animated": encoded(IMAGE, "WEBP", save_all=True, append_images=[ImageOps.flip(IMAGE)]),
    "gif": encoded(IMAGE, "GIF"),
    "gif animated": encoded(IMAGE, "GIF", save_all=True, append_images=[ImageOps.flip(IMAGE)] * 3),
    "bmp": encoded(IMAGE, "BMP"),
    "tiff": encoded(IMAGE, "TIFF"),
    "tiff lzw": encoded(IMAGE, "TIFF", compression="tiff_lzw"),
    "tiff cmyk": encoded(IMAGE.convert("CMYK"), "TIFF"),
    "tiff float": encoded(Image.fromarray((PIXELS[..., 0] / 255).astype(np.float32)), "TIFF"),
    "tiff grey alpha": encoded(IMAGE.convert("LA"), "TIFF"),
}


LOSSLESS = ("png", "png alpha", "bmp", "tiff", "webp lossless", "png 16 bit")


@pytest.mark.parametrize("name", SAMPLES)
def test_decode_rgb__every_format_gives_the_picture(name: str) -> None:
    pixels = decode_rgb(SAMPLES[name], LIMITS)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    expected = PIXELS
    if "grey" in name or "1 bit" in name:
        expected = np.asarray(IMAGE.convert("L").convert("RGB"))
    elif "16 bit" in name or "float" in name:
        expected = PIXELS[..., :1].repeat(3, -1)
    expected = {"jpeg rotated": np.rot90(expected, -1), "png alpha": expected[::-1, ::-1]}.get(name, expected)
    assert pixels.shape == expected.shape
    if name == "png 1 bit":
        assert set(np.unique(pixels)) == {0, 255}
    else:
        coarse = 25 if "gif" in name or "palette" in name else 10
        assert np.abs(pixels.astype(int) - expected).mean() < (1e-9 if name in LOSSLESS else coarse)


@pytest.mark.parametrize("name", ["jpeg", "progressive", "jpeg grey", "jpeg cmyk", "mpo"])
def test_decode_rgb__fast_jpeg_equals_pillow(name: str) -> None:
    image = Image.open(io.BytesIO(SAMPLES[name])).convert("RGB")
    np.testing.assert_array_equal(decode_rgb(SAMPLES[name], LIMITS), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_decode_rgb__upright(kind: str, orientation: int) -> None:
    data = encoded(IMAGE, kind, exif=turned(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decode_rgb(data, LIMITS), expected)


def test_decode_rgb__damaged_exif_does_not_matter() -> None:
    data = encoded(IMAGE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_rgb(data, LIMITS).shape == (48, 64, 3)


def test_decode_rgb__transparency_is_white() -> None:
    rgba = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])
    rgba[:10, :, 3] = 0
    rgba[10:20, :, 3] = 128
    pixels = decode_rgb(encoded(Image.fromarray(rgba), "PNG"), LIMITS)
    assert (pixels[:10] == 255).all()
    np.testing.assert_allclose(pixels[10:20], PIXELS[10:20] * (128 / 255) + 127, atol=1)
    np.testing.assert_array_equal(pixels[20:], PIXELS[20:])
    palette = IMAGE.convert("P")
    pixels = decode_rgb(encoded(palette, "PNG", transparency=palette.getpixel((5, 5))), LIMITS)
    assert (pixels[5, 5] == 255).all()


def test_decode_rgb__16_bits_are_scaled_not_clipped() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    for data in (encoded(Image.fromarray(ramp), "PNG"), encoded(Image.fromarray(ramp), "TIFF")):
        pixels = decode_rgb(data, LIMITS)
        np.testing.assert_allclose(pixels[..., 1], ramp / 257, atol=0.51)
    rows = b"".join(b"\0" + np.repeat(row[:, None], 3, 1).astype(">u2").tobytes() for row in ramp)
    np.testing.assert_allclose(decode_rgb(png(64, 48, 16, 2, rows), LIMITS)[..., 2], ramp / 257, atol=1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"<!doctype html><title>404</title>Not found" * 9, "not_an_image"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>', "not_an_image"),
        (random.Random(0).randbytes(4000), "not_an_image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "not_an_image"),
        (b"\x89PNG\r\n\x1a\n", "not_an_image"),
        (b"RIFF\0\0\0\0WAVEfmt " + bytes(99), "not_an_image"),
        (b"BM begins this text, which is no bitmap. " * 9, "not_an_image"),
        (SAMPLES["jpeg"][:-200], "truncated"),
        (SAMPLES["jpeg"][:-200] + b"\xff\xd9", "truncated"),
        (SAMPLES["progressive"][:-200] + b"\xff\xd9", "truncated"),
        (SAMPLES["jpeg cmyk"][:-200] + b"\xff\xd9", "truncated"),
        (SAMPLES["jpeg rotated"][:-200] + b"\xff\xd9", "truncated"),
        (encoded(picture(31, 40), "PNG"), "too_small"),
        (encoded(picture(8, 8), "PNG"), "too_small"),
        (encoded(picture(40, 400), "PNG"), "extreme_aspect"),
        (encoded(picture(2, 300), "PNG"), "extreme_aspect"),
        (encoded(Image.new("RGB", (64, 64), (255, 0, 7)), "JPEG"), "flat_colour"),
        (encoded(Image.new("RGBA", (64, 64)), "PNG"), "flat_colour"),
        (encoded(picture(1001, 1000), "BMP"), "too_large"),
    ],
)  # fmt: skip
def test_decode_rgb__refuses_by_reason(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def test_decode_rgb__one_dot_is_not_flat() -> None:
    image = Image.new("RGB", (64, 64), "white")
    image.putpixel((3, 3), (0, 0, 0))  # off the coarse grid
    assert decode_rgb(encoded(image, "PNG"), LIMITS).min() == 0


def test_decode_rgb__file_size_comes_first() -> None:
    assert reason(b"x" * 101, ImageLimits(max_bytes=100)) == "too_large"


def test_decode_rgb__junk_after_the_end_is_ignored() -> None:
    np.testing.assert_array_equal(
        decode_rgb(SAMPLES["jpeg"] + b"junk" * 50, LIMITS), decode_rgb(SAMPLES["jpeg"], LIMITS)
    )


def tiff_of(more: dict[int, tuple[int, int, int]]) -> bytes:
    """Grey, 64 x 48, deflated, with further tags: number -> type, count, value."""
    tags = {256: (3, 1, 64), 257: (3, 1, 48), 258: (3, 1, 8), 259: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1)} | more
    entries = b"".join(struct.pack("<HHII", number, *value) for number, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(200)


def bombs() -> dict[str, bytes]:
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    inflating = b"x\0\0" + zlib.compress(bytes(50_000_000), 9)
    gif, jpeg, webp = SAMPLES["gif"], SAMPLES["progressive"], bytearray(SAMPLES["webp animated"])
    webp[24:30] = b"\xfe\x3f\0\xfe\x3f\0"
    frame = gif.index(b"\x2c\0\0\0\0" + struct.pack("<HH", 64, 48))
    size = jpeg.index(b"\xff\xc2") + 5
    tiff = bytearray(SAMPLES["tiff lzw"])
    width = tiff.index(struct.pack("<HHI", 256, 3, 1))
    struct.pack_into("<HHII", tiff, width, 256, 4, 1, 2**31 - 1)
    return {
        "png 40000 x 40000": png(40000, 40000, 1, 0, bytes(99)),
        "png profile": png(64, 48, 8, 2, rows, chunk(b"iCCP", inflating)),
        "png text": png(64, 48, 8, 2, rows, chunk(b"zTXt", inflating)),
        "gif screen": gif[:6] + b"\xff\xff\xff\xff" + gif[10:],
        "gif frame": gif[: frame + 5] + b"\xff\xff\xff\xff" + gif[frame + 9 :],
        "gif far frame": gif[: frame + 1] + b"\xf0\xff\xf0\xff" + gif[frame + 5 :],
        "webp canvas": bytes(webp),
        "jpeg 65535 x 65535": jpeg[:size] + b"\xff\xff\xff\xff" + jpeg[size + 4 :],
        "jpeg scans": jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * 500 + b"\xff\xd9",
        "tiff width": bytes(tiff),
        "tiff tile": tiff_of({322: (4, 1, 30000), 323: (4, 1, 30000), 324: (4, 1, 8), 325: (4, 1, 99)}),
        "bmp run lengths": b"BM" + struct.pack("<IIIIiiHHII", 8_000_100, 0, 54, 40, 64, 48, 1, 8, 1, 8_000_000)
        + bytes(8_000_100),
    }  # fmt: skip


@pytest.mark.parametrize("name", bombs())
def test_decode_rgb__bombs_cost_nothing(name: str) -> None:
    data = bombs()[name]
    start = time.process_time()
    assert reason(data) == "too_large"
    assert time.process_time() - start < 0.5


def test_decode_rgb__only_the_first_frame_is_read() -> None:
    gif = SAMPLES["gif"]
    frame = gif.index(b"\x2c\0\0\0\0" + struct.pack("<HH", 64, 48))
    many = gif[:-1] + gif[frame:-1] * 3000 + b";"
    start = time.process_time()
    np.testing.assert_array_equal(decode_rgb(many, LIMITS), decode_rgb(gif, LIMITS))
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("name", SAMPLES)
def test_decode_rgb__every_truncation_is_refused_or_whole(name: str) -> None:
    data = SAMPLES[name]
    whole = decode_rgb(data, LIMITS)
    step = max(1, len(data) // 400)
    for length in {*range(0, len(data), step), *range(max(0, len(data) - 40), len(data))}:
        try:
            np.testing.assert_array_equal(decode_rgb(data[:length], LIMITS), whole)
        except RefusedImage as error:
            assert error.reason in ("empty", "not_an_image", "truncated")


@pytest.mark.parametrize("name", SAMPLES)
def test_decode_rgb__flipped_bits_give_pixels_or_a_reason(name: str) -> None:
    chance = random.Random(name)
    for trial in range(400):
        data = bytearray(SAMPLES[name])
        reach = len(data) if trial % 2 else min(200, len(data))
        for _ in range(chance.choice((1, 2, 8))):
            place = chance.randrange(reach)
            data[place] = chance.choice((0, 255, data[place] ^ 1 << chance.randrange(8)))
        try:
            assert decode_rgb(bytes(data), LIMITS).ndim == 3
        except RefusedImage as error:
            assert error.reason in REASONS


def grown(work: Callable[[], None]) -> float:
    """MiB by which the largest memory of a child process grows during work; the child's failure fails."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            work()
            os.write(send, b"%d" % (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(send)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with os.fdopen(receive) as pipe:
        return int(pipe.read()) / 1024


def spliced(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Parts of a file left out, repeated, taken from another file, or turned into large numbers."""
    result = bytearray(data)
    for _ in range(chance.choice((1, 2, 4, 16))):
        place, length = chance.randrange(min(len(result), chance.choice((300, 10**6)))), chance.randrange(1, 60)
        part = bytes(result[place : place + length])
        cut = chance.randrange(len(other))
        result[place : place + length] = chance.choice(
            (b"", part * 2, part * 40, other[cut : cut + length], b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0")
        )
        result = result or bytearray(b"\0")
    return bytes(result)


def test_decode_rgb__spliced_files_give_pixels_or_a_reason_in_little_memory() -> None:
    chance, names = random.Random(0), list(SAMPLES)

    def decode_all() -> None:
        for trial in range(800):
            data = spliced(SAMPLES[names[trial % len(names)]], SAMPLES[chance.choice(names)], chance)
            start = time.process_time()
            try:
                assert decode_rgb(data, LIMITS).shape[2] == 3
            except RefusedImage as error:
                assert error.reason in REASONS
            assert time.process_time() - start < 1

    assert grown(decode_all) < 80  # 20 bytes times max_pixels are 19 MiB; the rest is for the libraries


@pytest.mark.parametrize("name", ["jpeg cmyk", "progressive", "png alpha", "png 16 bit", "webp animated", "tiff float"])
def test_decode_rgb__memory_of_the_largest_image(name: str) -> None:
    side = 2000
    image = picture(side, side)
    grey = np.asarray(image.convert("L"))
    data = {
        "jpeg cmyk": lambda: encoded(image.convert("CMYK"), "JPEG"),
        "progressive": lambda: encoded(image, "JPEG", progressive=True, subsampling=0),
        "png alpha": lambda: encoded(image.convert("RGBA"), "PNG", compress_level=1),
        "png 16 bit": lambda: encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG", compress_level=1),
        "webp animated": lambda: encoded(image, "WEBP", save_all=True, append_images=[image], method=0),
        "tiff float": lambda: encoded(Image.fromarray(grey.astype(np.float32)), "TIFF"),
    }[name]()
    decode_rgb(SAMPLES[name], LIMITS)  # what the libraries load once
    assert grown(lambda: decode_rgb(data, ImageLimits(max_pixels=side**2)).sum()) < 20 * side**2 / 2**20


def test_refused_image__survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(RefusedImage("too_large", "9 x 9 pixels")))
    assert (error.reason, error.detail, str(error)) == ("too_large", "9 x 9 pixels", "too_large: 9 x 9 pixels")


@pytest.mark.parametrize(
    "wrong", [{"max_bytes": 0}, {"max_pixels": 10**9}, {"min_side_px": 0}, {"max_aspect": 0.5}, {"flat_range": 256}]
)
def test_image_limits__are_checked(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"limits.{next(iter(wrong))}"):
        ImageLimits(**wrong)


def ramp(orientation: int, height: int = 203, width: int = 301) -> bytes:
    """A JPEG whose red grows downwards and green to the right by the pixel, once EXIF has turned it."""
    y, x = np.mgrid[0:height, 0:width] * 0.8
    upright = Image.fromarray(np.stack([y, x, 0 * x], -1).round().astype(np.uint8))
    undone = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[0x0112] = undone
    stored = upright
    if undone > 1:
        buffer = io.BytesIO()
        upright.save(buffer, "PNG", exif=exif)
        stored = ImageOps.exif_transpose(Image.open(buffer))
    return encoded(stored.convert("RGB"), "JPEG", quality=100, subsampling=0, exif=turned(orientation))


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_picture__reduced_pixels_lie_where_they_should(orientation: int, factor: int) -> None:
    asked = []
    picture = decode_picture(ramp(orientation), LIMITS, lambda *size: asked.append(size) or factor)
    assert asked == [(203, 301)] == [(picture.height, picture.width)] and picture.factor == factor
    assert picture.pixels.shape == (-(-203 // factor), -(-301 // factor), 3)
    rows = (np.arange(picture.pixels.shape[0]) + 0.5) * factor - picture.above - 0.5
    columns = (np.arange(picture.pixels.shape[1]) + 0.5) * factor - picture.before - 0.5
    inside = picture.pixels[1:-1, 1:-1].astype(float)  # blocks at the edge hold pixels that the image has not
    assert np.abs(inside[..., 0].mean(1) - 0.8 * rows[1:-1]).mean() < 0.3  # a pixel is 0.8
    assert np.abs(inside[..., 1].mean(0) - 0.8 * columns[1:-1]).mean() < 0.3


def test_decode_picture__only_a_jpeg_is_reduced_and_damage_is_told() -> None:
    assert decode_picture(encoded(IMAGE, "PNG"), LIMITS, lambda *size: 2).factor == 1
    assert decode_picture(SAMPLES["jpeg cmyk"], LIMITS, lambda *size: 2).pixels.shape == (24, 32, 3)
    with pytest.raises(RefusedImage, match="truncated"):
        decode_picture(SAMPLES["jpeg"][:-200], LIMITS, lambda *size: 2)
    with pytest.raises(RefusedImage, match="too_small"):  # the whole image counts
        decode_picture(encoded(IMAGE.resize((64, 20)), "JPEG"), LIMITS, lambda *size: 2)
    assert decode_picture(encoded(IMAGE.resize((64, 40)), "JPEG"), LIMITS, lambda *size: 2).factor == 2
