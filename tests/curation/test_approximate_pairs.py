from pathlib import Path

import numpy as np
import pytest

from curation.approximate_pairs import ApproximatePairs, lookup_blocks
from curation.embeddings import Embeddings
from curation.searching.faiss_index import Approximate
from curation.similar_pairs import above


def stored(count: int = 900, width: int = 16) -> Embeddings:
    """Rows of which a third have a near-copy; one has no direction."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, width))
    rows[600:] = rows[:300] + 0.1 * rng.normal(size=(300, width))
    rows[50] = 0
    return Embeddings([rows[:500].astype(np.float16), rows[500:].astype(np.float16)])


@pytest.mark.parametrize(("index_gb", "factory"), [(1, "IVF"), (3.5e-5, "PQ")])
def test_forest__pairs_that_the_index_proposes_and_the_embeddings_confirm(
    tmp_path: Path, index_gb: float, factory: str
) -> None:
    vectors = stored()
    settings = Approximate(exact_below=0, index_gb=index_gb, recall=0.95, sample=400)
    pairs = ApproximatePairs(vectors, 0.97, 8, settings, tmp_path, "x")
    pairs.prepare()
    assert factory in pairs.report["index"] and pairs.report["recall"] >= 0.95
    assert pairs.report["sample"] in (399, 400) and pairs.report["sampled_pairs"] > 50
    left, right = np.concatenate([pairs.forest(part) for part in lookup_blocks(900)]).T
    assert above(vectors, left, right, 0.97).all() and (left < right).all() and 50 not in {*left, *right}
    copies = np.flatnonzero(above(vectors, np.arange(300), np.arange(600, 900), 0.97))
    assert len(np.intersect1d(copies, left)) > 0.9 * len(copies) > 100


def test_prepare__once_and_cleared_at_the_end(tmp_path: Path) -> None:
    settings = Approximate(exact_below=0, sample=50)
    first = ApproximatePairs(stored(), 0.97, 8, settings, tmp_path, "x")
    first.prepare()
    report = first.report
    other = ApproximatePairs(stored(), 0.97, 8, settings, tmp_path, "x")  # another rank, or a run after a kill
    np.testing.assert_array_equal(other.forest(range(700, 900)), first.forest(range(700, 900)))
    other.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"] and other.report == report


def test_lookup_blocks__every_row_once() -> None:
    blocks = lookup_blocks(10_000)
    assert np.concatenate([np.arange(10_000)[part.start : part.stop] for part in blocks]).tolist() == [*range(10_000)]
    assert lookup_blocks(0) == []
