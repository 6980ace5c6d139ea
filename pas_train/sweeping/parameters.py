"""The points of a sweep: every combination of a grid, or draws from distributions, as W&B defines them.

Parameters are taken in the order of their names, as W&B's server does.
"""

import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
SAME_DRAWS = 1000  # draws in a row that give no new point, after which there are none left

Parameter = Mapping[str, Any]
Draw = Callable[[Parameter, random.Random], Any]


class ParameterError(ValueError):
    """A parameter that is not as W&B has them."""


def _log_uniform(low: float, high: float, rng: random.Random) -> float:
    return math.exp(rng.uniform(low, high))


def _inverse(low: float, high: float, rng: random.Random) -> float:
    return math.exp(-rng.uniform(low, high))


# distribution -> (keys that it must have, keys that it may have, draw without rounding)
DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], dict[str, float], Draw]] = {
    "uniform": (("min", "max"), {}, lambda p, rng: rng.uniform(p["min"], p["max"])),
    "int_uniform": (("min", "max"), {}, lambda p, rng: rng.randint(p["min"], p["max"])),
    # of the exponents, and of the values themselves
    "log_uniform": (("min", "max"), {}, lambda p, rng: _log_uniform(p["min"], p["max"], rng)),
    "log_uniform_values": (
        ("min", "max"), {}, lambda p, rng: _log_uniform(math.log(p["min"]), math.log(p["max"]), rng),
    ),
    "inv_log_uniform": (("min", "max"), {}, lambda p, rng: _inverse(p["min"], p["max"], rng)),
    "inv_log_uniform_values": (  # log(1 / x) is uniform, so log(x) is too
        ("min", "max"), {}, lambda p, rng: _inverse(-math.log(p["max"]), -math.log(p["min"]), rng),
    ),
    "normal": ((), {"mu": 0.0, "sigma": 1.0}, lambda p, rng: rng.gauss(p["mu"], p["sigma"])),
    "log_normal": ((), {"mu": 0.0, "sigma": 1.0}, lambda p, rng: math.exp(rng.gauss(p["mu"], p["sigma"]))),
    "beta": ((), {"a": 1.0, "b": 1.0}, lambda p, rng: rng.betavariate(p["a"], p["b"])),
}  # fmt: skip
QUANTISED = {f"q_{name}": name for name in ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal",
                                            "beta")}  # fmt: skip
NAMES = ("constant", "categorical", "categorical_w_probabilities", *DISTRIBUTIONS, *QUANTISED)


def check_parameters(parameters: Mapping[str, Any], method: str) -> None:
    """Raises ParameterError naming the parameter that W&B's definition, or the method, does not allow."""
    for name, parameter in _leaves(parameters):
        key = "parameters." + ".parameters.".join(name)
        kind = _kind(key, parameter)
        if method == "grid":
            if kind not in ("constant", "categorical", "int_uniform", "q_uniform"):
                raise ParameterError(f"{key} is drawn ({kind}), which method grid does not; give `values`, or take "
                                     "method random")  # fmt: skip
            if len(_steps(kind, parameter)) == 0:
                raise ParameterError(f"{key} has no value: its min is above its max")


