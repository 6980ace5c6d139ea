"""The graph of near-duplicates beside its peers in the same run, and its memory: `pytest -m benchmark -s`.

Times are CPU seconds of one thread, so that other load hardly enters. PAS_ROWS makes it smaller or larger.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from curation.components import Components
from curation.duplicates import duplicate_groups
from curation.embeddings import Embeddings
from curation.products import bfloat16_is_faster

ROWS, WIDTH, THRESHOLD, K = int(os.environ.get("PAS_ROWS", "20_000")), 512, 0.6, 64


def pool(count: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Unit float16 rows in 500 loose clusters (cosine 0.3); a fifth of them are near-copies at cosine 0.55 to 0.99."""
    rng = np.random.default_rng(seed)
    own = int(0.8 * count)
    centres = rng.standard_normal((500, width), dtype=np.float32)
    rows = rng.standard_normal((own, width), dtype=np.float32) + 0.65 * centres[rng.integers(0, 500, own)]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    source = rows[rng.integers(0, own // 2, count - own)]
    cosine = rng.uniform(0.55, 0.99, count - own).astype(np.float32)[:, None]
    other = rng.standard_normal((count - own, width), dtype=np.float32)
    other -= (other * source).sum(1, keepdims=True) * source
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    copies = cosine * source + np.sqrt(1 - cosine**2) * other
    return np.concatenate([rows, copies])[rng.permutation(count)].astype(np.float16)


def true_pairs(rows: np.ndarray) -> np.ndarray:
    """int64 [P, 2]: pairs whose exact product is above the threshold, by float64."""
    found = []
    wide = rows.astype(np.float64)
    for first in range(0, len(rows), 1000):
        left, right = np.nonzero((wide[first : first + 1000] @ wide.T).astype(np.float32) > np.float32(THRESHOLD))
        upper = left + first < right
        found.append(np.column_stack([left[upper] + first, right[upper]]))
    return np.concatenate(found)


def groups_of(count: int, pairs: np.ndarray) -> np.ndarray:
    groups = Components(count)
    groups.join(np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]))
    return groups.labels()


def faiss_flat(rows: np.ndarray) -> np.ndarray:
    import faiss

    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return listed(*index.search(rows, K))


def faiss_range(rows: np.ndarray) -> np.ndarray:
    import faiss

    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    ends, _, found = index.range_search(rows, THRESHOLD)
    return np.column_stack([np.repeat(np.arange(len(rows)), np.diff(ends.astype(np.int64))), found])


