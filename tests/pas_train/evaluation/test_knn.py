import numpy as np
import pytest
import torch

from pas_train.evaluation import knn
from pas_train.evaluation.fewshot import FewShot
from pas_train.evaluation.knn import Knn, knn_predict
from pas_train.evaluation.linear import Linear
from pas_train.evaluation.protocol import Protocol
from pas_train.evaluation.transfer import Transfer
from tests.pas_train.evaluation.made import Transformer, made_subject


def ray(degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def clusters(seed: int, count: int, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, 8))
    labels = rng.integers(0, classes, count)
    return (centres[labels] + 1.5 * rng.normal(size=(count, 8))).astype(np.float32), labels


def slow(train: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int, temperature: float | None) -> list[list[int]]:
    """Classes of the k nearest in order of their votes, by the definition."""
    ranked = []
    unit = train.astype(float) / np.linalg.norm(train.astype(float), axis=1, keepdims=True)
    for row in test.astype(float):
        cosines = unit @ row / np.linalg.norm(row)
        votes: dict[int, float] = {}
        for place in np.argsort(-cosines, kind="stable")[:k]:
            weight = 1.0 if temperature is None else np.exp(cosines[place] / temperature)
            votes[int(labels[place])] = votes.get(int(labels[place]), 0.0) + weight
        ranked.append(sorted(votes, key=lambda one: -votes[one])[:5])  # stable: equal votes in order of the nearest
    return ranked


@pytest.mark.parametrize(("k", "temperature"), [(1, None), (7, None), (10, 0.07), (90, 0.5)])
def test_vote__as_the_definition_says(monkeypatch: pytest.MonkeyPatch, k: int, temperature: float | None) -> None:
    (train, labels), (test, _) = clusters(0, 90), clusters(1, 40)
    expected = slow(train, labels, test, k, temperature)
    monkeypatch.setattr(knn, "VOTES", 6 * 16)
    found = knn.nearest(train, test, 90)
    ranked = knn._vote(*found, torch.from_numpy(labels), 6, k, temperature).tolist()
    assert [[one for one in row if one >= 0] for row in ranked] == expected
    assert knn_predict(train, labels, test, k, temperature).tolist() == [row[0] for row in expected]


def test_knn_predict__equal_votes_go_to_the_nearest_and_labels_may_be_any_numbers() -> None:
    train, labels = ray([0, 10, 20, 30]), np.array([-7, 500, 500, -7])
    assert knn_predict(train, labels, ray([1, 29, 12]), k=4).tolist() == [-7, -7, 500]
    assert knn_predict(train, labels, ray([12]), k=3, temperature=0.01).dtype == labels.dtype


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 5}, {"temperature": 0.0}])
def test_knn_predict__refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        knn_predict(ray([0, 10, 20, 30]), np.arange(4), ray([1]), **wrong)  # type: ignore[arg-type]


def test_judge__each_figure_is_that_of_its_own_vote() -> None:
    train, test = clusters(0, 300), clusters(1, 200)
    protocol = Knn(weighted=[20, 150])
    told = protocol.judge(made_subject(train, test))
    assert list(told) == protocol.names() == ["knn", "knn20", "knn150"]
    for name, k, temperature in (("knn", 1, None), ("knn20", 20, 0.07), ("knn150", 150, 0.07)):
        right = knn_predict(*train, test[0], k, temperature) == test[1]
        assert told[name]["top1"] == right.mean()
    assert "top5" not in told["knn"] and told["knn20"]["top5"] > told["knn20"]["top1"]
    assert told["knn"]["interval"][0] < told["knn"]["top1"] < told["knn"]["interval"][1]


def test_judge__more_neighbours_than_training_images_are_all_of_them() -> None:
    train, test = clusters(0, 30), clusters(1, 50)
    told = Knn(weighted=[30, 200]).judge(made_subject(train, test))
    assert told["knn30"] == told["knn200"]


def test_described__a_vote_does_not_depend_on_the_others() -> None:
    few, more = Knn(weighted=[20]).described(), Knn(weighted=[10, 20, 200]).described()
    assert few == {name: more[name] for name in few}
    assert few["knn"] == {"k": 1, "temperature": None}


@pytest.mark.parametrize(
    ("wrong", "told"), [({"k": 0}, "1 or more"), ({"weighted": [20, 20]}, "twice"), ({"temperature": 0}, "positive")]
)
def test_settings__that_mean_nothing_are_refused(wrong: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=rf"evaluation\.knn.*{told}"):
        Knn(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", [Knn(), Linear(1), FewShot(), Transfer()])
def test_protocols__features_that_are_no_numbers_are_an_error(protocol: Protocol) -> None:
    (train, labels), test = clusters(0, 30), clusters(1, 20)
    train[[3, 8], 0] = np.nan, np.inf
    with pytest.raises(ValueError, match="evaluation 'food': the backbone's features of 2 of 30 images are no finite"):
        protocol.judge(made_subject((train, labels), test, backbone=Transformer()))