def grid(parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination, the last name's values changing fastest."""
    leaves = list(_leaves(parameters))
    values = [_steps(_kind(".".join(name), parameter), parameter) for name, parameter in leaves]
    seen: list[dict[str, Any]] = []
    for combination in itertools.product(*values):
        point = _nested([name for name, _ in leaves], combination)
        if point not in seen:  # a value that is written twice
            seen.append(point)
            yield point


def draws(parameters: Mapping[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """Random points, each but once; the same for the same seed, however many are taken.

    Ends where a thousand draws in a row were there before.
    """
    leaves = list(_leaves(parameters))
    seen: set[str] = set()
    number = same = 0
    while same < SAME_DRAWS:
        rng = random.Random(f"{seed}:{number}")
        drawn = [_draw(_kind(".".join(name), parameter), parameter, rng) for name, parameter in leaves]
        point = _nested([name for name, _ in leaves], drawn)
        number += 1
        if repr(point) in seen:
            same += 1
            continue
        same = 0
        seen.add(repr(point))
        yield point


def _leaves(parameters: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Parameter]]:
    """(names from the outermost, parameter), nested `parameters` followed, in the order of names."""
    if not isinstance(parameters, Mapping) or not all(isinstance(name, str) for name in parameters):
        raise ParameterError(f"parameters{'.'.join(('', *before))} must be names with parameters, got {parameters}")
    for name in sorted(parameters):
        parameter, names = parameters[name], (*before, name)
        key = "parameters." + ".parameters.".join(names)
        if NAME.fullmatch(name) is None:
            raise ParameterError(f"{key}: W&B takes names of letters, digits and _ . - only")
        if not isinstance(parameter, Mapping):
            raise ParameterError(f"{key} must say what it is: {{value: {parameter}}}, or values, or a distribution")
        if set(parameter) == {"parameters"}:
            yield from _leaves(parameter["parameters"], names)
        else:
            yield names, parameter


def _nested(names: list[tuple[str, ...]], values: Any) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        inner = point
        for part in name[:-1]:
            inner = inner.setdefault(part, {})
        inner[name[-1]] = value
    return point


def _kind(key: str, parameter: Parameter) -> str:
    """The distribution of a parameter, checked."""
    told = parameter.get("distribution")
    needed: tuple[str, ...]
    allowed: set[str] = set()
    if told is not None and told not in NAMES:
        raise ParameterError(f"{key}.distribution {told} is unknown; choices: {', '.join(NAMES)}")
    if "value" in parameter:
        kind, needed = "constant", ("value",)
    elif "values" in parameter:
        weighted = "probabilities" in parameter
        kind, needed = ("categorical_w_probabilities" if weighted else "categorical"), ("values",)
        allowed = {"probabilities"}
        _check_values(key, parameter)
    elif told is None and {"min", "max"} <= set(parameter):
        whole = all(isinstance(parameter[end], int) for end in ("min", "max"))
        kind, needed = ("int_uniform" if whole else "uniform"), ("min", "max")
    elif told in DISTRIBUTIONS or told in QUANTISED:
        kind = str(told)
        needed, optional, _ = DISTRIBUTIONS[QUANTISED.get(kind, kind)]
        allowed = set(optional) | ({"q"} if kind in QUANTISED else set())
    else:
        raise ParameterError(f"{key} needs one of value, values, min and max, or a distribution with what it takes")
    if told not in (None, kind) and not (told == "categorical" and kind == "categorical_w_probabilities"):
        raise ParameterError(f"{key}: distribution {told} does not go with {needed[0]}")
    missing, unknown = set(needed) - set(parameter), set(parameter) - set(needed) - allowed - {"distribution"}
    if missing or unknown:
        wrong = f"lacks {', '.join(sorted(missing))}" if missing else f"does not take {', '.join(sorted(unknown))}"
        raise ParameterError(f"{key} ({kind}) {wrong}")
    if kind in DISTRIBUTIONS or kind in QUANTISED:
        _check_numbers(key, kind, parameter)
    return kind


def _check_values(key: str, parameter: Parameter) -> None:
    values, shares = parameter["values"], parameter.get("probabilities")
    if not isinstance(values, list) or not values:
        raise ParameterError(f"{key}.values must be a list with at least one value, got {values}")
    if shares is not None and (
        not isinstance(shares, list) or len(shares) != len(values) or abs(sum(shares) - 1) > 1e-6 or min(shares) < 0
    ):
        raise ParameterError(f"{key}.probabilities must be {len(values)} shares that sum to 1, got {shares}")


def _check_numbers(key: str, kind: str, parameter: Parameter) -> None:
    for name, value in parameter.items():
        if name == "distribution":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = f" (yaml reads {value} as text: write {float(value)})" if _is_number(value) else ""
            raise ParameterError(f"{key}.{name} must be a number, got {value!r}{hint}")
        if kind == "int_uniform" and not isinstance(value, int):
            raise ParameterError(f"{key}.{name} must be a whole number for int_uniform, got {value}")
        if (name in ("q", "a", "b") or "log_uniform_values" in kind) and value <= 0:
            raise ParameterError(f"{key}.{name} must be above 0 for {kind}, got {value}")
    if "min" in parameter and parameter["min"] > parameter["max"]:
        raise ParameterError(f"{key}: min {parameter['min']} is above max {parameter['max']}")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def _steps(kind: str, parameter: Parameter) -> list[Any]:
    """All values of a parameter of a grid."""
    if kind == "constant":
        return [parameter["value"]]
    if kind == "categorical":
        return list(parameter["values"])
    if kind == "int_uniform":
        return list(range(parameter["min"], parameter["max"] + 1))
    low, high, step = parameter["min"], parameter["max"], parameter.get("q", 1.0)
    return [_tidy(low + number * step) for number in range(math.ceil((high - low) / step - 1e-9))]


def _draw(kind: str, parameter: Parameter, rng: random.Random) -> Any:
    if kind == "constant":
        return parameter["value"]
    if "values" in parameter:
        return rng.choices(parameter["values"], parameter.get("probabilities"))[0]
    base = QUANTISED.get(kind, kind)
    _, optional, draw = DISTRIBUTIONS[base]
    value = draw({**optional, **parameter}, rng)
    if base == kind:
        return value
    step = parameter.get("q", 1.0)
    return _tidy(round(value / step) * step)


def _tidy(value: float) -> float:
    """Without the last digits that sums of binary fractions have: 0.3, not 0.30000000000000004."""
    return value if isinstance(value, int) else float(f"{value:.12g}")
