"""What all protocols on features have in common."""

import json

import numpy as np

from pas_train.evaluation.evaluation import Evaluation
from pas_train.evaluation.fewshot import FewShot
from pas_train.evaluation.linear import Linear
from pas_train.evaluation.transfer import Transfer
from tests.pas_train.evaluation.made import Transformer, made_subject

SCORES = ("logme", "ncti")


def noise(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(count).normal(size=(count, 12)).astype(np.float32), np.arange(count) % 7


def test_protocols__give_the_figures_that_they_name_as_plain_values() -> None:
    evaluation = Evaluation(linear=Linear(2, rates=[0.01, 0.1]), fewshot=FewShot(seeds=2), transfer=Transfer())
    subject = made_subject(noise(140), noise(60), backbone=Transformer())
    told = {}
    for protocol in evaluation.protocols():
        figures = protocol.judge(subject)
        assert list(figures) == protocol.names() == list(protocol.described())
        told |= figures
    assert json.loads(json.dumps(told)) == told
    assert set(told) == {
        "knn",
        "knn10",
        "knn20",
        "knn100",
        "knn200",
        "linear",
        "fewshot1",
        "fewshot5",
        "fewshot10",
        *SCORES,
    }
    for name in set(told) - set(SCORES):
        assert {"top1", "mean_per_class", "interval"} <= set(told[name])
        assert ("top5" in told[name]) == (name != "knn")
