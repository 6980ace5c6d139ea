"""How far an image is from a bank of concepts (CLIPN's two rules; paper section 3.3)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from curation.arrays import like, to_numpy

# Images times concepts of one block of logits, of which there are two (yes and no), in float32: 2 x 10 MB.
CELLS = 2_560_000
# Rows of the smallest product: fewer are summed up in another order.
LEAST = 8
RULES = ("atd", "ctw")


class NotFiniteError(ValueError):
    """An embedding holds NaN or an infinite value. row: its place among the images."""

    def __init__(self, row: int) -> None:
        super().__init__(f"image row {row} holds NaN or infinite values")
        self.row = row


def ood_scores(
    image: np.ndarray | Tensor,
    text_yes: np.ndarray | Tensor,
    text_no: np.ndarray | Tensor,
    logit_scale: float = 100.0,
    rule: str = "atd",
) -> np.ndarray:
    """float32 [N] in [0, 1], higher = more out of domain.

    image: unit [N, D]; text_yes, text_no: unit [C, D], the concepts embedded by the two text towers. With p the
    softmax of the yes logits over the concepts and p_no = sigmoid(no - yes), rule "atd" is 1 - sum (1 - p_no) p, the
    paper's formula; "ctw" is p_no of the likeliest concept. Memory is O(block x C), whatever N.
    Raises ValueError for other shapes, NaN, or towers that are equal: an untrained `no` branch scores 0.5 everywhere.
    """
    return like(score_images(image, text_yes, text_no, logit_scale, rule)[0], image)


@torch.no_grad()
def score_images(
    image: Any,
    text_yes: np.ndarray | Tensor,
    text_no: np.ndarray | Tensor,
    logit_scale: float = 100.0,
    rule: str = "atd",
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores float32 [N], place int64 [N] of the most similar concept, its cosine float32 [N]); see `ood_scores`.

    image: what gives [n, D] for a slice, such as an array, a tensor, or embeddings that stay on disk; it is read once,
    block by block. device: where the products are made. On a CPU equal images have equal results, wherever they are.
    Raises NotFiniteError naming the first row that is NaN or infinite, else ValueError as `ood_scores`.
    """
    yes, no = (torch.as_tensor(to_numpy(text)).to(device, torch.float32) for text in (text_yes, text_no))
    _check(image, yes, no, rule)
    if len(yes) == 1:  # twice the same concept scores the same, and is a product of matrices, not with a vector
        yes, no = yes.repeat(2, 1), no.repeat(2, 1)
    count, total = len(yes), len(image)
    scores, best = np.empty(total, np.float32), np.empty(total, np.int64)
    similarity = np.empty(total, np.float32)
    rows = max(1, min(4096, CELLS // count))
    buffers = torch.empty(2, max(LEAST, min(rows, total)), count, device=device)
    for first in range(0, total, rows):
        block = torch.as_tensor(to_numpy(image[first : first + rows])).to(device, torch.float32)
        finite = torch.isfinite(block).all(dim=1)
        if not bool(finite.all()):
            raise NotFiniteError(first + int((~finite).nonzero()[0]))
        size = len(block)
        place = slice(first, first + size)
        block = torch.nn.functional.pad(block * logit_scale, (0, 0, 0, max(0, LEAST - size)))
        yes_logits = torch.mm(block, yes.T, out=buffers[0, : len(block)])[:size]
        no_logits = torch.mm(block, no.T, out=buffers[1, : len(block)])[:size]
        highest, likeliest = _highest(yes_logits)
        best[place], similarity[place] = likeliest.cpu().numpy(), (highest / logit_scale).cpu().numpy()
        scores[place] = _scores(yes_logits, no_logits, highest, likeliest, rule).cpu().numpy()
    return scores, best, similarity


def _highest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(values [n], places int64 [n]) of the rows' maxima; of equal ones the first."""
    if logits.device.type != "cpu":
        values, places = logits.max(dim=1)
        return values, places
    places = torch.from_numpy(logits.numpy().argmax(axis=1))  # five times as fast as torch's
    return logits.gather(1, places[:, None])[:, 0], places


def _scores(yes: Tensor, no: Tensor, highest: Tensor, best: Tensor, rule: str) -> Tensor:
    """float32 [n] of logits [n, C], which are overwritten: the buffers are the only large arrays."""
    no.sub_(yes)
    if rule == "ctw":
        return no.gather(1, best[:, None])[:, 0].sigmoid()
    no.sigmoid_()  # p_no; p_no . p is 1 - sum (1 - p_no) p, without the cancellation
    yes.sub_(highest[:, None]).exp_()
    mass = yes.sum(dim=1)
    return no.mul_(yes).sum(dim=1) / mass


def _check(image: Any, yes: Tensor, no: Tensor, rule: str) -> None:
    shape = tuple(image.shape)
    if yes.shape != no.shape or yes.ndim != 2 or len(shape) != 2 or shape[1] != yes.shape[1]:
        raise ValueError(
            f"image must be [N, D], text_yes and text_no [C, D]; got {shape}, {tuple(yes.shape)} and {tuple(no.shape)}"
        )
    if not len(yes):
        raise ValueError("text_yes is empty: the concept bank needs at least one concept")
    if rule not in RULES:
        raise ValueError(f"rule must be 'atd' or 'ctw', got {rule!r}")
    for name, value in (("text_yes", yes), ("text_no", no)):
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} holds NaN or infinite values")
    if torch.equal(yes, no):
        raise ValueError(
            "text_no equals text_yes: the `no` branch is a copy of the yes branch and would score every image 0.5; "
            "train one with `python -m pas_train fit --config clipn.yaml`"
        )


@torch.no_grad()
def best_concept(image: np.ndarray | Tensor, text_yes: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [N] place of the most similar concept, float32 [N] its cosine) of unit image [N, D], text_yes [C, D]."""
    images, yes = torch.as_tensor(image).float(), torch.as_tensor(text_yes).float()
    places = torch.empty(len(images), dtype=torch.int64)
    similarity = torch.empty(len(images))
    rows = max(1, min(4096, CELLS // max(1, len(yes))))
    for first in range(0, len(images), rows):
        best = (images[first : first + rows] @ yes.T).max(dim=1)
        similarity[first : first + rows], places[first : first + rows] = best.values, best.indices
    return places.numpy(), similarity.numpy()
