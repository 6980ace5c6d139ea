"""Sampling by noise of each row's own."""

import torch

from curation.language.sampling import RowSampler, choice_probability, first_tokens, keep_top_p

CPU = torch.device("cpu")


def draws(logits: torch.Tensor, seeds: list[int], temperature: float = 1.0, top_p: float = 1.0) -> list[int]:
    sampler = RowSampler(seeds, temperature, top_p, CPU)
    return sampler(torch.zeros(len(seeds), 1), logits.expand(len(seeds), -1)).argmax(-1).tolist()


def test_row_sampler__draws_from_the_softmax() -> None:
    logits = torch.tensor([0.5, 0.2, 0.3, 1e-9]).log()
    shares = torch.bincount(torch.tensor(draws(logits, list(range(20_000)))), minlength=4) / 20_000
    assert torch.allclose(shares, logits.exp(), atol=0.015)  # four standard deviations


def test_row_sampler__temperature_sharpens() -> None:
    logits = torch.tensor([0.6, 0.4]).log()
    share = draws(logits, list(range(20_000)), temperature=0.5).count(0) / 20_000
    assert abs(share - 0.36 / 0.52) < 0.015
    assert draws(logits, list(range(100)), temperature=0.0) == [0] * 100


def test_row_sampler__top_p_leaves_out_the_unlikely() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    assert set(draws(logits, list(range(500)), top_p=0.8)) == {1, 2}
    assert set(draws(logits, list(range(500)), top_p=0.01)) == {1}


def test_row_sampler__a_row_knows_no_neighbours() -> None:
    steps = torch.randn(3, 7, 50, generator=torch.Generator().manual_seed(0))
    whole, alone = RowSampler(range(7), 0.7, 0.9, CPU), RowSampler([4], 0.7, 0.9, CPU)
    for logits in steps:
        assert torch.equal(whole(logits, logits)[4:5], alone(logits, logits[4:5]))


def test_keep_top_p__keeps_the_token_that_crosses() -> None:
    logits = torch.tensor([[0.1, 0.6, 0.3], [0.98, 0.01, 0.01]]).log()
    kept = keep_top_p(logits, 0.7).isfinite()
    assert kept.tolist() == [[False, True, True], [True, False, False]]


def test_first_tokens__any_case_and_space_but_none_of_both() -> None:
    words = ["Yes", "ĠYes", "▁yes", "Y", "No", "n", "Not", "▁", "Ġ", "Yesterday", "ĠNo"]
    assert first_tokens(words, ("Yes", "No")) == ([0, 1, 2, 3], [4, 5, 10])
    assert first_tokens(["t", "tr", "to"], ("true", "to")) == ([1], [2])


def test_choice_probability__is_the_share_of_the_first() -> None:
    logits = torch.tensor([[0.3, 0.1, 0.1, 0.5], [0.0, 0.0, 1.0, 0.0]]).log()
    first, second = choice_probability(logits, [0, 1], [2])
    assert abs(first - 0.8) < 1e-6 and second == 0.0
