import numpy as np
import pytest
import torch

from curation.rounding import limits, margin, ordered_integers

TYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_margin__bounds_the_error_of_products(dtype: torch.dtype, scale: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 128))[rng.integers(0, 12, 300)] + 0.6 * rng.normal(size=(300, 128))
    vectors = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float() * scale
    product = (vectors.to(dtype) @ vectors.to(dtype).T).double()
    error = (product - vectors.double() @ vectors.double().T).abs().max()
    assert 0 < error <= margin(dtype, 128, scale * (1 + 1e-6))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("threshold", [0.6, 0.3, 1e-3, 0.0, -0.3])
def test_limits__integers_and_floats_part_products_alike(dtype: torch.dtype, threshold: float) -> None:
    error = margin(dtype, 512, 1.0)
    found = limits(threshold, error, dtype)
    values = torch.cat([torch.linspace(-1, 1, 4001), torch.tensor([threshold - error, threshold + error])]).to(dtype)
    integers = ordered_integers(values) if found.ordered else values.view(ordered_integers(values).dtype)
    assert torch.equal(integers >= found.possible, values >= found.floor)
    assert torch.equal(integers >= found.certain, values >= found.ceiling)
    assert found.floor <= threshold - error and found.ceiling >= threshold + error
    assert found.ceiling - found.floor < 2 * error + 0.02
