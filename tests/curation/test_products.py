import numpy as np
import pytest
import torch

from curation.products import as_float32, bfloat16_is_faster, exact_products


def test_exact_products__settings_of_the_run_come_back() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(ZeroDivisionError), exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
            _ = 1 / 0
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_as_float32__of_a_memory_map(tmp_path, dtype: type) -> None:
    np.save(tmp_path / "rows.npy", np.array([[0.5, 2], [3, 4]], dtype))
    tensor = as_float32(np.load(tmp_path / "rows.npy", mmap_mode="r")[::-1])
    assert tensor.dtype == torch.float32 and tensor.tolist() == [[3, 4], [0.5, 2]]


def test_bfloat16_is_faster__decided_once() -> None:
    assert bfloat16_is_faster() == bfloat16_is_faster() and bfloat16_is_faster.cache_info().misses <= 1
