import pytest
import torch

from pas_train.optim import LARS, build_optimizer, momentum_cosine, warmup_cosine


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


def two_weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (4,))]


def step_of(name: str, weight_decay: float, steps: int = 3) -> list[torch.Tensor]:
    weights = two_weights()
    optimizer = build_optimizer(name, weights, weight_decay)
    generator = torch.Generator().manual_seed(1)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    for _ in range(steps):
        for p in weights:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in weights]


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_build_optimizer__timms_lars_divides_by_the_norm_before_the_decay(weight_decay: float) -> None:
    weight, bias = (p.detach() for p in two_weights())
    generator, momenta = torch.Generator().manual_seed(1), [torch.zeros(4, 3), torch.zeros(4)]
    for _ in range(3):
        g, g_bias = (torch.randn(p.shape, generator=generator) for p in (weight, bias))
        rate = 0.001 * weight.norm() / (g.norm() + weight_decay * weight.norm() + 1e-8)
        momenta[0] = 0.9 * momenta[0] + rate * (g + weight_decay * weight)
        momenta[1] = 0.9 * momenta[1] + g_bias  # neither rate nor decay
        weight, bias = weight - 0.5 * momenta[0], bias - 0.5 * momenta[1]
    torch.testing.assert_close(step_of("lars_timm", weight_decay), [weight, bias])


def test_build_optimizer__two_forms_of_lars_differ_by_the_decay_only() -> None:
    torch.testing.assert_close(step_of("lars", 0.0), step_of("lars_timm", 0.0))
    assert (step_of("lars", 0.1)[0] - step_of("lars_timm", 0.1)[0]).abs().max() > 1e-5
    assert torch.equal(step_of("lars", 0.1)[1], step_of("lars_timm", 0.1)[1])


def test_build_optimizer__adamw_has_all_in_one_group_but_what_is_frozen() -> None:
    weights = [*two_weights(), torch.nn.Parameter(torch.ones(2), requires_grad=False)]
    groups = build_optimizer("adamw", weights, 0.1).param_groups
    assert len(groups) == 1 and len(groups[0]["params"]) == 2
    settings = {name: groups[0][name] for name in ("betas", "eps", "weight_decay")}
    assert settings == {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
