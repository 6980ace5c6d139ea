"""MoCo v3 against numbers of the official code (fixtures made by running it, seed 0)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pas_train.backbones import sincos_position_embedding
from pas_train.losses import moco_v3_loss
from pas_train.optim import momentum_cosine, warmup_cosine

FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_moco_v3_loss__official_value() -> None:
    stored = np.load(FIXTURES / "mocov3_loss.npz")
    inputs = (torch.from_numpy(stored[name]) for name in ("q1", "q2", "k1", "k2"))
    loss = moco_v3_loss(*inputs, temperature=float(stored["temperature"]))
    assert loss.item() == pytest.approx(float(stored["loss"]), abs=1e-6)  # float32 of a value near 1


def test_schedules__official_values() -> None:
    stored = np.load(FIXTURES / "mocov3_schedules.npz")
    recipe = (float(stored["base_lr"]), int(stored["batch_size"]), int(stored["warmup_epochs"]), int(stored["epochs"]))
    rates = [warmup_cosine(epoch, *recipe) for epoch in stored["epoch"]]
    momenta = [momentum_cosine(epoch, float(stored["base_momentum"]), recipe[3]) for epoch in stored["epoch"]]
    np.testing.assert_allclose(rates, stored["lr"], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(momenta, stored["momentum"], rtol=1e-12)


@pytest.mark.parametrize("name", ["small", "vit_base_16_224"])
def test_sincos_position_embedding__official_values(name: str) -> None:
    stored = np.load(FIXTURES / f"mocov3_pos_embed_{name}.npz")
    embedding = sincos_position_embedding(int(stored["dim"]), int(stored["grid"]))
    np.testing.assert_allclose(embedding.numpy(), stored["pos_embed"], atol=2e-6)  # float32 angles up to 13
