"""Compares what this export computes with what the backbone computed when it was exported: `python verify.py`.

Runs wherever the library is that load.py imports; ends with status 1 where a feature differs beyond the tolerance.
"""

import importlib
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import torch


def differences(folder):
    """Name -> (greatest difference, greatest value) of each feature that load.py gives."""
    expected = np.load(Path(folder, "verification.npz"))
    loader = runpy.run_path(str(Path(folder, "load.py")))
    with torch.no_grad():
        found = loader["features"](loader["load"](folder), torch.from_numpy(expected["images"]))
    told = {}
    for name, values in found.items():
        values = np.asarray(values.cpu() if isinstance(values, torch.Tensor) else values, np.float32)
        if values.shape != expected[name].shape:
            raise ValueError(f"{name} has shape {values.shape}, not {expected[name].shape}")
        told[name] = float(np.abs(values - expected[name]).max()), float(np.abs(expected[name]).max())
    if not told:
        raise ValueError("load.py gives no feature")
    return told


def library(folder):
    """Name and version of the library, as it is here."""
    name = json.loads(Path(folder, "metadata.json").read_text())["verification"]["library"]
    return f"{name} {getattr(importlib.import_module(name), '__version__', '')}, " if name else ""


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    tolerance = json.loads((here / "metadata.json").read_text())["verification"]["tolerance"]
    told = differences(here)
    for name, (difference, scale) in told.items():
        print(f"{name:10} greatest difference {difference:.3g} (of {scale:.3g})")
    bad = [name for name, (difference, scale) in told.items() if not difference <= tolerance * scale]
    if bad:
        sys.exit(f"not equal: {', '.join(bad)} beyond {tolerance:g} of the greatest value")
    print(f"verified by {library(here)}torch {torch.__version__}")
