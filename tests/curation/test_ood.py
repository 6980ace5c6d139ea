import numpy as np
import pytest
import torch

import curation.ood
from curation.embeddings import Embeddings
from curation.ood import NotFiniteError, best_concept, ood_scores, score_images


def unit_rows(count: int, seed: int, width: int = 16) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


IMAGE, YES, NO = unit_rows(40, 0), unit_rows(7, 1), unit_rows(7, 2)


def by_hand(rule: str, scale: float) -> np.ndarray:
    """The formulas in float64."""
    yes, no = (scale * IMAGE.astype(np.float64) @ text.T.astype(np.float64) for text in (YES, NO))
    p = np.exp(yes - yes.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p_no = np.exp(no) / (np.exp(yes) + np.exp(no))
    return 1 - ((1 - p_no) * p).sum(axis=1) if rule == "atd" else p_no[np.arange(40), yes.argmax(axis=1)]


@pytest.mark.parametrize("cells", [1, 50, 2**20])
@pytest.mark.parametrize("rule", ["atd", "ctw"])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_ood_scores__formula_in_chunks_of_any_size(
    rule: str, scale: float, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curation.ood, "CELLS", cells)
    scores = ood_scores(IMAGE, YES, NO, scale, rule)
    # Logits of up to 100 are rounded to 8e-6 in float32.
    np.testing.assert_allclose(scores, by_hand(rule, scale), atol=2e-5)
    assert scores.dtype == np.float32 and np.ptp(scores) > 0.1


@pytest.mark.parametrize("rule", ["atd", "ctw"])
def test_ood_scores__higher_is_further_from_the_concepts(rule: str) -> None:
    basis = np.eye(4, dtype=np.float32)
    # The towers agree on the first concept's picture and contradict themselves on the last axis.
    scores = ood_scores(basis[[0, 3]], basis[[0, 1]], np.float32([[0, 0, 0, 1], [0, 0, 0, 1]]), rule=rule)
    np.testing.assert_allclose(scores, [0, 1], atol=1e-6)


def test_ood_scores__small_scores_keep_their_digits() -> None:
    basis = np.eye(3, dtype=np.float32)
    scores = ood_scores(basis[:1], basis[:1], basis[1:2], logit_scale=30.0)
    np.testing.assert_allclose(scores, np.exp(-30.0), rtol=1e-5)  # as 1 - ATD it would be 0 or 6e-8


def test_ood_scores__does_not_change_its_input() -> None:
    image = torch.from_numpy(IMAGE.copy())
    ood_scores(image, YES, NO)
    np.testing.assert_array_equal(image.numpy(), IMAGE)


def test_ood_scores__no_image() -> None:
    assert ood_scores(IMAGE[:0], YES, NO).tolist() == []


def test_ood_scores__tensor_in_tensor_out() -> None:
    tensors = [torch.from_numpy(array).requires_grad_() for array in (IMAGE, YES, NO)]
    scores = ood_scores(*tensors)
    assert isinstance(scores, torch.Tensor) and not scores.requires_grad
    np.testing.assert_array_equal(scores.numpy(), ood_scores(IMAGE, YES, NO))


@pytest.mark.parametrize(
    ("image", "yes", "no", "rule", "message"),
    [
        (IMAGE, YES, NO, "msp", "rule must be 'atd' or 'ctw', got 'msp'"),
        (IMAGE, YES, NO[:3], "atd", r"text_yes and text_no \[C, D\]; got \(40, 16\), \(7, 16\) and \(3, 16\)"),
        (IMAGE[:, :4], YES, NO, "atd", r"got \(40, 4\)"),
        (IMAGE[0], YES, NO, "atd", r"image must be \[N, D\]"),
        (IMAGE, YES[:0], NO[:0], "atd", "text_yes is empty.*at least one concept"),
        (IMAGE, YES, YES, "atd", r"copy of the yes branch.*fit --config clipn\.yaml"),
        (np.full_like(IMAGE, np.nan), YES, NO, "atd", "image row 0 holds NaN"),
        (IMAGE, YES, np.full_like(NO, np.inf), "atd", "text_no holds NaN or infinite"),
    ],
)
def test_ood_scores__wrong_input_is_named(
    image: np.ndarray, yes: np.ndarray, no: np.ndarray, rule: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ood_scores(image, yes, no, rule=rule)


@pytest.mark.parametrize("cells", [1, 50, 2**20])
def test_score_images__embeddings_on_disk_in_blocks(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curation.ood, "CELLS", cells)
    stored = Embeddings([IMAGE[:9].astype(np.float16), IMAGE[9:].astype(np.float16)])
    scores, best, similarity = score_images(stored, YES, NO)
    np.testing.assert_allclose(scores, ood_scores(np.asarray(stored), YES, NO), atol=2e-5)
    places, cosines = best_concept(np.asarray(stored), YES)
    np.testing.assert_array_equal(best, places)
    np.testing.assert_allclose(similarity, cosines, atol=1e-6)
    assert (scores.dtype, best.dtype, similarity.dtype) == (np.float32, np.int64, np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_score_images__the_row_that_is_not_finite_is_named(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curation.ood, "CELLS", 50)
    image = IMAGE.copy()
    image[[23, 31], 5] = value
    with pytest.raises(NotFiniteError, match="image row 23 holds NaN or infinite") as caught:
        score_images(image, YES, NO)
    assert caught.value.row == 23


@pytest.mark.parametrize("rule", ["atd", "ctw"])
def test_score_images__bank_of_one_concept(rule: str) -> None:
    scores, best, _ = score_images(IMAGE, YES[:1], NO[:1], 10.0, rule)
    margin = 10.0 * IMAGE.astype(np.float64) @ (NO[0] - YES[0]).astype(np.float64)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-margin)), atol=1e-5)  # p is 1: both rules are p_no
    assert not best.any()


@pytest.mark.parametrize("concepts", [1, 7])
@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_score_images__equal_images_have_equal_scores(count: int, concepts: int) -> None:
    equal = np.repeat(IMAGE[:1], count, axis=0)
    among = np.concatenate([IMAGE[1:30], equal])
    scores = [score_images(images, YES[:concepts], NO[:concepts])[0][-count:] for images in (equal, among)]
    assert len(set(np.concatenate(scores).tolist())) == 1


@pytest.mark.gpu
def test_score_images__gpu_agrees_with_the_cpu() -> None:
    image, yes, no = unit_rows(3000, 3, 512), unit_rows(1000, 4, 512), unit_rows(1000, 5, 512)
    for rule in ("atd", "ctw"):
        for found, expected in zip(
            score_images(image, yes, no, rule=rule, device="cuda"), score_images(image, yes, no, rule=rule), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("cells", [1, 2**20])
def test_best_concept__highest_cosine(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curation.ood, "CELLS", cells)
    places, similarity = best_concept(IMAGE, YES)
    cosine = IMAGE.astype(np.float64) @ YES.T
    np.testing.assert_array_equal(places, cosine.argmax(axis=1))
    np.testing.assert_allclose(similarity, cosine.max(axis=1), atol=1e-6)
