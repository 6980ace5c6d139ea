import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from curation.text.fast_postprocess import find_words


def slow_words(logits: np.ndarray, min_score: float, min_area: int) -> list[tuple[np.ndarray, float]]:
    """The published description, step by step, over all pixels of the network's input."""
    height, width = 4 * logits.shape[0], 4 * logits.shape[1]
    _, labels = cv2.connectedComponents((logits > 0).astype(np.uint8))

    def grow(cells: np.ndarray) -> torch.Tensor:
        doubled = functional.interpolate(
            torch.from_numpy(cells.astype(np.float32))[None, None], size=(height // 2, width // 2), mode="nearest"
        )
        return functional.max_pool2d(doubled, 7 // 2 + 1, stride=1, padding=7 // 2 // 2)

    full = functional.interpolate(grow(labels), size=(height, width), mode="nearest")[0, 0].numpy().astype(int)
    score = functional.interpolate(grow(logits).sigmoid(), size=(height, width), mode="nearest")[0, 0].numpy()
    words = []
    for label in range(1, labels.max() + 1):
        inside = full == label
        if inside.sum() < min_area or inside.sum() == 0 or score[inside].mean() < min_score:
            continue
        contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        words.append((contours[0].reshape(-1, 2), float(score[inside].mean())))
    return words


@pytest.mark.parametrize("seed", range(30))
def test_find_words__equals_the_slow_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=rng.integers(2, 9, 2) * 8).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), float(rng.uniform(0.4, 3)))
    logits = (3 * smooth / smooth.std() + rng.uniform(-3, 1)).astype(np.float32)
    min_area = int(rng.integers(0, 120))
    found, expected = find_words(logits, 0.7, min_area), slow_words(logits, 0.7, min_area)
    assert len(found) == len(expected)
    for word, (polygon, score) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(word.polygon, polygon)
        assert word.score == pytest.approx(score, abs=1e-5)


def test_find_words__one_box() -> None:
    logits = np.full((32, 48), -9, np.float32)
    logits[10:14, 8:20] = 9
    (word,) = find_words(logits)
    assert word.polygon.dtype == np.int32 and word.score > 0.99
    # 4 px a cell, grown by 2 px to the right and below and by 4 px to the left and above, less the lost cell's share.
    assert word.polygon.min(axis=0).tolist() == pytest.approx([32 - 4, 40 - 4], abs=1)
    assert word.polygon.max(axis=0).tolist() == pytest.approx([80 + 2, 56 + 2], abs=1)
    assert find_words(logits, min_area=2000) == []
    assert find_words(np.full((8, 8), -1, np.float32)) == []
    assert len(find_words(np.full((8, 8), 9, np.float32))) == 1  # all of it
