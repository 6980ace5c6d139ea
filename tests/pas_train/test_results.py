import copy
from typing import Any

from pas_train.results import joined, results_of


def judged(names: tuple[str, ...], data_set: str = "food", identity: str = "a", size: int = 224) -> dict[str, Any]:
    figures = {name: {"top1": 0.5} for name in names}
    return results_of(
        "run", {}, {data_set: {"trained": figures}}, screening={data_set: {"screened": True}},
        backbones={"trained": {"identity": identity}},
        protocols={data_set: {"image_size": size, "figures": {name: {"of": name} for name in names}}},
    )  # fmt: skip


def test_joined__protocols_of_two_evaluations_add_up() -> None:
    found = joined(judged(("finetune",)), judged(("linear", "logme")))
    assert list(found["evaluation"]["food"]["trained"]) == ["finetune", "linear", "logme"]
    assert found["protocols"]["food"]["figures"]["linear"] == {"of": "linear"}


def test_joined__the_new_figures_count() -> None:
    new, old = judged(("knn",)), judged(("knn",))
    old["evaluation"]["food"]["trained"]["knn"]["top1"] = 0.1
    assert joined(copy.deepcopy(new), old) == new


def test_joined__another_data_set_stays_with_its_screening() -> None:
    found = joined(judged(("knn",), "birds"), judged(("knn",)))
    assert set(found["evaluation"]) == set(found["screening"]) == set(found["protocols"]) == {"birds", "food"}


def test_joined__nothing_stays_of_other_weights_sizes_and_versions() -> None:
    new = judged(("knn",))
    assert joined(copy.deepcopy(new), judged(("linear",), size=64)) == new
    assert joined(copy.deepcopy(new), judged(("linear",)) | {"version": 1}) == new
    assert joined(copy.deepcopy(new), None) == new
    assert joined(copy.deepcopy(new), judged(("linear",), identity="b")) == new
