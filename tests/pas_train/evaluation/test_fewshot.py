import numpy as np
import pytest

from pas_train.evaluation.fewshot import FewShot, drawn
from tests.pas_train.evaluation.made import made_subject


def clusters(seed: int, count: int, spread: float = 0.3, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, 16))
    labels = np.arange(count) % classes
    return (centres[labels] + spread * rng.normal(size=(count, 16))).astype(np.float32), labels


@pytest.mark.parametrize("classifier", ["logistic", "centre"])
def test_judge__separates_what_is_separable_and_more_shots_help(classifier: str) -> None:
    easy = FewShot([1, 5], 3, classifier).judge(made_subject(clusters(0, 90), clusters(1, 60)))  # type: ignore[arg-type]
    assert easy["fewshot5"]["top1"] > 0.98
    hard = FewShot([1, 10], 3, classifier).judge(made_subject(clusters(0, 90, 1.5), clusters(1, 300, 1.5)))  # type: ignore[arg-type]
    assert hard["fewshot10"]["top1"] > hard["fewshot1"]["top1"] + 0.1
    assert len(hard["fewshot1"]["seeds"]) == 3
    assert hard["fewshot1"]["top1"] == pytest.approx(np.mean(hard["fewshot1"]["seeds"]))


def test_judge__logistic_is_scikit_learn_on_the_same_images() -> None:
    from sklearn.linear_model import LogisticRegression

    (x, y), (test, answers) = clusters(0, 90, 1.5), clusters(1, 300, 1.5)
    told = FewShot([15], 1).judge(made_subject((x, y), (test, answers)))["fewshot15"]  # all of them
    x, test = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (x, test))
    assert told["top1"] == LogisticRegression(C=10).fit(x, y).score(test, answers)


@pytest.mark.parametrize("classifier", ["logistic", "centre"])
@pytest.mark.parametrize("classes", [1, 2])
def test_judge__of_one_or_two_classes(classifier: str, classes: int) -> None:
    sets = clusters(0, 20, classes=classes), clusters(1, 20, classes=classes)
    assert FewShot([3], 2, classifier).judge(made_subject(*sets))["fewshot3"]["top1"] == 1.0  # type: ignore[arg-type]


def test_judge__a_class_without_images_is_never_right_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    (x, y), test = clusters(0, 60), clusters(1, 60)
    names = ["ale", "bun", "cod", "dal", "egg", "fig"]
    told = FewShot([5], 2).judge(made_subject((x[y != 5], y[y != 5]), test, classes=names))
    assert 0.7 < told["fewshot5"]["top1"] <= 5 / 6 + 1e-9
    assert "'food' has fewer than 5 training images of fig (0): all of them are taken" in capsys.readouterr().out


def test_drawn__each_class_as_often_and_fewer_are_among_more() -> None:
    labels = np.array([2, 0, 0, 1, 1, 1, 0, 1])
    order = np.random.default_rng(0).permutation(8)
    two, three = (set(drawn(labels, order, shots).tolist()) for shots in (2, 3))
    assert np.bincount(labels[list(two)]).tolist() == [2, 2, 1]
    assert np.bincount(labels[list(three)]).tolist() == [3, 3, 1]
    assert two < three


def test_described__a_figure_does_not_depend_on_other_shots() -> None:
    assert FewShot([5]).described()["fewshot5"] == FewShot([1, 5, 10]).described()["fewshot5"]
    assert FewShot().names() == ["fewshot1", "fewshot5", "fewshot10"]


@pytest.mark.parametrize("wrong", [{"shots": [5, 5]}, {"shots": [0]}, {"shots": []}, {"seeds": 0}, {"penalty": 0.0}])
def test_settings__that_mean_nothing_are_refused(wrong: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match=rf"evaluation\.fewshot\.{next(iter(wrong))} must be"):
        FewShot(**wrong)  # type: ignore[arg-type]
