"""The parts of an image file around its pixels, counted and thinned before Pillow reads them.

Pillow walks these parts in Python, keeps each of them, and joins some in time quadratic in their number: a file of a
few megabytes made for it takes gigabytes or hours. Pictures have few such parts, and only the pixels, the orientation
and the transparency are wanted here.
"""

import re
import struct

MAX_PARTS = 65_536  # PNG chunks; 64 MiB of them at 8 KiB are 8192
MAX_SEGMENTS = 10_000  # of a JPEG before its first scan; 64 MiB of the longest are 1000
MAX_APP1 = 2  # EXIF and XMP
MAX_BLOCKS = 1_000_000  # GIF, of up to 255 bytes, before its first frame
MAX_TAGS = 4096  # of a TIFF
MAX_ENTRIES = 500_000  # places and sizes of a TIFF's strips or tiles, and all other numbers

JPEG, PNG, GIF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a")
TIFF = tuple(order + version for order in (b"II", b"MM") for version in (b"*\0", b"\0*", b"+\0", b"\0+"))

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # restarts are part of a scan
_GIF_PART = re.compile(rb"[!,;]")
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class Excess(ValueError):
    """More parts than a picture has."""


def thinned(data: bytes) -> bytes:
    """The same picture, damage included, without the parts that Pillow reads slowly and nobody needs.

    Raises Excess where there are more parts than any picture has.
    """
    if data.startswith(JPEG):
        return _thin_jpeg(data)
    if data.startswith(GIF):
        return _thin_gif(data)
    if data.startswith(PNG):
        _check_png(data)
    elif data.startswith(TIFF):
        _check_tiff(data)
    return data


def check_scans(data: bytes, most: int) -> None:
    """Raises Excess for a JPEG of more scans; what follows its end (a phone's short film, say) is not looked at."""
    if _one_scan(data) or data.count(b"\xff\xda") <= most:
        return
    scans = segments = 0
    place = 2
    while found := _SCAN_END.search(data, place):
        kind, place = data[found.end() - 1], found.end()
        if kind == 0xD9:
            break
        scans += kind == 0xDA
        segments += 1
        if scans > most or segments > MAX_SEGMENTS:
            raise Excess(f"{scans} scans in {segments} segments")
        if kind not in (0x01, 0xD8):
            place += max(2, int.from_bytes(data[place : place + 2], "big"))


def _one_scan(data: bytes) -> bool:
    """Whether a JPEG's first scan has all its colours at once and is not refined: libjpeg then takes no second one.

    Read in the header, as counting goes over all bytes.
    """
    place, colours = 2, 0
    for _ in range(MAX_SEGMENTS):
        if not (found := _MARKER.search(data, place)):
            return False
        kind, place = data[found.end() - 1], found.end()
        if kind in (0xC0, 0xC1) and len(data) > place + 7:  # a frame whose scans are whole
            colours = data[place + 7]
        elif 0xC2 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return False
        elif kind in (0xD9, 0xDA):
            return kind == 0xDA and len(data) > place + 2 and 0 < colours == data[place + 2]
        if kind != 0x01 and not 0xD0 <= kind <= 0xD8:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
    return False


def _thin_jpeg(data: bytes) -> bytes:
    """Without comments and applications' segments, but for JFIF (APP0), EXIF and XMP (APP1) and Adobe (APP14)."""
    kept, begin, place, segments, app1 = [], 0, 2, 0, 0
    while found := _MARKER.search(data, place):
        kind, place = data[found.end() - 1], found.end()
        if kind in (0xD9, 0xDA):
            break
        segments += 1
        if segments > MAX_SEGMENTS:
            raise Excess(f"more than {MAX_SEGMENTS} segments")
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:
            continue
        place += max(2, int.from_bytes(data[place : place + 2], "big"))
        app1 += kind == 0xE1
        if kind == 0xFE or 0xE0 <= kind <= 0xEF and kind not in (0xE0, 0xE1, 0xEE) or kind == 0xE1 and app1 > MAX_APP1:
            kept.append(data[begin : found.start()])
            begin = place
    return b"".join([*kept, data[begin:]]) if kept else data


def _thin_gif(data: bytes) -> bytes:
    """Without the extensions before the first frame, but for the last control, which holds the transparent colour."""
    kept, place, blocks = [], 13, 0
    if len(data) > 10 and data[10] & 0x80:
        place += 3 << (data[10] & 7) + 1
    kept.append(data[:place])
    while (found := _GIF_PART.search(data, place)) and found.group() == b"!":
        begin, place = found.start(), found.end() + 1
        while place < len(data) and data[place]:
            place += 1 + data[place]
            blocks += 1
            if blocks > MAX_BLOCKS:
                raise Excess(f"more than {MAX_BLOCKS} blocks")
        place += 1
        if data[begin + 1 : begin + 2] == b"\xf9":
            kept[1:] = [data[begin:place]]
    if found is None or found.group() != b",":
        return data  # no frame: Pillow tells
    return b"".join([*kept, data[found.start() :]])


def _check_png(data: bytes) -> None:
    place, parts = len(PNG), 0
    while place + 8 <= len(data) and data[place + 4 : place + 8] != b"IEND":
        place += 12 + int.from_bytes(data[place : place + 4], "big")
        parts += 1
        if parts > MAX_PARTS:
            raise Excess(f"more than {MAX_PARTS} chunks")


def _check_tiff(data: bytes) -> None:
    """Tags may share bytes, so that a small file claims much; values that lie outside of the file are not read."""
    order = "<" if data.startswith(b"II") else ">"
    try:
        big = data[2] == 43  # of both byte orders Pillow takes only this as 64 bits
        (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (tags,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
        if tags > MAX_TAGS:
            raise Excess(f"{tags} tags")
        place += 8 if big else 2
        total = entries = 0
        for _ in range(tags):
            tag, kind, count, offset = struct.unpack_from(order + ("HHQQ" if big else "HHII"), data, place)
            place += 20 if big else 12
            size = count * _TIFF_BYTES.get(kind, 0)
            if size > len(data) or (size > (8 if big else 4) and offset + size > len(data)):
                continue
            total += size
            # From 700 on, bytes are metadata, which stay bytes; below, they are numbers like all other kinds.
            entries += count if tag < 700 or kind not in (1, 2, 6, 7) else 0
    except (struct.error, OverflowError):
        return  # cut off: Pillow tells
    if entries > MAX_ENTRIES or total > len(data):
        raise Excess(f"tags of {entries} numbers and {total} bytes")
