from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pas_train.evaluation import linear_layers
from pas_train.evaluation.linear_layers import LinearLayers, Rows, Schedule

CPU = torch.device("cpu")


def noise(count: int = 60, dim: int = 7, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(3, 2, size=(count, dim)).astype(np.float32), rng.integers(0, classes, count)


def trained(schedule: Schedule, rates: list[float], **more) -> torch.Tensor:  # type: ignore[no-untyped-def]
    values, labels = noise()
    layers = LinearLayers(7, 4, rates, seed=1, device=CPU)
    layers.train(Rows(values, CPU), labels, np.arange(50), schedule, **more)
    return layers.weights


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_train__as_torch_optimisers_with_autograd(kind: str, weight_decay: float) -> None:
    values, labels = noise()
    schedule = Schedule(kind, epochs=10, batch_size=16, weight_decay=weight_decay)  # type: ignore[arg-type]
    x, y = torch.from_numpy(values), torch.from_numpy(labels)
    x = (x - x.mean(dim=0)) / x.std()
    layer = nn.Linear(7, 4)
    begun = LinearLayers(7, 4, [0.05], seed=1, device=CPU).weights[:, 0]
    layer.load_state_dict({"weight": begun[:-1].T, "bias": begun[-1]})
    optimizer: torch.optim.Optimizer
    if kind == "sgd":
        optimizer = torch.optim.SGD(layer.parameters(), 0.05, momentum=0.9, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.AdamW(layer.parameters(), 0.05, weight_decay=weight_decay)
    for epoch in range(10):
        optimizer.param_groups[0]["lr"] = 0.05 * schedule.factor(epoch)
        generator = torch.Generator().manual_seed(1_000_003 + epoch)
        for rows in torch.randperm(50, generator=generator).split(16):
            optimizer.zero_grad()
            F.cross_entropy(layer(x[rows]), y[rows]).backward()
            optimizer.step()
    ours = trained(schedule, [0.05])[:, 0]
    torch.testing.assert_close(ours[:-1].T, layer.weight.detach(), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ours[-1], layer.bias.detach(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_train__each_layer_of_many_is_what_it_would_be_alone(kind: str) -> None:
    schedule = Schedule(kind, epochs=6, batch_size=16)  # type: ignore[arg-type]
    rates = [0.001, 0.03, 1e30, 0.3]  # one diverges, and does not harm the others
    together = trained(schedule, rates)
    for place in (0, 1, 3):
        torch.testing.assert_close(together[:, place], trained(schedule, rates[place : place + 1])[:, 0])


def test_schedule__steps_for_sgd_and_a_cosine_for_adamw() -> None:
    sgd, adamw = (Schedule(kind, 100, 256) for kind in ("sgd", "adamw"))
    assert [sgd.factor(epoch) for epoch in (0, 59, 60, 79, 80, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [adamw.factor(epoch) for epoch in (0, 50)] == pytest.approx([1, 0.5])
    assert 0 < adamw.factor(99) < 0.001


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_train__goes_on_from_its_state_after_a_kill(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, state = Schedule(kind, epochs=8, batch_size=16), tmp_path / "folder" / "state.pt"  # type: ignore[arg-type]
    monkeypatch.setattr(linear_layers, "SAVE_SECONDS", 0.0)

    def kill(epoch: int) -> None:
        if epoch == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(schedule, [0.1, 0.2], state=state, tell=kill)
    epochs: list[int] = []
    again = trained(schedule, [0.1, 0.2], state=state, tell=epochs.append)
    assert epochs == [5, 6, 7, 8]  # the fourth was the last that was saved
    assert torch.equal(again, trained(schedule, [0.1, 0.2]))


def test_train__a_short_one_writes_no_state(tmp_path: Path) -> None:
    trained(Schedule("sgd", 3, 16), [0.1], state=tmp_path / "state.pt")
    assert not list(tmp_path.iterdir())


def test_rows__of_a_memory_map_are_those_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, _ = noise()
    np.save(tmp_path / "values.npy", values)
    held = Rows(values, CPU)
    monkeypatch.setattr(linear_layers, "HELD_BYTES", 0)
    monkeypatch.setattr(linear_layers, "BLOCK_BYTES", 8 * 7 * 9)
    mapped = Rows(np.load(tmp_path / "values.npy", mmap_mode="r"), CPU)
    assert mapped.held is None
    places = torch.tensor([3, 59, 3, 0])
    torch.testing.assert_close(mapped[places], held[places])
    torch.testing.assert_close(torch.cat(list(mapped)), torch.cat(list(held)))


def test_rows__mean_zero_and_unit_variance_or_as_they_are() -> None:
    values, _ = noise()
    moved = torch.cat(list(Rows(values, CPU)))
    torch.testing.assert_close(moved.mean(dim=0), torch.zeros(7), atol=1e-6, rtol=0)
    assert 0.9 < float(moved.std()) <= 1.0
    assert torch.equal(torch.cat(list(Rows(values, CPU, standardise=False))), torch.from_numpy(values))
