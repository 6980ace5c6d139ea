"""The images of a data set in order: where they lie, and plain batches of them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.decoding import ImageLimits, RefusedImage
from datamodules.files import read_json
from datamodules.image_source import ImageSource
from datamodules.indexing import index_pool
from datamodules.labelled import centre_crop
from datamodules.store import ImageStore, StoreError

ROW_COLUMNS = ["key", "root", "shard", "offset", "size", "source"]
KINDS = (
    "a manifest.parquet, a folder of images or of tar shards, a tar shard, a CSV of paths, torchvision:CLASS?root=DIR, "
    "hf:NAME_OR_DIR?split=train or a known data set such as food-101:DIR"
)


class ImageRows(ImageSource):
    """Where the images lie: Arrow columns key, root, shard, offset, size, source; and the folder of each root."""

    def __init__(self, table: pa.Table, roots: Mapping[str, Path]) -> None:
        self.table, self.roots = table, dict(roots)
        self.store = ImageStore(self.roots)
        root = table["root"].combine_chunks().dictionary_encode()
        self._root_names = root.dictionary.to_pylist()
        # A worker reads no Arrow scalar per image but the shard's name.
        self._root, self._offset, self._size = (
            column.to_numpy(zero_copy_only=False)
            for column in (root.indices, table["offset"].combine_chunks(), table["size"].combine_chunks())
        )
        self._shard = table["shard"].combine_chunks()

    def __len__(self) -> int:
        return self.table.num_rows

    def read(self, row: int) -> bytes:
        """The encoded image: one read of its bytes."""
        root = self._root_names[self._root[row]]
        return self.store.read(root, self._shard[row].as_py(), int(self._offset[row]), int(self._size[row]))

    def describe(self, row: int) -> str:
        """The file, and the key of an image inside a shard."""
        path = str(self.store.path(self._root_names[self._root[row]], self._shard[row].as_py()))
        key = self.table["key"][row].as_py()
        return path if path.endswith(key) else f"{key} in {path}"

    def keys(self) -> pa.ChunkedArray:
        """The keys of the index."""
        return self.table["key"]

    def synthetic(self) -> np.ndarray:
        """Bool [N]: whether an image is generated; the rest is real, or unknown."""
        return np.asarray(pc.fill_null(pc.equal(self.table["source"], "synthetic"), False).combine_chunks())

    def fingerprint(self) -> str:
        """Identity of the set of images: a hash of the keys in order."""
        digest = hashlib.sha256()
        for part in self.table.select(["key"]).to_batches(65536):
            digest.update("\n".join(part.column(0).to_pylist()).encode() + b"\n")
        return digest.hexdigest()[:16]


def read_rows(source: str | Path) -> ImageRows:
    """The images of a manifest.parquet (with roots.json beside it), a folder, a tar shard or a folder of shards.

    Raises: FileNotFoundError or ValueError naming `data.source`.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"data.source: {path} does not exist; give {KINDS}. A manifest is written by `curate`")
    if path.suffix == ".parquet":
        table = _read_manifest(path)
        stored = read_json(path.parent / "roots.json")
        if stored is None:
            raise FileNotFoundError(f"data.source: roots.json is missing beside {path}; copy it with the manifest")
        roots = {name: Path(folder) for name, folder in stored.items()}
    else:
        try:
            table = index_pool(path).select(ROW_COLUMNS)
        except ValueError as error:
            raise ValueError(f"data.source: {error}") from error
        roots = {"pool": path if path.is_dir() else path.parent}
    unknown = set(pc.unique(table["root"]).to_pylist()) - set(roots)
    missing = [str(folder) for name, folder in roots.items() if not folder.exists()]
    if unknown or missing:
        raise FileNotFoundError(
            f"data.source: {path} names images below {', '.join(sorted(unknown) or missing)}, which is not there; "
            "put the folder back or correct roots.json"
        )
    return ImageRows(table.filter(pc.is_valid(table["size"])).combine_chunks(), roots)


def _read_manifest(path: Path) -> pa.Table:
    try:
        names = pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"data.source: {path} is no Parquet file ({error}); give a manifest of `curate`") from error
    missing = [name for name in ROW_COLUMNS if name not in names]
    if missing:
        raise ValueError(
            f"data.source: {path} has no column {', '.join(missing)}; a manifest of `curate` has them. Images that are "
            "inside a Parquet file are read with hf:FOLDER?column=NAME"
        )
    return pq.read_table(path, columns=ROW_COLUMNS)


class PlainBatches(Dataset):
    """All images of a data set with the test transform (short side to S * 256 / 224, centre crop S), batch by batch.

    Items are {"image": uint8 [B, 3, S, S], "row": int64 [B]}; an image that cannot be read has no row, so B may be 0.
    """

    def __init__(self, source: ImageSource, image_size: int, batch_size: int, limits: ImageLimits) -> None:
        self.source = source
        self.image_size, self.batch_size, self.limits = image_size, batch_size, limits

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, batch: int) -> dict[str, Tensor]:
        first = batch * self.batch_size
        images, rows = [], []
        for row in range(first, min(first + self.batch_size, len(self.source))):
            try:
                pixels = self.source.pixels(row, self.limits)
            except (RefusedImage, StoreError, OSError):
                continue
            images.append(centre_crop(pixels, self.image_size))
            rows.append(row)
        shape = (0, 3, self.image_size, self.image_size)
        stacked = np.stack(images) if images else np.empty(shape, np.uint8)
        return {"image": torch.from_numpy(stacked), "row": torch.tensor(rows, dtype=torch.int64)}
