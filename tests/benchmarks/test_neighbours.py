"""Exact search of a million embeddings: memory, and time beside faiss alone. `pytest -m benchmark -s` shows figures.

PAS_ROWS and PAS_QUERIES make it smaller for a trial.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROWS, QUERIES = int(os.environ.get("PAS_ROWS", "1_000_000")), int(os.environ.get("PAS_QUERIES", "5000"))
WIDTH, K, PARTS = 768, 500, 10

MEASURE = """
import resource, sys, time
from pathlib import Path
import faiss, numpy as np
from curation.searching.neighbours import top_k

folder = Path(sys.argv[2])
queries = np.load(folder / "queries.npy")
parts = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("part-*.npy"))]
if sys.argv[1] == "ours":
    began = time.perf_counter()
    similarities, rows = top_k(queries, parts, 500, devices=[])
else:
    index = faiss.IndexFlatIP(queries.shape[1])
    for part in parts:
        index.add(part.astype(np.float32))
    began = time.perf_counter()
    similarities, rows = index.search(queries, 500)
seconds = time.perf_counter() - began
np.save(folder / (sys.argv[1] + ".npy"), rows)
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def measure(which: str, folder: Path) -> tuple[float, float]:
    """(seconds, peak bytes) of one search in a process of its own, on all cores."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    run = [sys.executable, "-c", MEASURE, which, str(folder)]
    out = subprocess.run(run, env=environment, check=True, capture_output=True, text=True).stdout
    seconds, peak = map(float, out.split())
    return seconds, peak


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
def test_top_k__as_fast_as_faiss_alone_in_bounded_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in range(PARTS):
        vectors = rng.standard_normal((ROWS // PARTS, WIDTH), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(tmp_path / f"part-{part}.npy", vectors.astype(np.float16))
    queries = rng.standard_normal((QUERIES, WIDTH), dtype=np.float32)
    np.save(tmp_path / "queries.npy", queries / np.linalg.norm(queries, axis=1, keepdims=True))
    ours, bare = measure("ours", tmp_path), measure("bare", tmp_path)
    print(f"\ntop {K} of {ROWS} x {WIDTH}, {QUERIES} queries: {ours[0]:.1f} s and {ours[1] / 2**30:.2f} GiB; "
          f"faiss alone {bare[0]:.1f} s and {bare[1] / 2**30:.2f} GiB; ratio {ours[0] / bare[0]:.2f}")  # fmt: skip
    rows, expected = np.load(tmp_path / "ours.npy"), np.load(tmp_path / "bare.npy")
    # faiss alone searches what rounding to float16 made a little longer or shorter than one.
    same = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(rows[:200], expected[:200], strict=True)])
    assert same > 0.98
    assert ours[1] < 8e9
    assert ours[0] < 1.3 * bare[0]
