"""Sampling of which each row depends on its own seed and logits alone, not on its neighbours in the batch.

The Gumbel-max trick: the argmax of logits / temperature + Gumbel noise is a draw from their softmax. With noise from
a generator per row, a greedy decoder samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from curation.language.protocol import begins


class RowSampler:
    """A logits processor of transformers' `generate` with do_sample off. B = batch, V = vocabulary.

    Args:
        seeds: One a row, below 2**64.
        temperature: 0 adds no noise.
        top_p: Samples from the likeliest tokens that reach this share of the probability.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float, device: torch.device) -> None:
        self.temperature, self.top_p = temperature, top_p
        self.generators = [torch.Generator(device).manual_seed(seed % 2**63) for seed in seeds]
        self.first: Tensor | None = None  # [B, V] logits of the first token, before the noise

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits [B, V] -> what `argmax` draws from."""
        if self.first is None:
            self.first = scores.clone()
        if self.temperature == 0:
            return scores
        scores = keep_top_p(scores.float() / self.temperature, self.top_p)
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores - noise.clamp_(min=1e-30).log_()  # -log of an exponential variable is Gumbel's


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Logits [B, V] with -inf for all but the likeliest tokens that together reach `top_p`; at least one is left."""
    if top_p >= 1:
        return logits
    ordered, places = logits.sort(dim=-1, descending=True)
    shares = ordered.softmax(dim=-1)
    beyond = shares.cumsum(dim=-1) - shares >= top_p
    return logits.masked_fill(beyond.gather(-1, places.argsort(dim=-1)), -torch.inf)


def first_tokens(words: Sequence[str], choices: tuple[str, str]) -> tuple[list[int], list[int]]:
    """Tokens that begin choices[0] and choices[1], in any case and with or without a space; none is in both.

    words: the text of each token of the vocabulary.
    """
    yes, no = ({number for number, word in enumerate(words) if begins(choice, word)} for choice in choices)
    return sorted(yes - no), sorted(no - yes)


def choice_probability(logits: Tensor, yes: list[int], no: list[int]) -> list[float]:
    """Probability of the tokens `yes` against those of `no`, a number in [0, 1] a row. logits: [B, V]."""
    sides = torch.stack([logits[:, yes].float().logsumexp(-1), logits[:, no].float().logsumexp(-1)], dim=-1)
    return sides.softmax(dim=-1)[:, 0].tolist()
