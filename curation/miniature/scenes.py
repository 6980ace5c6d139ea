"""A messy pool of composed scenes with a known answer, and labelled sets to judge a backbone.

Domain: printed fabrics in ten patterns. Outside it: bare grounds, handwritten digits, letters, drawings, words.
"""

import hashlib
import io
import json
import struct
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curation.miniature.drawing import PATTERNS, WORDS, altered, card, fabric, other, written

SHARD_SIZE = 400
TRAIN, TEST = 500, 400  # labelled images


@dataclass
class Item:
    """One file of the pool and its answer."""

    kind: str
    group: str
    in_domain: bool
    ext: str
    data: bytes
    caption: str


def make_scenes(out: Path, seed: int = 0, images: int = 1400) -> None:
    """Writes out/pool (WebDataset shards), out/truth.parquet, out/train, out/test, out/leak.

    About `images` files: 62 % fabrics with copies, 30 % outside the domain, the rest leaks and broken files. The same
    seed gives the same bytes. truth.parquet: key, kind, group, in_domain; never read by the pipeline.
    """
    rng = np.random.default_rng([seed, 1])
    items = _inside(rng, round(images * 0.5)) + _outside(rng, round(images * 0.3))
    _labelled(out / "train", np.random.default_rng([seed, 2]), TRAIN)
    tests = _labelled(out / "test", np.random.default_rng([seed, 3]), TEST)
    items += _leaks(rng, out / "leak", tests, round(images * 0.03))
    items += [_broken(number, items[number], rng) for number in range(round(images * 0.02))]
    rng.shuffle(items)
    _write(out, items)


def encode(image: Image.Image, ext: str = "jpg", quality: int = 92) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    if ext == "jpg":
        image.save(buffer, "JPEG", quality=quality)
    else:
        image.save(buffer, ext.upper())
    return buffer.getvalue()


def _inside(rng: np.random.Generator, count: int) -> list[Item]:
    items = []
    for number in range(count):
        scene = fabric(rng, PATTERNS[rng.integers(len(PATTERNS))])
        group = f"fabric-{number}"
        ext, data = _odd(number // 40, scene.image) if number % 40 == 39 else ("jpg", encode(scene.image))
        items.append(Item("photo", group, True, ext, data, scene.caption))
        if rng.random() < 0.17:
            for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
                copy, quality = altered(rng, scene.image)
                items.append(Item("duplicate", group, True, "jpg", encode(copy, quality=quality), scene.caption))
    return items


def _outside(rng: np.random.Generator, count: int) -> list[Item]:
    items = []
    for number in range(count):
        scene = other(rng)
        name = PATTERNS[rng.integers(len(PATTERNS))]
        if number % 5 == 0:
            image = written(rng, scene.image, name)
            items.append(Item("ood_text", f"ood-{number}", False, "jpg", encode(image), f"{name} fabric"))
        elif number % 12 == 1:
            word = (*PATTERNS, *WORDS)[rng.integers(len(PATTERNS) + len(WORDS))]
            items.append(Item("text_only", f"text-{number}", False, "jpg", encode(card(rng, word)), "special offer"))
        else:
            items.append(Item("ood", f"ood-{number}", False, "jpg", encode(scene.image), scene.caption))
    return items


def _labelled(folder: Path, rng: np.random.Generator, count: int) -> list[Image.Image]:
    """Fabrics of all patterns in turn, as folder/PATTERN/NUMBER.png."""
    scenes = []
    for number in range(count):
        name = PATTERNS[number % len(PATTERNS)]
        scene = fabric(rng, name)
        path = folder / name / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(scene.image, "png"))
        scenes.append(scene.image)
    return scenes


def _leaks(rng: np.random.Generator, folder: Path, tests: list[Image.Image], count: int) -> list[Item]:
    """All test images, to screen against, and altered copies of some of them in the pool."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(tests):
        (folder / f"test-{number:04d}.png").write_bytes(encode(image, "png"))
    items = []
    for number in rng.choice(len(tests), min(count, len(tests)), replace=False).tolist():
        copy, quality = altered(rng, tests[number])
        items.append(Item("leak", f"test-{number:04d}", True, "jpg", encode(copy, quality=quality), "a fabric"))
    return items


def _odd(number: int, image: Image.Image) -> tuple[str, bytes]:
    """Files that look wrong and are not: (extension, bytes)."""
    kind = ("CMYK", "L", "RGBA", "webp", "gif", "rotated", "16 bit", "progressive")[number % 8]
    buffer = io.BytesIO()
    if kind in ("CMYK", "L"):
        image.convert(kind).save(buffer, "JPEG")
    elif kind == "RGBA":
        image.convert("RGBA").save(buffer, "PNG")
        return "png", buffer.getvalue()
    elif kind in ("webp", "gif"):
        return kind, encode(image, kind)
    elif kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.rotate(90, expand=True).save(buffer, "JPEG", exif=exif)
    elif kind == "16 bit":
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(buffer, "PNG")
        return "png", buffer.getvalue()
    else:
        image.save(buffer, "JPEG", progressive=True)
    return "jpg", buffer.getvalue()


def _broken(number: int, sample: Item, rng: np.random.Generator) -> Item:
    """Files that a download of the open web really brings."""
    jpeg = encode(Image.new("RGB", (64, 64), "white"))
    cases = [
        ("truncated", "jpg", sample.data[: len(sample.data) // 3]),
        ("empty", "jpg", b""),
        ("html", "jpg", b"<!doctype html><title>404</title>Not found"),
        ("noise", "jpg", rng.bytes(2000)),
        ("blank", "jpg", jpeg),
        ("one_pixel", "jpg", encode(Image.new("RGB", (1, 1)))),
        ("strip", "jpg", encode(Image.fromarray(rng.integers(0, 255, (6, 600, 3), dtype=np.uint8)))),
        ("bomb", "png", _bomb(40000)),
    ]
    name, ext, data = cases[number % len(cases)]
    return Item("broken", name, False, ext, data, "image")


def _bomb(side: int) -> bytes:
    """A small PNG that declares side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _write(out: Path, items: list[Item]) -> None:
    pool = out / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    truth = []
    for first in range(0, len(items), SHARD_SIZE):
        shard = first // SHARD_SIZE
        with tarfile.open(pool / f"{shard:05d}.tar", "w") as tar:
            for number, item in enumerate(items[first : first + SHARD_SIZE]):
                key = f"{shard:05d}{number:04d}"
                url = f"https://images.example/{hashlib.sha256(item.data).hexdigest()[:12]}.{item.ext}"
                meta = json.dumps({"key": key, "url": url, "caption": item.caption, "status": "success"}).encode()
                for ext, data in ((item.ext, item.data), ("txt", item.caption.encode()), ("json", meta)):
                    info = tarfile.TarInfo(f"{key}.{ext}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                truth.append({"key": key, "kind": item.kind, "group": item.group, "in_domain": item.in_domain})
    pq.write_table(pa.Table.from_pylist(truth), out / "truth.parquet")