def faiss_ivf(rows: np.ndarray) -> np.ndarray:
    import faiss

    index = faiss.index_factory(rows.shape[1], f"IVF{int(4 * len(rows) ** 0.5)},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    index.nprobe = 8
    return listed(*index.search(rows, K))


def scikit_learn(rows: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    distance, found = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine").fit(rows).kneighbors(rows)
    return listed(1 - distance, found)


def listed(similarity: np.ndarray, found: np.ndarray) -> np.ndarray:
    row, place = np.nonzero((similarity > THRESHOLD) & (found >= 0))
    return np.column_stack([row, found[row, place]])


def cpu_seconds(work: Callable[[], np.ndarray], tries: int = 1) -> tuple[float, np.ndarray]:
    times = []
    for _ in range(tries):
        began = time.process_time()
        result = work()
        times.append(time.process_time() - began)
    return min(times), result


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_duplicate_groups__faster_than_a_flat_index_with_every_pair() -> None:
    import faiss

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    stored = Embeddings(np.array_split(pool(ROWS), 20))
    rows = np.asarray(stored)
    duplicate_groups(stored.take(np.arange(min(ROWS, 9000))), THRESHOLD)  # compiles, and tests the processor
    pairs = true_pairs(rows)
    expected = groups_of(ROWS, pairs)
    ours, groups = cpu_seconds(lambda: duplicate_groups(stored, THRESHOLD), tries=3)
    lists, by_lists = cpu_seconds(lambda: duplicate_groups(stored, THRESHOLD, k=K))
    print(f"\n{ROWS} x {WIDTH}, {len(pairs)} pairs above {THRESHOLD}, bfloat16 faster: {bfloat16_is_faster()}")
    print(f"{'this':<14}{ours:8.2f} s")
    print(f"{'this, k = 64':<14}{lists:8.2f} s")
    seconds = {}
    for peer in (faiss_flat, faiss_range, faiss_ivf, scikit_learn):
        if peer is scikit_learn and ROWS > 40_000:
            continue
        seconds[peer.__name__], found = cpu_seconds(lambda peer=peer: peer(rows))  # type: ignore[misc]
        same = np.mean(groups_of(ROWS, found)[pairs[:, 0]] == groups_of(ROWS, found)[pairs[:, 1]])
        print(f"{peer.__name__:<14}{seconds[peer.__name__]:8.2f} s  {seconds[peer.__name__] / ours:5.1f} times ours, "
              f"joins {100 * same:.2f} % of the pairs")  # fmt: skip
    np.testing.assert_array_equal(groups, expected)  # recall 1, and no pair too many
    np.testing.assert_array_equal(by_lists, expected)
    assert np.bincount(expected).max() <= K
    a, b = torch.randn(2048, 512), torch.randn(2048, 512)
    rate = [cpu_seconds(lambda t=t: a.to(t) @ b.to(t).T, 9)[0] for t in (torch.float32, torch.bfloat16)]  # type: ignore[misc]
    print(f"bfloat16 products are {rate[0] / rate[1]:.1f} times as fast as float32's")
    assert seconds["faiss_flat"] / ours >= (5 if rate[0] / rate[1] > 3 else 1.6)


MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from curation.duplicates import duplicate_groups
from curation.embeddings import Embeddings

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

parts = [np.load(path, mmap_mode="r") for path in sorted(Path(sys.argv[1]).glob("*.npy"))]
duplicate_groups(Embeddings(parts[:1])[:100], 0.6)
before = peak()
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()  # with the vectors mapped
resource.setrlimit(resource.RLIMIT_AS, (size + 10**9, size + 10**9))  # beyond it, allocations fail
groups = duplicate_groups(Embeddings(parts), 0.6)
print(peak() - before, sum(part.nbytes for part in parts), len(np.unique(groups)))
"""


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_duplicate_groups__memory_beside_the_vectors_does_not_grow(tmp_path: Path) -> None:
    extra = {}
    for count in (60_000, 180_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for part in range(count // 20_000):
            np.save(folder / f"{part:03d}.npy", pool(20_000, 256, part))
        out = subprocess.run([sys.executable, "-c", MEASURE, str(folder)], check=True, capture_output=True, text=True)
        grown, vectors, groups = map(int, out.stdout.split())
        extra[count] = grown - vectors
        print(f"\n{count} x 256: {grown / 1e6:.0f} MB more at the peak, of which {vectors / 1e6:.0f} MB are vectors; "
              f"{groups} groups")  # fmt: skip
        assert grown < vectors + 1e9
    assert extra[180_000] - extra[60_000] < 300e6  # converted blocks stay up to a limit


@pytest.mark.benchmark
@pytest.mark.gpu
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("count", "most"), [(1_200_000, 10), (4_000_000, 90)])
def test_duplicate_groups__millions_of_rows_on_a_gpu(tmp_path: Path, count: int, most: float) -> None:
    for part in range(count // 100_000):
        np.save(tmp_path / f"{part:03d}.npy", pool(100_000, WIDTH, part % 4))  # so that there are copies of copies
    stored = Embeddings([np.load(path, mmap_mode="r") for path in sorted(tmp_path.glob("*.npy"))])
    duplicate_groups(stored.take(np.arange(20_000)), THRESHOLD, devices=["cuda:0"])
    began = time.perf_counter()
    groups = duplicate_groups(stored, THRESHOLD, devices=["cuda:0"])
    seconds = time.perf_counter() - began
    print(f"\n{count} x {WIDTH} on {torch.cuda.get_device_name()}: {seconds:.1f} s, {len(np.unique(groups))} groups")
    sample = stored.take(np.arange(10_000))
    own = duplicate_groups(sample, THRESHOLD)  # on the CPU: what is joined there must be joined here
    np.testing.assert_array_equal(groups[:10_000][own], groups[:10_000])
    assert seconds <= most
