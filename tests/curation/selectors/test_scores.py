"""Methods that need no embeddings: the paper's, one score, and none."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.pareto import pareto_fronts
from curation.selection import removal_order
from curation.selectors import METHODS, Candidates, ClipScore, OneScore, Pareto, Random
from curation.selectors.base import drawn
from tests.curation.selectors.pools import save_candidates

SCORES = np.random.default_rng(0).random((40, 3)).round(1).astype(np.float32)  # with ties


@pytest.fixture
def candidates(tmp_path: Path) -> Candidates:
    ood, general, gap = SCORES.T
    columns = {"ood": ood, "ood_general": general, "text_gap": gap, "concept_similarity": 1 - ood}
    return save_candidates(tmp_path, np.eye(40, 4, dtype=np.float32), **columns)


def test_pareto__is_the_order_of_the_paper(candidates: Candidates) -> None:
    ranking = Pareto().rank(candidates)
    fronts = pareto_fronts(SCORES)
    np.testing.assert_array_equal(ranking.fronts, fronts)
    np.testing.assert_array_equal(ranking.order, removal_order(SCORES, fronts))
    np.testing.assert_array_equal(ranking.scores, SCORES)


@pytest.mark.parametrize(("score", "column"), [("ood", 0), ("ood_general", 1), ("text_gap", 2)])
def test_one_score__highest_first(candidates: Candidates, score: str, column: int) -> None:
    ranking = OneScore(score, threshold=0.65).rank(candidates)  # type: ignore[arg-type]
    assert ranking.order.tolist() == np.argsort(-SCORES[:, column], kind="stable").tolist()
    assert ranking.cut == (SCORES[:, column] > 0.65).sum() and OneScore(threshold=0.1).cuts
    assert OneScore().rank(candidates).cut is None and not OneScore().cuts


def test_clip_score__least_similar_first(candidates: Candidates) -> None:
    ranking = ClipScore(threshold=0.35).rank(candidates)
    assert ranking.order.tolist() == np.argsort(-SCORES[:, 0], kind="stable").tolist()
    assert ranking.cut == (1 - SCORES[:, 0] < 0.35).sum()
    with pytest.raises(ValueError, match=r"m\.threshold must be a cosine in \[-1, 1\], got 2"):
        ClipScore(2.0).check("m")


def test_random__depends_on_seed_and_keys_only(candidates: Candidates) -> None:
    order = Random(3).rank(candidates).order
    assert sorted(order.tolist()) == list(range(40)) and order.tolist() != list(range(40))
    assert (order != Random(4).rank(candidates).order).any()
    kept = [place for place in order.tolist() if place % 3]  # of a part of the keys, the same order
    part = candidates.keys.take(pa.array([place for place in range(40) if place % 3]))
    assert [part[int(place)] for place in drawn(part, 3)] == [candidates.keys[place] for place in kept]


def test_scores__missing_column_and_missing_value(candidates: Candidates) -> None:
    table = candidates.ledger
    with pytest.raises(ValueError, match="no column text_gap; run `curate` with an `ood` stage"):
        Pareto().rank(Candidates(candidates.workspace, table.drop(["text_gap"]), candidates.rows))
    with pytest.raises(ValueError, match=r"1 images have no ood, first '00003\.jpg'.*delete .*columns/ood and run"):
        Pareto().rank(Candidates(candidates.workspace, table, np.append(candidates.rows[:1], 3)))


def test_methods__no_image_gives_an_empty_order(tmp_path: Path) -> None:
    names = ("ood", "ood_general", "text_gap", "concept_similarity")
    none = save_candidates(tmp_path, np.empty((0, 4), np.float32), **{name: np.empty(0, np.float32) for name in names})
    for method in METHODS.values():
        assert method().rank(none).order.tolist() == []
