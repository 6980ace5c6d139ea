import pytest
from torch import nn

from pas_train.fitting import backbone_of


def test_backbone_of__module_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model: Linear has no backbone to evaluate; use a class of pas_train"):
        backbone_of(nn.Linear(1, 1))  # type: ignore[arg-type]
