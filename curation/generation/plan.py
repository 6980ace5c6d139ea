"""Which images are generated, and which shard each goes into: pure functions on tables. Imports no torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# One row an image. number: which of its caption's images. seed: of its noise. picture: the real picture that it begins
# with, relative to the folder of pictures; null for text to image.
WANTED_SCHEMA = pa.schema(
    [
        ("key", pa.string()), ("caption", pa.string()), ("concept", pa.string()), ("number", pa.int32()),
        ("seed", pa.int64()), ("picture", pa.string()),
    ]
)  # fmt: skip

# A picture: its path relative to the folder of pictures, and the SHA-256 of its bytes.
Picture = tuple[str, str]


def image_seed(seed: int, caption: str, number: int) -> int:
    """Seed of one image's noise, in [0, 2^63): the same for the same row, whatever else is generated."""
    digest = hashlib.sha256(json.dumps([seed, caption, number]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def image_key(recipe: str, caption: str, seed: int, picture: str | None = None) -> str:
    """Twenty hexadecimal digits that name an image by all that decides its bytes; safe as the name of a file.

    recipe: fingerprint of the model and the settings. picture: SHA-256 of the real picture that it begins with.
    """
    parts = [recipe, caption, seed, *([picture] if picture else [])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def wanted_images(
    captions: pa.Table, per_caption: int, seed: int, recipe: str, pictures: Mapping[str, Sequence[Picture]] | None
) -> pa.Table:
    """The images to have (WANTED_SCHEMA), caption after caption, keys unique.

    A caption that two concepts share is generated once, for the first of them. pictures: concept -> its real pictures,
    each image begins with one of them; concepts without pictures are left out; None for text to image.
    """
    rows: dict[str, tuple[Any, ...]] = {}
    for concept, caption in zip(captions["concept"].to_pylist(), captions["caption"].to_pylist(), strict=True):
        choice = None if pictures is None else pictures.get(concept, ())
        if choice is not None and not choice:
            continue
        for number in range(per_caption):
            noise = image_seed(seed, caption, number)
            name, checksum = choose_picture(noise, choice) if choice is not None else (None, None)
            key = image_key(recipe, caption, noise, checksum)
            rows.setdefault(key, (key, caption, concept, number, noise, name))
    columns = zip(*rows.values(), strict=True) if rows else [()] * len(WANTED_SCHEMA)
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, WANTED_SCHEMA.types, strict=True)],
                    schema=WANTED_SCHEMA)  # fmt: skip


def choose_picture(seed: int, pictures: Sequence[Picture]) -> Picture:
    """The picture that an image begins with: drawn by the image's seed.

    Every picture draws a number for the seed and the lowest wins, so that one picture more or less changes only the
    images that it is, or was, the first choice of.
    """

    def draw(picture: Picture) -> bytes:
        return hashlib.blake2b(f"{seed}/{picture[1]}".encode(), digest_size=8).digest()

    return min(pictures, key=draw)


def plan_shards(wanted: pa.Table, made: pa.Array, first: int, chunk_rows: int) -> pa.Table:
    """The wanted images that are not made yet, in order, with the number of the shard that each goes into (`shard`).

    made: keys of the images there are. first: number of the first new shard.
    """
    missing = wanted.filter(pc.invert(pc.is_in(wanted["key"], value_set=made))).combine_chunks()
    places = pa.array(range(missing.num_rows), pa.int64())
    shards = pc.add(pc.divide(places, chunk_rows), first)
    return missing.append_column("shard", shards)


def shard_rows(plan: pa.Table) -> dict[int, np.ndarray]:
    """Number of each planned shard -> its rows of the plan, int64."""
    numbers, starts = np.unique(plan["shard"].to_numpy(), return_index=True)
    rows = np.split(np.arange(plan.num_rows), starts[1:])
    return dict(zip(numbers.tolist(), rows, strict=False))


def folder_name(concept: str) -> str:
    """A concept as the name of its folder of pictures is compared: "Fish & Chips" and "fish_chips" are the same."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in concept.casefold()).split())
