"""Redundancy is the highest cosine with an image of the cluster that is less like its centroid."""

from pathlib import Path

import numpy as np
import pytest

from curation.selectors import SemanticDeduplication
from curation.selectors import semantic_deduplication as module
from tests.curation.selectors.pools import save_candidates, spheres


def redundancy(vectors: np.ndarray) -> np.ndarray:
    """By the definition, of one cluster, in float64."""
    vectors = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    centroid = vectors.mean(axis=0)
    order = np.argsort(vectors @ (centroid / np.linalg.norm(centroid)), kind="stable")
    result = np.full(len(vectors), -1.0)
    for place in range(1, len(order)):
        result[order[place]] = (vectors[order[:place]] @ vectors[order[place]]).max()
    return result


@pytest.mark.parametrize("strip", [1, 7, 2048])
def test_semantic_deduplication__the_definition(tmp_path: Path, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRIP", strip)
    vectors = spheres([30], 0.3)[0].astype(np.float16).astype(np.float32)
    expected = redundancy(vectors)
    threshold = float(np.sort(expected)[-11:-9].mean())  # between the tenth and the eleventh
    ranking = SemanticDeduplication(clusters=1, threshold=threshold).rank(save_candidates(tmp_path, vectors))
    assert ranking.order.tolist() == np.argsort(-expected, kind="stable").tolist()
    assert ranking.cut == 10


def test_semantic_deduplication__copies_go_and_one_of_each_stays(tmp_path: Path) -> None:
    vectors, kind = spheres([40, 30, 20, 1], 0.01)
    ranking = SemanticDeduplication(clusters=4, threshold=0.9).rank(save_candidates(tmp_path, vectors))
    assert ranking.cut == 87 and sorted(kind[ranking.order[87:]]) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_semantic_deduplication__few_images_and_copies_only(tmp_path: Path, count: int) -> None:
    vectors = np.tile(np.eye(1, 8, dtype=np.float32), (count, 1))
    ranking = SemanticDeduplication(threshold=0.95).rank(save_candidates(tmp_path, vectors))
    assert sorted(ranking.order.tolist()) == list(range(count)) and ranking.cut == max(0, count - 1)


def test_semantic_deduplication__without_a_threshold_it_only_orders(tmp_path: Path) -> None:
    method = SemanticDeduplication()
    assert method.rank(save_candidates(tmp_path, spheres([9], 0.1)[0])).cut is None
    assert not method.cuts and SemanticDeduplication(threshold=0.9).cuts
    for settings, said in (({"threshold": 1.0}, r"m\.threshold .* got 1\.0"), ({"clusters": 0}, "m.clusters .* got 0")):
        with pytest.raises(ValueError, match=said):
            SemanticDeduplication(**settings).check("m")
