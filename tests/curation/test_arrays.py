import numpy as np
import pytest
import torch

from curation.arrays import like, to_numpy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_to_numpy__tensors_of_any_kind(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1, 2], [3, 4]]).to(dtype)
    array = to_numpy(tensor.float().requires_grad_().to(dtype))
    assert isinstance(array, np.ndarray) and array.tolist() == [[1, 2], [3, 4]]


def test_to_numpy__lists_and_arrays() -> None:
    array = np.arange(3)
    assert to_numpy(array) is array
    assert to_numpy([1, 2]).tolist() == [1, 2]


def test_like__the_kind_of_the_caller() -> None:
    array = np.arange(3)
    assert like(array, [0]) is array and like(array, np.zeros(1)) is array
    tensor = like(array, torch.zeros(1))
    assert isinstance(tensor, torch.Tensor) and tensor.tolist() == [0, 1, 2]
