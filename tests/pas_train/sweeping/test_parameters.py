"""The points of a sweep, by W&B's definitions."""

import math
import statistics
from itertools import islice
from typing import Any

import pytest

from pas_train.sweeping.parameters import ParameterError, check_parameters, draws, grid


def drawn(parameter: dict[str, Any], count: int = 400) -> list[Any]:
    check_parameters({"x": parameter}, "random")
    return [point["x"] for point in islice(draws({"x": parameter}, seed=0), count)]


def test_grid__is_every_combination_in_the_order_of_names() -> None:
    parameters = {"b": {"values": [1, 2]}, "a": {"values": ["x", "y"]}, "c": {"value": None}}
    points = list(grid(parameters))
    assert points == [{"a": a, "b": b, "c": None} for a in "xy" for b in (1, 2)]
    assert list(points[0]) == ["a", "b", "c"]


def test_grid__counts_whole_numbers_and_steps() -> None:
    parameters = {"n": {"min": 1, "max": 3}, "q": {"distribution": "q_uniform", "min": 0.0, "max": 0.4, "q": 0.1}}
    check_parameters(parameters, "grid")
    points = list(grid(parameters))
    assert [point["q"] for point in points[:4]] == [0.0, 0.1, 0.2, 0.3]  # without its end, as W&B
    assert sorted({point["n"] for point in points}) == [1, 2, 3] and len(points) == 12


def test_grid__follows_nested_parameters_and_takes_a_value_once() -> None:
    inner = {"parameters": {"lr": {"values": [0.1, 0.2, 0.1]}, "deep": {"parameters": {"k": {"value": 3}}}}}
    check_parameters({"model": inner}, "grid")
    assert list(grid({"model": inner})) == [{"model": {"deep": {"k": 3}, "lr": lr}} for lr in (0.1, 0.2)]


@pytest.mark.parametrize(
    ("parameter", "middle", "low", "high"),
    [
        ({"min": 1.0, "max": 3.0}, 2.0, 1, 3),
        ({"distribution": "log_uniform", "min": 0.0, "max": math.log(100)}, 10, 1, 100),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, 1e-3, 1e-4, 1e-2),
        ({"distribution": "inv_log_uniform", "min": 0.0, "max": math.log(100)}, 0.1, 0.01, 1),
        ({"distribution": "inv_log_uniform_values", "min": 1.0, "max": 100.0}, 10, 1, 100),
        ({"distribution": "normal", "mu": 5.0, "sigma": 0.5}, 5, 2, 8),
        ({"distribution": "log_normal", "mu": 2.0, "sigma": 0.5}, math.exp(2), 0.5, 60),
        ({"distribution": "beta", "a": 2, "b": 2}, 0.5, 0, 1),
    ],
)
def test_draws__median_and_range(parameter: dict[str, Any], middle: float, low: float, high: float) -> None:
    values = drawn(parameter)
    assert statistics.median(values) == pytest.approx(middle, rel=0.25)
    assert low <= min(values) < max(values) <= high and max(values) - min(values) > 0.4 * (high - low) / 10


@pytest.mark.parametrize("kind", ["q_uniform", "q_log_uniform_values"])
def test_draws__are_multiples_of_q(kind: str) -> None:
    values = drawn({"distribution": kind, "min": 0.5, "max": 2.5, "q": 0.1})
    assert all(value == float(f"{value:.1f}") for value in values)
    assert len(set(values)) == len(values) == 21  # each but once, then no more


def test_draws__whole_numbers_and_shares() -> None:
    assert sorted(drawn({"min": 3, "max": 6})) == [3, 4, 5, 6]
    points = islice(draws({"x": {"values": ["a", "b"], "probabilities": [0.9, 0.1]}, "y": {"min": 0.0, "max": 1.0}},
                          seed=0), 400)  # fmt: skip
    assert 0.85 < statistics.mean(point["x"] == "a" for point in points) < 0.95


def test_draws__depend_on_seed_alone() -> None:
    parameters = {"x": {"min": 0.0, "max": 1.0}}
    three, five = (list(islice(draws(parameters, seed=1), count)) for count in (3, 5))
    assert five[:3] == three
    assert next(draws(parameters, seed=2)) != three[0]


@pytest.mark.parametrize(
    ("parameter", "method", "said"),
    [
        (5, "grid", "must say what it is: {value: 5}"),
        ({"values": []}, "grid", "at least one value"),
        ({}, "grid", "needs one of value, values"),
        ({"min": 0.0, "max": 1.0}, "grid", "is drawn (uniform)"),
        ({"distribution": "unifrom", "min": 0, "max": 1}, "random", "unifrom is unknown; choices: constant"),
        ({"distribution": "uniform", "min": 0}, "random", "lacks max"),
        ({"distribution": "uniform", "min": 0, "max": 1, "mu": 2}, "random", "does not take mu"),
        ({"distribution": "uniform", "values": [1]}, "random", "does not go with values"),
        ({"min": 3, "max": 1}, "random", "min 3 is above max 1"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "random", "min must be above 0"),
        ({"distribution": "log_uniform_values", "min": "1e-5", "max": 1}, "random", "write 1e-05"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "random", "must be a whole number"),
        ({"values": [1, 2], "probabilities": [0.5, 0.4]}, "random", "2 shares that sum to 1"),
    ],
)
def test_check_parameters__names_what_is_wrong(parameter: Any, method: str, said: str) -> None:
    with pytest.raises(ParameterError) as error:
        check_parameters({"model": {"parameters": {"lr": parameter}}}, method)
    assert said in str(error.value) and str(error.value).startswith("parameters.model.parameters.lr")


def test_check_parameters__names_that_wandb_refuses() -> None:
    with pytest.raises(ParameterError, match="letters, digits"):
        check_parameters({"a b": {"value": 1}}, "grid")
