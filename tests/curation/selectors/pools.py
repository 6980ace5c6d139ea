"""Candidates with embeddings and scores, written without running a stage."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.selectors import Candidates
from curation.workspace import Workspace, write_part
from tests.curation.small_workspace import finish


def save_candidates(root: Path, vectors: np.ndarray, **columns: Any) -> Candidates:
    """Every second row of a ledger of 2 n images is a candidate; vectors: [n, D] of the candidates, in two parts."""
    space, count = Workspace(root), len(vectors)
    keys = pa.array([f"{number:05d}.jpg" for number in range(2 * count)])
    rows = 2 * np.arange(count)
    for number, part in enumerate(np.array_split(np.arange(count), 2)):
        # The row after the last of each part is embedded too, but no candidate.
        own = np.append(rows[part], rows[part[-1]] + 1) if len(part) else rows[part]
        stored = vectors[np.append(part, part[-1])] if len(part) else vectors[part]
        write_part(space.stage_folder("embed"), number, own, keys, {}, {"image": stored.astype(np.float16)})
    finish(space, "embed")
    ledger = {"key": keys, "source": ["real"] * (2 * count)}
    for name, values in columns.items():
        wide = np.repeat(np.asarray(values), 2)
        ledger[name] = pa.array(wide, mask=np.arange(2 * count) % 2 == 1)
    return Candidates(space, pa.table(ledger), rows)


def spheres(sizes: list[int], spread: float, seed: int = 0, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [n, D] unit vectors around far apart centres, int64 [n] which) in a random order."""
    rng = np.random.default_rng(seed)
    centres = np.eye(width, dtype=np.float32)[: len(sizes)]
    kind = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = centres[kind] + spread * rng.standard_normal((len(kind), width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), kind
