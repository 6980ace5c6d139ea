"""Whether an exported folder computes what the backbone computes: by its library, or by the names recorded from it."""

import contextlib
import copy
import importlib.metadata
import io
import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pas_train.exporting import loaders
from pas_train.exporting.metadata import of_backbone
from pas_train.exporting.source import Source
from pas_train.exporting.target import NamedTarget, Target
from pas_train.weight_layouts import some

IMAGES = 8
FILE = "verification.npz"
LOADERS = Path(loaders.__path__[0])
_LINE = re.compile(r"(\w+) +greatest difference (\S+) \(of (\S+)\)")


@dataclass(frozen=True)
class Verified:
    """Of an export that is right.

    by: what it was verified by. difference, scale: of the worst feature, its greatest value beside. library: whether
    the target's own library loaded it, rather than names that were recorded from it. features: what load.py gives.
    """

    by: str
    difference: float
    scale: float
    library: bool = True
    features: tuple[str, ...] = ()

    def __str__(self) -> str:
        least = f"{self.difference:.2g}" if self.difference else "0.0"
        how = "verified by" if self.library else "held against"
        return f"{how} {self.by}, {IMAGES} images, greatest difference {least} (values up to {self.scale:.3g})"


# What is compared.


def write_proof(target: Target, source: Source, folder: Path) -> None:
    """Writes load.py, verify.py, verification.npz and metadata.json beside the weights."""
    for module, name in ((target.loader, "load.py"), ("verify", "verify.py")):
        shutil.copyfile(LOADERS / f"{module}.py", folder / name)
    write_expected(source, folder)
    compared = {"images": IMAGES, "tolerance": target.tolerance, "library": target.library}
    told = {**of_backbone(source), **source.metadata, "target": target.name, "verification": compared}
    (folder / "metadata.json").write_text(json.dumps(told, indent=1, default=str) + "\n")


def write_expected(source: Source, folder: Path) -> None:
    """Writes verification.npz: images and what the backbone computes of them."""
    images = test_images(source)
    arrays: dict[str, Any] = {name: value.numpy() for name, value in source.outputs(images).items()}
    wrong = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if wrong:
        raise ValueError(f"--ckpt_path: {source.name} computes values that are no numbers ({', '.join(wrong)})")
    np.savez(folder / FILE, images=images.numpy(), **arrays)


def test_images(source: Source) -> Tensor:
    """Float32 [8, 3, S, S], normalised: coloured clouds from coarse to fine, the same for the same size and colours."""
    stream, side = torch.Generator().manual_seed(0), source.image_size
    clouds = torch.zeros(IMAGES, 3, side, side)
    for cells in (2, 4, 8, 16, side):
        noise = torch.randn(IMAGES, 3, cells, cells, generator=stream)
        clouds += torch.nn.functional.interpolate(noise, size=(side, side), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(list(values)).view(3, 1, 1) for values in (source.mean, source.std))
    return (torch.sigmoid(clouds) - mean) / std


# How.


def verify(target: Target, source: Source, folder: Path, python: str | None = None) -> Verified:
    """Loads the folder again and compares. python: of another environment, which has the library.

    Every tensor is held against the names that were recorded from the library, too, where the target has them.
    Raises ValueError saying what differs.
    """
    if not (folder / FILE).exists():
        write_proof(target, source, folder)
    named = by_names(target, source, folder) if isinstance(target, NamedTarget) else None
    if python is not None:
        return by_python(target, folder, python)
    if target.installed():
        return by_library(target, folder)
    if named is None:
        raise ValueError(missing(target))
    return named


def missing(target: Target) -> str:
    """What to say where nothing here can verify an export."""
    return (
        f"--to {target.name} is verified by {target.title}, which is not installed here: {target.install}, or name the "
        "Python of an environment that has it: --python /path/to/bin/python"
    )


def by_library(target: Target, folder: Path) -> Verified:
    """Runs the folder's own verify.py and load.py in this process."""
    unread = io.StringIO()  # bars and notices of the libraries
    try:
        with contextlib.redirect_stdout(unread), contextlib.redirect_stderr(unread):
            told = runpy.run_path(str(folder / "verify.py"))["differences"](folder)
    except Exception as error:  # what loading raises depends on the library
        raise _failed(target, str(error) or type(error).__name__) from error
    return _judged(target, told, library_here(target))


