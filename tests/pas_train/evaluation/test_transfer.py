import numpy as np
import pytest

from pas_train.evaluation.transfer import Transfer
from pas_train.evaluation.transferability import logme, ncti_terms
from tests.pas_train.evaluation.made import Transformer, made_subject


def noise(count: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).normal(size=(count, 10)).astype(np.float32), np.arange(count) % classes


def test_judge__scores_of_the_training_images() -> None:
    train = noise(80)
    told = Transfer().judge(made_subject(train, noise(8), backbone=Transformer()))
    assert told == {"logme": {"score": logme(*train)}, "ncti": ncti_terms(*train)}


def test_judge__a_drawn_part_is_the_same_each_time_and_not_the_whole() -> None:
    subject = made_subject(noise(80), noise(8), backbone=Transformer())
    one, again, other, whole = (
        Transfer(images=n, seed=s).judge(subject) for n, s in ((40, 0), (40, 0), (40, 1), (99, 0))
    )
    assert one == again != other
    assert whole == Transfer().judge(subject) != one


def test_judge__what_has_no_score_is_left_out_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert Transfer().judge(made_subject(noise(80), noise(8))) == {}  # raw pixels
    assert set(Transfer().judge(made_subject(noise(20, 20), noise(8), backbone=Transformer()))) == {"logme"}
    assert "'food': NCTI is left out: NCTI needs two classes or more" in capsys.readouterr().out
    blank = np.zeros((20, 4), np.float32), np.arange(20) % 2
    assert Transfer().judge(made_subject(blank, blank, backbone=Transformer())) == {}
    assert "all features are zero" in capsys.readouterr().out


def test_settings__that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.transfer\.images must be 2 or more"):
        Transfer(images=1)
