"""Images of a torchvision data set: `torchvision:CLASS?root=DIR&split=train`."""

import difflib
import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.decoding import BOMB, DAMAGE, RefusedImage
from datamodules.image_source import ImageSource

OPEN = ("transform", "target_transform", "transforms", "loader", "is_valid_file")  # not of a string


class TorchvisionSource(ImageSource):
    """The first element of each item; file by file as bytes where the class reads files, else as pixels.

    Args:
        name: of a class of torchvision.datasets.
        options: its arguments, as text.
        spec: how the person wrote it; errors name it.
    """

    def __init__(self, name: str, options: dict[str, str], spec: str) -> None:
        self.spec = spec
        self.images = _open(name, options, spec)
        if not hasattr(self.images, "__len__") or not hasattr(self.images, "__getitem__"):
            raise ValueError(f"data.source: {spec} gives no access by number; use a class of images")
        try:
            first = self._first(0) if len(self.images) else b""
        except DAMAGE:  # the training replaces it
            return
        if not isinstance(first, (bytes, Image.Image)):
            raise ValueError(f"data.source: the items of {spec} begin with {type(first).__name__}, not with an image")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, row: int) -> bytes | np.ndarray:
        """Bytes of a file, or uint8 [H, W, 3]."""
        try:
            image = self._first(row)
            return image if isinstance(image, bytes) else np.asarray(image.convert("RGB"))
        except OSError:
            raise
        except BOMB as error:
            raise RefusedImage("too_large", str(error)) from None
        except DAMAGE as error:
            raise RefusedImage("truncated", str(error)) from None

    def describe(self, row: int) -> str:
        """The file where the class has a list of them, else the row."""
        files = self._files()
        if files is None:
            return f"image {row} of {self.spec}"
        return str(files[row][0] if isinstance(files[row], tuple) else files[row])

    def fingerprint(self) -> str:
        """Of all files where the class has a list of them, so that an edited one is noticed; else of some images."""
        from datamodules.labelled import ImageFiles

        paths = [os.path.abspath(self.describe(row)) for row in range(len(self))] if self._files() else []
        if not paths or not os.path.isfile(paths[0]):
            return super().fingerprint()
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])
        return ImageFiles([os.path.relpath(path, folder) for path in paths], Path(folder)).fingerprint()

    def _files(self) -> list[Any] | None:
        """The class's own list of paths, or of pairs that begin with one."""
        for name in ("samples", "imgs", "_samples", "_image_files", "_images"):
            files = getattr(self.images, name, None)
            if isinstance(files, list) and len(files) == len(self):
                return files
        return None

    def labels(self) -> tuple[np.ndarray, list[str]]:
        """(labels int64 [N], class names); numbers are names where the class knows none. Raises ValueError.

        Taken of the class's own list where there is one that agrees with some of its items; else of every item.
        """
        looked = sorted({0, len(self) // 2, len(self) - 1} & set(range(len(self))))
        shown = [(row, value) for row in looked for value in [self._label(row)] if value is not None]
        agreeing = (own for own in self._lists() if all(own[row] == value for row, value in shown))
        values = next(agreeing, None) or [self._label(row) for row in range(len(self))]
        bare = next((row for row, value in enumerate(values) if value is None), None)
        if bare is not None:
            raise ValueError(f"data.source: {self.describe(bare)} has no class, or cannot be read; repair or remove it")
        if not all(isinstance(value, int | str) for value in values):
            raise ValueError(f"data.source: the items of {self.spec} are no pairs of an image and its class")
        names = getattr(self.images, "classes", None)
        if isinstance(names, list | tuple) and all(
            isinstance(value, int) and 0 <= value < len(names) for value in values
        ):
            return np.array(values, np.int64), [name if isinstance(name, str) else ", ".join(name) for name in names]
        classes = sorted(set(values))
        place = {value: number for number, value in enumerate(classes)}
        return np.array([place[value] for value in values], np.int64), [str(value) for value in classes]

    def _label(self, row: int) -> Any:
        """The second element of an item, as a plain number where it is one; None of an item that cannot be read."""
        try:
            item = self.images[row]
        except (*BOMB, *DAMAGE):
            return None
        return _plain(item[1]) if isinstance(item, tuple) and len(item) > 1 else None

    def _lists(self) -> list[list[Any]]:
        """Lists of the class that may hold the labels."""
        found = []
        for name in ("targets", "labels", "_labels", "samples", "imgs", "_samples", "y"):
            own = getattr(self.images, name, None)
            if own is not None and hasattr(own, "__len__") and len(own) == len(self):
                found.append([_plain(one[1] if isinstance(one, tuple) and len(one) == 2 else one) for one in own])
        return found

    def _first(self, row: int) -> Any:
        item = self.images[row]
        return item[0] if isinstance(item, tuple) else item


def _plain(value: Any) -> Any:
    """A number of numpy or torch as Python's own."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def read_bytes(path: str | Path) -> bytes:
    """A torchvision loader that decodes nothing."""
    return Path(path).read_bytes()


def find_class(name: str, options: dict[str, str], spec: str) -> tuple[type, dict[str, Any]]:
    """A class of torchvision.datasets and its arguments. Raises ValueError with close names where there is none."""
    from torchvision import datasets

    known = {n: kind for n, kind in vars(datasets).items() if inspect.isclass(kind) and hasattr(kind, "__getitem__")}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)
        raise ValueError(f"data.source: {spec}: torchvision has no data set {name}; did you mean {', '.join(close)}?")
    parameters = _parameters(known[name])
    unknown = sorted(set(options) - set(parameters) | set(options) & set(OPEN))
    if unknown:
        allowed = [parameter for parameter in parameters if parameter not in OPEN]
        raise ValueError(f"data.source: {spec}: {name} has no {', '.join(unknown)}; it takes {', '.join(allowed)}")
    values = {key: _value(text, parameters[key]) for key, text in options.items()}
    for key, value in values.items():
        if bool in (parameters[key].annotation, type(parameters[key].default)) and not isinstance(value, bool):
            raise ValueError(f"data.source: {spec}: {key} must be true or false, got {options[key]}")
    return known[name], values


def _open(name: str, options: dict[str, str], spec: str) -> Any:
    kind, arguments = find_class(name, options, spec)
    ways: list[dict[str, Any]] = [{"loader": read_bytes}, {}] if "loader" in _parameters(kind) else [{}]
    for way in ways:
        try:
            images: Any = kind(**arguments, **way)
        except (ValueError, RuntimeError, OSError, TypeError, ModuleNotFoundError) as error:
            raise ValueError(f"data.source: {spec}: {error}") from error
        try:
            if way and len(images):
                images[0]
        except (AttributeError, TypeError, ValueError, OSError):
            continue  # the class does more with an image than hand it on: let it decode
        break
    return images


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class; those of its parents where it passes the rest on."""
    found: dict[str, inspect.Parameter] = {}
    for parent in kind.__mro__:
        if "__init__" in vars(parent):
            own = inspect.signature(parent.__init__).parameters  # type: ignore[misc]
            for name, parameter in own.items():
                if name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                    found.setdefault(name, parameter)
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
                break
    return found


def _value(text: str, parameter: inspect.Parameter) -> Any:
    """true, false, null and numbers become what they are, except where the class wants text."""
    if str in (parameter.annotation, type(parameter.default)) or "str" in str(parameter.annotation):
        return text
    words = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text