def by_python(target: Target, folder: Path, python: str) -> Verified:
    """Runs the folder's verify.py with another Python."""
    try:
        done = subprocess.run([python, "-B", str(folder / "verify.py")], capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"--python: {python} cannot be run ({error.strerror})") from error
    told = {name: (float(one), float(other)) for name, one, other in _LINE.findall(done.stdout)}
    by = re.search(r"^verified by (.+)$", done.stdout, re.MULTILINE)
    if done.returncode or not told or by is None:
        if told:
            _judged(target, told, f"{target.title} in {python}")
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        why = said[-1] if said else f"it ended with status {done.returncode}"
        if "No module named" in why:
            raise ValueError(f"--python: {python} lacks what --to {target.name} needs ({why}): {target.install}")
        raise _failed(target, f"{why}, says verify.py in {python}")
    return _judged(target, told, by[1])


def by_names(target: NamedTarget, source: Source, folder: Path) -> Verified:
    """Names, shapes and values of the written file against those of the library, and features of what comes back."""
    try:
        written, recorded = dict(target.read(folder)), dict(target.recorded(source))
        back = dict(target.restore(written, source))
    except (KeyError, IndexError, RuntimeError) as error:  # of names that are not where they should be
        raise _failed(target, f"its tensors cannot be read back ({type(error).__name__}: {error})") from error
    groups = {
        "lacks": [name for name in recorded if name not in written],
        "has besides": [name for name in written if name not in recorded],
        "has in another shape": [n for n in recorded if n in written and tuple(written[n].shape) != tuple(recorded[n])],
    }
    _refuse(target, groups)
    own = {name: value for name, value in source.state.items() if not name.endswith("num_batches_tracked")}
    back = {name: value for name, value in back.items() if not name.endswith("num_batches_tracked")}
    groups = {
        "lacks": [name for name in own if name not in back],
        "has besides": [name for name in back if name not in own],
        "has other values in": [n for n in own if n in back and not torch.equal(own[n].float(), back[n].float())],
    }
    _refuse(target, groups)
    judged = _judged(target, _features(source, back, folder), f"the names recorded from {target.title}", library=False)
    return replace(judged, features=target.features(source))


def library_here(target: Target) -> str:
    """Name and version of the library that is installed."""
    if target.library is None:
        return f"torch {torch.__version__}"
    try:
        return f"{target.title} {importlib.metadata.version(target.library)}"
    except importlib.metadata.PackageNotFoundError:
        return target.title


def _features(source: Source, state: Mapping[str, Tensor], folder: Path) -> dict[str, tuple[float, float]]:
    """What a copy of the backbone with these tensors computes, against what the folder says."""
    twin = copy.deepcopy(source.backbone)
    twin.load_state_dict({**source.state, **state})
    expected = np.load(folder / FILE)
    found = Source(twin, source.architecture, source.image_size, source.mean, source.std).outputs(
        torch.from_numpy(expected["images"])
    )
    return {
        name: (float(np.abs(value.numpy() - expected[name]).max()), float(np.abs(expected[name]).max()))
        for name, value in found.items()
    }


def _judged(target: Target, told: Mapping[str, tuple[float, float]], by: str, library: bool = True) -> Verified:
    """The worst feature. Raises ValueError where it is beyond the tolerance."""
    bad = {name: pair for name, pair in told.items() if not pair[0] <= target.tolerance * pair[1]}
    if bad:
        listed = "; ".join(f"{name} by {one:.3g} (of {other:.3g})" for name, (one, other) in bad.items())
        raise _failed(target, f"by {by}, features differ: {listed}")
    worst = max(told.values(), key=lambda pair: pair[0] / max(pair[1], 1e-30))
    return Verified(by, *worst, library, tuple(told))


def _refuse(target: Target, groups: Mapping[str, Sequence[str]]) -> None:
    told = [f"it {said} {len(names)} tensors ({some(names)})" for said, names in groups.items() if names]
    if told:
        raise _failed(target, f"by the names recorded from {target.title}, {'; '.join(told)}")


def _failed(target: Target, why: str) -> ValueError:
    return ValueError(f"--to {target.name}: the export is not what was to be exported: {' '.join(why.split())}")
