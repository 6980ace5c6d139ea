"""How far an image is from a bank of concepts (CLIPN's two rules; paper section 3.3)."""

import numpy as np
import torch
from torch import Tensor

from curation.arrays import like, to_numpy

# Images times concepts of one chunk of logits, twice (yes and no), in float32: 2 x 16 MiB.
CELLS = 4 * 2**20


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
    paper's formula; "ctw" is p_no of the likeliest concept. Memory is O(chunk x C), whatever N.
    Raises ValueError for other shapes, NaN, or towers that are equal: an untrained `no` branch scores 0.5 everywhere.
    """
    images, yes, no = (torch.as_tensor(to_numpy(value)).float() for value in (image, text_yes, text_no))
    if yes.shape != no.shape or yes.ndim != 2 or images.ndim != 2 or images.shape[1] != yes.shape[1]:
        raise ValueError(
            f"image must be [N, D], text_yes and text_no [C, D]; got {tuple(images.shape)}, {tuple(yes.shape)} and "
            f"{tuple(no.shape)}"
        )
    if not len(yes):
        raise ValueError("text_yes is empty: the concept bank needs at least one concept")
    if rule not in ("atd", "ctw"):
        raise ValueError(f"rule must be 'atd' or 'ctw', got {rule!r}")
    if torch.equal(yes, no):
        raise ValueError(
            "text_no equals text_yes: the `no` branch is a copy of the yes branch and would score every image 0.5; "
            "train one with `python -m pas_train fit --config clipn.yaml`"
        )
    for name, value in (("image", images), ("text_yes", yes), ("text_no", no)):
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} holds NaN or infinite values")
    weights = torch.cat([yes, no]).T.contiguous() * logit_scale
    count = len(yes)
    scores = torch.empty(len(images))
    chunk = max(1, min(4096, CELLS // count))
    for first in range(0, len(images), chunk):
        logits = images[first : first + chunk] @ weights
        yes_logits, no_logits = logits[:, :count], logits[:, count:]
        best = yes_logits.max(dim=1)
        no_logits.sub_(yes_logits)  # in place: the chunk is the only large array
        if rule == "ctw":
            scores[first : first + chunk] = no_logits.gather(1, best.indices[:, None])[:, 0].sigmoid()
            continue
        no_logits.sigmoid_()  # p_no; p_no . p is 1 - sum (1 - p_no) p, without the cancellation
        yes_logits.sub_(best.values[:, None]).exp_()
        scores[first : first + chunk] = (yes_logits * no_logits).sum(dim=1) / yes_logits.sum(dim=1)
    return like(scores.numpy(), image)


def best_concept(image: np.ndarray | Tensor, text_yes: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [N] place of the most similar concept, float32 [N] its cosine) of unit image [N, D], text_yes [C, D]."""
    images, yes = torch.as_tensor(image).float(), torch.as_tensor(text_yes).float()
    places = torch.empty(len(images), dtype=torch.int64)
    similarity = torch.empty(len(images))
    chunk = max(1, min(4096, CELLS // max(1, len(yes))))
    for first in range(0, len(images), chunk):
        best = (images[first : first + chunk] @ yes.T).max(dim=1)
        similarity[first : first + chunk], places[first : first + chunk] = best.values, best.indices
    return places.numpy(), similarity.numpy()
