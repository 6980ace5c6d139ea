import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from datamodules.containers import Excess, check_scans, thinned
from datamodules.decoding import RefusedImage, decode_rgb

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
JFIF_END = 20  # SOI and the APP0 that Pillow writes


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    IMAGE.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def segment(kind: int, data: bytes = b"") -> bytes:
    return bytes((0xFF, kind)) + struct.pack(">H", len(data) + 2) + data


def tiff(*tags: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """A TIFF of tags (number, type, count, value or place) alone, classic, little-endian."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


JPEG, PNG, GIF = encoded("JPEG"), encoded("PNG"), encoded("GIF", transparency=3)
FRAME = GIF.index(b"\x2c\0\0\0\0" + struct.pack("<HH", 64, 48))
CONTROL = GIF.index(b"!\xf9")
SIZE = 2_000_000

CROWDED = {
    "jpeg applications": JPEG[:JFIF_END] + segment(0xE5) * (SIZE // 4) + JPEG[JFIF_END:],
    "jpeg exif": JPEG[:2] + segment(0xE1, b"Exif\0\0x") * (SIZE // 11) + JPEG[2:],
    "jpeg tables": JPEG[:JFIF_END] + segment(0xDB) * (SIZE // 4) + JPEG[JFIF_END:],
    "jpeg comments": JPEG[:JFIF_END] + segment(0xFE) * (SIZE // 4) + JPEG[JFIF_END:],
    "png chunks": PNG[:33] + chunk(b"teSt") * (SIZE // 12) + PNG[33:],
    "png pieces": PNG[:33] + chunk(b"IDAT") * (SIZE // 12) + PNG[33:],
    "gif blocks": GIF[:FRAME] + b"!\xfe" + b"\1c" * (SIZE // 2 + 9) + b"\0" + GIF[FRAME:],
    "tiff tags": tiff(*[(1000 + i, 7, 4, 0) for i in range(5000)]),
    "tiff strips": tiff((273, 3, SIZE // 2, 26), data=bytes(SIZE)),
    "tiff strips in bytes": tiff((273, 1, SIZE, 26), data=bytes(SIZE)),
    "tiff shared bytes": tiff(*[(1000 + i, 7, 50_000, 500) for i in range(30)], data=bytes(60_000)),
}


@pytest.mark.parametrize("name", CROWDED)
def test_thinned__more_parts_than_a_picture_has(name: str) -> None:
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Excess):
        thinned(CROWDED[name])
    with pytest.raises(RefusedImage) as refused:
        decode_rgb(CROWDED[name])
    assert refused.value.reason == "too_large"
    assert time.process_time() - start < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


WORDY = {
    "jpeg": JPEG[:JFIF_END] + segment(0xE2, bytes(60_000)) * 500 + segment(0xFE, b"by hand") + JPEG[JFIF_END:],
    "jpeg many exif": JPEG[:JFIF_END] + segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 100 + JPEG[JFIF_END:],
    "gif": GIF[:FRAME] + b"!\xfe" + (b"\xff" + b"c" * 255) * 10_000 + b"\0" + GIF[FRAME:],
    "gif controls": GIF[:CONTROL] + b"!\xf9\4\0\0\0\0\0" * 50_000 + GIF[CONTROL:],
    "gif junk": GIF[:FRAME] + b"\1" * 100_000 + GIF[FRAME:],
}


@pytest.mark.parametrize("name", WORDY)
def test_thinned__long_metadata_are_left_out(name: str) -> None:
    plain = JPEG if name.startswith("jpeg") else GIF
    assert len(thinned(WORDY[name])) < len(plain) + 130_000
    np.testing.assert_array_equal(decode_rgb(WORDY[name]), decode_rgb(plain))


@pytest.mark.parametrize(
    "data", [JPEG, encoded("JPEG", progressive=True), PNG, encoded("WEBP"), encoded("TIFF"), b"II*"]
)
def test_thinned__ordinary_files_as_they_are(data: bytes) -> None:
    assert thinned(data) == data


def test_thinned__orientation_and_adobe_colours_stay() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded("JPEG", exif=exif, comment=b"long", icc_profile=bytes(3000))
    assert len(data) - len(thinned(data)) > 3000
    assert decode_rgb(data).shape == (64, 48, 3)
    buffer = io.BytesIO()
    IMAGE.convert("CMYK").save(buffer, "JPEG", comment=b"long")  # inverted, as its Adobe segment says
    cmyk = buffer.getvalue()
    assert b"Adobe" in thinned(cmyk) and b"long" not in thinned(cmyk)
    np.testing.assert_array_equal(decode_rgb(cmyk), np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB")))


def test_thinned__transparent_colour_of_a_gif_stays() -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).repeat(64).reshape(64, 64))
    image.putpalette(bytes(range(192)))
    buffer = io.BytesIO()
    image.save(buffer, "GIF", transparency=0, comment=b"long")
    assert b"long" in buffer.getvalue() and b"long" not in thinned(buffer.getvalue())
    pixels = decode_rgb(buffer.getvalue())
    assert (pixels[0] == 255).all() and pixels[1].max() < 255


def test_check_scans__up_to_the_end() -> None:
    film = JPEG + b"\xff\xda" * 500  # what a phone appends to a picture may hold anything
    np.testing.assert_array_equal(decode_rgb(film), decode_rgb(JPEG))
    hidden = JPEG[:JFIF_END] + segment(0xE1, b"\xff\xda" * 500) + JPEG[JFIF_END:]
    np.testing.assert_array_equal(decode_rgb(hidden), decode_rgb(JPEG))
    progressive = encoded("JPEG", progressive=True)
    scans = progressive.count(b"\xff\xda")
    check_scans(progressive, scans)
    with pytest.raises(Excess, match=f"{scans} scans"):
        check_scans(progressive, scans - 1)


def test_check_scans__a_whole_one_is_the_only_one() -> None:
    buffer = io.BytesIO()
    IMAGE.resize((3000, 3000)).save(buffer, "JPEG", quality=5)
    data = buffer.getvalue()
    again = data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 300 + b"\xff\xd9"
    check_scans(again, 24)  # not counted, as the decoder does not follow them
    start = time.process_time()
    with pytest.raises(RefusedImage, match="truncated"):
        decode_rgb(again)
    assert time.process_time() - start < 1.5


def test_check_scans__fewer_of_a_large_image() -> None:
    def scanned(side: int, times: int) -> bytes:
        buffer = io.BytesIO()
        IMAGE.resize((side, side)).save(buffer, "JPEG", progressive=True, quality=5)
        data = buffer.getvalue()
        return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * times + b"\xff\xd9"

    assert decode_rgb(scanned(64, 60)).shape == (64, 64, 3)
    start = time.process_time()
    with pytest.raises(RefusedImage, match="too_large: .* scans"):
        decode_rgb(scanned(3000, 60))
    assert time.process_time() - start < 1.5


def test_thinned__cut_files_do_not_end_the_walk_with_an_error() -> None:
    whole = [*WORDY.values(), JPEG, PNG, GIF, encoded("TIFF"), b"II+\0\x08\0\0\0" + b"\xff" * 40]
    for data in whole:
        for length in {*range(2, 120), *range(len(data) - 20, len(data))}:
            assert isinstance(thinned(data[:length]), bytes)


def test_thinned__values_outside_of_a_tiff_do_not_count() -> None:
    data = tiff((270, 2, 2**31, 26), (273, 4, 10**6, 10**9))
    assert thinned(data) is data


def test_decode_rgb__run_lengths_of_a_small_bmp() -> None:
    body = b"".join(b"".join(bytes([1, x + y]) for x in range(64)) + b"\0\0" for y in range(48)) + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 64, 48, 1, 8, 1, len(body), 0, 0, 256, 0)
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    data = b"BM" + struct.pack("<IHHI", 14 + 40 + 1024 + len(body), 0, 0, 14 + 40 + 1024) + header + palette + body
    np.testing.assert_array_equal(decode_rgb(data)[::-1, :, 0], np.arange(48)[:, None] + np.arange(64))
