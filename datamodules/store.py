"""Random access to images inside tar shards and folders: one pread per image."""

import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class StoreError(RuntimeError):
    """Stored data is not what the index says (a shard was cut, moved or replaced)."""


class ImageStore:
    """Reads byte ranges of files below named folders.

    Keeps the most recently used file descriptors open; safe to fork and to pickle, as each process opens its own.

    Args:
        roots: Name of an input -> its folder (or the one file that it is).
        max_open: File descriptors kept open per process.
    """

    def __init__(self, roots: Mapping[str, Path], max_open: int = 128) -> None:
        self.roots = {name: Path(path) for name, path in roots.items()}
        self.max_open = max_open
        self._open: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._owner = os.getpid()

    def read(self, root: str, shard: str, offset: int, size: int) -> bytes:
        """`size` bytes at `offset` of a file. Raises StoreError naming the shard where they are not there."""
        try:
            data = os.pread(self._descriptor(root, shard), size, offset)
            while 0 < len(data) < size:  # a signal, or a network file system, may cut a read short
                more = os.pread(self._descriptor(root, shard), size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except FileNotFoundError as error:
            raise StoreError(f"{self.path(root, shard)} is gone; the index was made when it was there") from error
        if len(data) != size:
            raise StoreError(
                f"{self.path(root, shard)} holds {len(data)} of the {size} bytes at offset {offset}; "
                "it changed after it was indexed"
            )
        return data

    def path(self, root: str, shard: str) -> Path:
        """The file of a shard."""
        if root not in self.roots:
            raise StoreError(f"the index names an input {root!r}, but roots.json has only {', '.join(self.roots)}")
        folder = self.roots[root]
        return folder / shard if folder.is_dir() else folder

    def _descriptor(self, root: str, shard: str) -> int:
        if self._owner != os.getpid():  # after a fork the parent's descriptors stay the parent's
            self._open = OrderedDict()
            self._owner = os.getpid()
        name = (root, shard)
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        descriptor = os.open(self.path(root, shard), os.O_RDONLY)
        self._open[name] = descriptor
        while len(self._open) > self.max_open:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def close(self) -> None:
        """Closes what this process opened."""
        if self._owner == os.getpid():
            for descriptor in self._open.values():
                os.close(descriptor)
        self._open = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"roots": self.roots, "max_open": self.max_open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        self.close()
