import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pas_train.evaluation import linear
from pas_train.evaluation.linear import Linear, default_rate
from tests.pas_train.evaluation.made import Transformer, made_subject

KINDS = ["sgd", "adamw"]
Split = tuple[np.ndarray, np.ndarray]


def clusters(seed: int, count: int, spread: float = 0.3, classes: int = 3, dim: int = 8) -> Split:
    """Classes around far points, three of eight dimensions."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = rng.integers(0, classes, count)
    return (centres[labels] + spread * rng.normal(size=(count, dim))).astype(np.float32), labels


def judged(train: Split, test: Split, kind: str = "sgd", **settings: Any) -> dict[str, Any]:
    backbone = Transformer() if kind == "adamw" else None
    return Linear(**settings).judge(made_subject(train, test, backbone=backbone))["linear"]


@pytest.mark.parametrize("kind", KINDS)
def test_judge__separates_what_is_separable(kind: str) -> None:
    assert judged(clusters(0, 200), clusters(1, 100), kind, epochs=40, batch_size=32)["top1"] > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_judge__noise_is_right_by_chance(kind: str) -> None:
    noise = clusters(0, 200, spread=100.0), clusters(1, 600, spread=100.0)
    assert 0.25 < judged(*noise, kind, epochs=10)["top1"] < 0.42


@pytest.mark.parametrize("kind", KINDS)
def test_judge__scale_and_place_of_features_do_not_matter(kind: str) -> None:
    (x, y), (test, answers) = clusters(0, 100, 1.0), clusters(1, 100, 1.0)
    plain = judged((x, y), (test, answers), kind, epochs=5)["top1"]
    assert 0.4 < plain < 1
    moved = judged((x * 1000 + 70, y), (test * 1000 + 70, answers), kind, epochs=5)["top1"]
    assert moved == pytest.approx(plain, abs=0.021)


@pytest.mark.parametrize("kind", KINDS)
def test_judge__mean_over_seeds_each_of_which_is_the_same_again(kind: str) -> None:
    sets = clusters(0, 100, 1.5), clusters(1, 300, 1.5)
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 16}
    told, again = (judged(*sets, kind, seeds=[0, 1, 2], **settings) for _ in range(2))
    assert told == again
    assert told["seeds"] == [judged(*sets, kind, seeds=[seed], **settings)["top1"] for seed in (0, 1, 2)]
    assert told["top1"] == pytest.approx(np.mean(told["seeds"])) and len(set(told["seeds"])) > 1


def test_judge__a_class_that_training_lacks_is_never_right() -> None:
    (x, y), (test, answers) = clusters(0, 200), clusters(1, 90)
    subject = made_subject((x[y != 2], y[y != 2]), (test, answers), classes=["ale", "bun", "cod"])
    assert Linear(20).judge(subject)["linear"]["top1"] <= (answers != 2).mean() + 1e-6


def test_judge__many_dimensions_do_not_diverge() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    x = (rng.normal(size=(60, 3000)) + labels[:, None]).astype(np.float32)
    assert judged((x, labels), (x, labels), epochs=20)["top1"] == 1.0


def test_judge__features_that_are_all_alike_give_the_commonest_class() -> None:
    x, y = np.ones((40, 4), np.float32), np.array([0] * 30 + [1] * 10)
    assert judged((x, y), (x, y), epochs=30)["top1"] == 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_judge__as_often_right_as_logistic_regression(kind: str) -> None:
    """Forty classes of twelve images, 64 dimensions: within four points of the best penalty for the test set."""
    from sklearn.linear_model import LogisticRegression

    (x, y), (test, answers) = clusters(0, 480, 1.6, 40, 64), clusters(1, 2000, 1.6, 40, 64)
    ours = judged((x, y), (test, answers), kind)["top1"]
    best = max(LogisticRegression(C=c).fit(x / x.std(), y).score(test / x.std(), answers) for c in (0.01, 0.1, 1.0))
    assert 0.5 < best < 0.98
    assert ours >= best - 0.04


def test_rates__the_best_on_held_out_images_is_judged_as_it_was_trained() -> None:
    sets = clusters(0, 300, 1.5), clusters(1, 500, 1.5)
    told = judged(*sets, rates=[1e-6, 0.1, 1e9], epochs=20)
    assert told["rate"] == [0.1]
    assert told == judged(*sets, rates=[0.1], epochs=20)  # alone it is the same: others have no say
    assert told["top1"] > judged(*sets, rates=[1e-6], epochs=20)["top1"]


def test_rates__test_images_have_no_say() -> None:
    train, (test, answers) = clusters(0, 300, 1.5), clusters(1, 500, 1.5)
    settings: dict[str, Any] = {"rates": [1e-5, 1e-3, 0.1], "epochs": 5}
    wrong = judged(train, (test, (answers + 1) % 3), **settings)
    assert wrong["rate"] == judged(train, (test, answers), **settings)["rate"]


def test_judge__a_layer_that_diverged_is_never_right_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert judged(clusters(0, 100), clusters(1, 50), lr=1e38, epochs=5)["top1"] == 0.0
    assert "'food': the linear layer diverged at a learning rate of 1e+38" in capsys.readouterr().out


def test_judge__finished_seeds_of_a_killed_run_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SAVE_SECONDS", 0.0)
    subject = made_subject(clusters(0, 100, 1.5), clusters(1, 300, 1.5), tmp_path)
    told = Linear(3, seeds=[0, 7]).judge(subject)
    path = tmp_path / "linear-7.json"
    assert json.loads(path.read_text())["top1"] == told["linear"]["seeds"][1]
    path.write_text(json.dumps(told["linear"] | {"top1": 0.25}))
    assert Linear(3, seeds=[0, 7]).judge(subject)["linear"]["seeds"] == [told["linear"]["seeds"][0], 0.25]


def test_default_rate__of_batch_and_dimensions() -> None:
    assert default_rate("sgd", 256, 384) == pytest.approx(0.3)
    assert default_rate("sgd", 128, 2048) == pytest.approx(0.075)
    assert default_rate("adamw", 64, 2048) == 1e-3


def test_described__held_out_counts_only_with_rates() -> None:
    assert "held_out" not in Linear().described()["linear"]
    assert Linear(rates=[0.1]).described()["linear"]["held_out"] == 0.1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"seeds": [1, 1]}, "seeds must be one or more different"),
        ({"rates": []}, "rates must be positive numbers, or null"),
        ({"rates": [0.1], "lr": 0.1}, "both lr and rates"),
        ({"held_out": 1.0}, "held_out must be a share"),
    ],
)
def test_settings__that_mean_nothing_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=rf"evaluation\.linear.*{told}"):
        Linear(**wrong)
