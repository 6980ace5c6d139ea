"""A ready clip-retrieval index folder, opened as it is."""

from pathlib import Path
from typing import Any

import numpy as np

from curation.searching.metadata import MetadataFile, metadata_files
from curation.searching.neighbours import Found


class ReadyIndex:
    """A faiss index over unit vectors, and the metadata of its ids.

    clip-retrieval's layout (github.com/rom1504/clip-retrieval, clip_index.py and clip_back.py): FOLDER/image.index and
    FOLDER/text.index, a file of faiss or a folder with populated.index and its lists; FOLDER/metadata/*.parquet, or
    *.arrow, whose rows, in the order of the files' names, are the index's ids.

    modality: which index, image or text. effort: faiss's parameters of the search. key: the yaml key errors name.
    """

    def __init__(self, folder: Path, modality: str, effort: str | None, key: str) -> None:
        path = index_path(folder, modality)
        if path is None:
            raise FileNotFoundError(f"{key}: {folder} holds no {modality}.index")
        self.path, self.effort, self.key = path, effort, key
        self.metadata = index_metadata(folder, key)

    def open(self) -> Any:
        """The index, memory-mapped: lists are read when they are probed. Raises ValueError naming the key."""
        import faiss

        mapped = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
        flags = faiss.IO_FLAG_ONDISK_SAME_DIR if self.path.name == "populated.index" else mapped
        try:
            index = faiss.read_index(str(self.path), flags)
        except RuntimeError as error:
            raise ValueError(f"{self.key}: faiss cannot read {self.path} ({_brief(error)}); get it anew") from None
        rows = sum(file.rows for file in self.metadata)
        if index.ntotal != rows:
            raise ValueError(
                f"{self.key}: {self.path} has {index.ntotal} vectors, but its metadata {rows} rows; they are not of "
                "one index, or files are missing: get the folder anew"
            )
        if self.effort is not None:
            try:
                faiss.ParameterSpace().set_index_parameters(index, self.effort)  # type: ignore[arg-type]
            except RuntimeError as error:
                raise ValueError(
                    f"curation.search.effort is {self.effort!r}, which {self.path.name} does not take "
                    f"({_brief(error)}); give its parameters, such as nprobe=64,efSearch=128, or null for the stored"
                ) from None
        return index


def search(index: Any, queries: np.ndarray, k: int) -> Found:
    """(similarities float32 [Q, k], ids int64 [Q, k]) as the index finds them, falling; -inf and -1 beyond."""
    import faiss

    found, ids = index.search(np.ascontiguousarray(queries, np.float32), k)
    if index.metric_type == faiss.METRIC_L2:  # of unit vectors
        found = 1 - found / 2
    return np.where(ids < 0, -np.inf, found).astype(np.float32), ids.astype(np.int64)


def index_path(folder: Path, modality: str) -> Path | None:
    """The file that faiss opens; None where the folder has no such index."""
    path = folder / f"{modality}.index"
    path = path / "populated.index" if path.is_dir() else path
    return path if path.is_file() else None


def index_metadata(folder: Path, key: str) -> list[MetadataFile]:
    """The metadata of a folder. Raises FileNotFoundError naming the key."""
    place = folder / "metadata"
    for ending in ("parquet", "arrow"):
        if paths := sorted(place.rglob(f"*.{ending}")):
            return metadata_files(paths)
    raise FileNotFoundError(
        f"{key}: {place} holds neither .parquet nor .arrow, so that nobody knows what the index's ids are; "
        "get the folder's metadata too"
    )


def _brief(error: Exception) -> str:
    """What faiss says after the place in its source."""
    return str(error).strip().splitlines()[-1].rpartition("failed: ")[2][:200]
