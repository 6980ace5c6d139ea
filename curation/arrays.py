"""Arrays of callers: numpy or torch in, the same out. Imports no torch."""

import sys
from typing import Any

import numpy as np


def to_numpy(values: Any) -> np.ndarray:
    """A numpy array of a numpy array, list or tensor (of any device; bfloat16 becomes float32)."""
    if _is_tensor(values):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
        return values.numpy()
    return np.asarray(values)


def like(array: np.ndarray, given: Any) -> Any:
    """The array as a tensor where the caller gave a tensor, else as it is."""
    return sys.modules["torch"].from_numpy(array) if _is_tensor(given) else array


def _is_tensor(values: Any) -> bool:
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported it
    return torch is not None and isinstance(values, torch.Tensor)
