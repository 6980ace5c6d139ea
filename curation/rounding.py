"""How far a product of two rows may be from the exact one, and what that means for a threshold."""

from dataclasses import dataclass

import torch

INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
# Largest relative error of rounding to the type, and the absolute one below its normal numbers.
ROUNDING = {torch.bfloat16: (2.0**-8, 0.0), torch.float16: (2.0**-11, 2.0**-25)}


@dataclass(frozen=True)
class Limits:
    """What a product of some type says of a pair: below `possible` it is not similar, from `certain` on it is.

    possible, certain: integers in the order of the type's floats; floor, ceiling: the same as floats of the type;
    ordered: whether the bits of products must be mapped by `ordered_integers`, as near or below 0.
    """

    possible: int
    certain: int
    ordered: bool
    floor: float
    ceiling: float


def margin(dtype: torch.dtype, width: int, norm: float) -> float:
    """Bound of the error of a product of two rows of at most this norm.

    Cauchy-Schwarz bounds the sum of |products| by norm^2. float32: `width` roundings (or truncations) in the sum.
    A half precision: rounding of both factors and of the result, on top of a float32 sum.
    """
    error = (width + 2) * 2.0**-23
    if dtype in ROUNDING:
        relative, absolute = ROUNDING[dtype]
        error += 3 * relative + relative**2 + 2 * width * absolute
    return error * max(1.0, norm * norm)


def limits(threshold: float, error: float, dtype: torch.dtype) -> Limits:
    """The limits around a threshold, rounded outwards to the type."""
    # Non-negative floats are in the order of their bits; only a threshold near or below 0 needs the mapping.
    ordered = threshold - error <= 0
    found: list[int] = []
    for value, up in ((threshold - error, -1), (threshold + error, 1)):
        rounded = torch.tensor([value], dtype=dtype)
        integer = int(ordered_integers(rounded)[0])
        wrong = float(rounded) > value if up < 0 else float(rounded) < value
        found.append(integer + up if wrong else integer)
    places = ordered_integers(torch.tensor(found, dtype=INTEGERS[dtype]).view(dtype))  # the mapping is its own inverse
    floor, ceiling = places.view(dtype).tolist()
    return Limits(found[0], found[1], ordered, floor, ceiling)


def ordered_integers(values: torch.Tensor) -> torch.Tensor:
    """Integers in the order of the floats, also of negative ones."""
    integers = values.view(INTEGERS[values.dtype])
    largest = torch.iinfo(integers.dtype).max
    return torch.where(integers < 0, integers ^ largest, integers)
