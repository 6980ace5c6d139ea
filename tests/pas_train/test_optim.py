import pytest
import torch

from pas_train.optim import LARS, momentum_cosine, warmup_cosine


def test_warmup_cosine__starts_at_zero_and_ends_at_zero() -> None:
    recipe = {"base_lr": 0.3, "batch_size": 512, "warmup_epochs": 10, "epochs": 100}
    assert warmup_cosine(0, **recipe) == 0
    assert warmup_cosine(10, **recipe) == pytest.approx(0.6)
    assert warmup_cosine(100, **recipe) == pytest.approx(0, abs=1e-15)


def test_warmup_cosine__without_warmup_and_inside_it() -> None:
    assert warmup_cosine(0, 0.1, 256, 0, 5) == pytest.approx(0.1)
    assert warmup_cosine(2, 0.1, 256, 4, 2) == pytest.approx(0.05)  # a trial shorter than the warm-up
    assert warmup_cosine(4, 0.1, 256, 4, 4) == pytest.approx(0.1)


def test_momentum_cosine__rises_to_one() -> None:
    values = [momentum_cosine(epoch, 0.99, 10) for epoch in range(11)]
    assert values[0] == pytest.approx(0.99) and values[-1] == 1 and values == sorted(values)


def test_lars__equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias, zero = torch.randn(4, 3, generator=generator), torch.randn(4, generator=generator), torch.zeros(2, 2)
    expected = [p.clone() for p in (weight, bias, zero)]
    momenta = [torch.zeros_like(p) for p in expected]
    optimizer = LARS([weight, bias, zero], lr=0.5, weight_decay=0.01)
    for _ in range(4):
        gradients = [torch.randn(p.shape, generator=generator) for p in expected]
        for p, g in zip((weight, bias, zero), gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()
        for p, g, u in zip(expected, gradients, momenta, strict=True):
            if p.ndim > 1:
                g = g + 0.01 * p
                g = g * (0.001 * p.norm() / g.norm() if p.norm() > 0 and g.norm() > 0 else 1.0)
            u.mul_(0.9).add_(g)
            p.sub_(0.5 * u)
    for p, reference in zip((weight, bias, zero), expected, strict=True):
        torch.testing.assert_close(p, reference, rtol=1e-6, atol=1e-7)


def test_lars__state_survives_a_checkpoint() -> None:
    def run(split: bool) -> torch.Tensor:
        weight = torch.ones(2, 2)
        optimizer = LARS([weight], lr=1.0)
        for step in range(6):
            if split and step == 3:
                state = optimizer.state_dict()
                optimizer = LARS([weight], lr=1.0)
                optimizer.load_state_dict(state)
            weight.grad = weight * (step + 1)
            optimizer.step()
        return weight

    assert torch.equal(run(split=True), run(split=False))
