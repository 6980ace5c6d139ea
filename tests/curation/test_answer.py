from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from curation.answer import judge, read_answer, score_against_answer
from curation.workspace import write_table
from tests.curation.small_workspace import finish, save_workspace

# key: kind, group of copies
TRUTH = {
    "a": ("photo", "1"), "a2": ("duplicate", "1"), "a3": ("duplicate", "1"), "b": ("photo", "2"), "c": ("photo", "3"),
    "x": ("ood", "x"), "y": ("text_only", "y"), "l": ("leak", "l"), "l2": ("leak", "l"), "z": ("broken", "html"),
    "z2": ("broken", "cut"), "m": ("ambiguous", "m"),
}  # fmt: skip


def truth() -> pa.Table:
    kinds, groups = zip(*TRUTH.values(), strict=True)
    inside = [kind in ("photo", "duplicate") for kind in kinds]
    return pa.table({"key": list(TRUTH), "kind": list(kinds), "group": list(groups), "in_domain": inside})


def ledger(**columns: dict) -> pa.Table:
    """Columns given as key -> value; all other rows have null."""
    return pa.table({"key": list(TRUTH), **{name: [v.get(key) for key in TRUTH] for name, v in columns.items()}})


def test_score_against_answer__nothing_ran() -> None:
    figures = score_against_answer(ledger(), truth())
    nothing = dict.fromkeys(("duplicates", "auroc", "leaks", "broken", "removed", "kept"))
    assert figures == {"images": 12, **nothing}


@pytest.mark.parametrize(
    ("groups", "precision", "recall"),
    [
        ({"a": 1, "a2": 1, "a3": 1, "b": 2, "c": 3}, 1.0, 1.0),
        ({"a": 1, "a2": 1, "a3": 9, "b": 2, "c": 3}, 1.0, 1 / 3),
        ({"a": 1, "a2": 1, "a3": 1, "b": 1, "c": 3}, 0.5, 1.0),
        ({"a": 1, "a2": 1, "a3": 1, "b": 2, "c": 3, "l": 7, "l2": 7}, 1.0, 1.0),  # leaks count neither way
        ({"a": 1, "a2": 1, "a3": 1, "b": 2, "c": 3, "x": 3}, 0.75, 1.0),
        ({"a": 0, "b": 2, "c": 3}, None, None),
    ],
)
def test_duplicates__pairs_of_rows(groups: dict, precision: float | None, recall: float | None) -> None:
    figures = score_against_answer(ledger(duplicate_group=groups), truth())["duplicates"]
    assert (figures["precision"], figures["recall"]) == (precision, recall)


def test_duplicates__ten_thousand_copies_are_counted_at_once() -> None:
    many = 10_000
    table = pa.table({"key": [str(i) for i in range(many)], "duplicate_group": [0] * many})
    kinds = pa.table(
        {"key": table["key"], "kind": ["photo"] * many, "group": ["1"] * (many // 2) + ["2"] * (many // 2)}
    )
    figures = score_against_answer(table, kinds)["duplicates"]
    assert figures["pairs_found"] == many * (many - 1) // 2 and figures["recall"] == 1.0
    assert figures["precision"] == pytest.approx(2 * 5000 * 4999 / (many * (many - 1)))


def test_auroc__agrees_with_scikit_learn_and_ignores_leaks_and_nulls() -> None:
    keys = [key for key in TRUTH if key not in ("z", "z2", "c")]
    values = dict(zip(keys, np.random.default_rng(0).integers(0, 4, len(keys)) / 4.0, strict=True))
    figures = score_against_answer(ledger(ood=values, text_gap=values), truth())["auroc"]
    inside = [values[key] for key in ("a", "a2", "a3", "b")]
    for part, outside in {"all": ["x", "y"], "ood": ["x"], "text_only": ["y"]}.items():
        labels = [0] * 4 + [1] * len(outside)
        expected = roc_auc_score(labels, inside + [values[key] for key in outside])
        assert figures["ood"][part] == pytest.approx(expected)
    assert figures["ood"]["ood_text"] is None  # no such case
    assert set(figures) == {"ood", "text_gap"}


def test_auroc__removed_first_is_outside() -> None:
    rank = {"x": 0, "y": 1, "a": 2, "b": 3, "c": 4}
    assert score_against_answer(ledger(removal_rank=rank), truth())["auroc"]["removal_order"]["all"] == 1.0


def test_leaks__found_and_false_alarms() -> None:
    columns: dict[str, dict] = {
        "leaks": dict.fromkeys(TRUTH, False),
        "drop_reason": {"l": "leak", "b": "leak", "x": "leak"},
    }
    figures = score_against_answer(ledger(**columns), truth())["leaks"]
    assert figures == {"planted": 2, "found": 1, "false_alarms": 1}


def test_broken__fate_of_each_case_and_what_was_lost() -> None:
    readable = {**dict.fromkeys(TRUTH, True), "z": False, "b": False}
    figures = score_against_answer(ledger(readable=readable, reason={"z": "not_an_image"}), truth())["broken"]
    assert figures == {
        "total": 2, "refused": 1, "usable_lost": 1, "by_case": {"html": {"not_an_image": 1}, "cut": {"readable": 1}},
    }  # fmt: skip


def test_removed__share_of_each_kind_among_the_ranked() -> None:
    rank = {"x": 0, "y": 1, "a": 2, "b": 3, "c": 4}
    keep = {**dict.fromkeys(TRUTH, False), "a": True, "c": True}
    removed = score_against_answer(ledger(removal_rank=rank, keep=keep), truth())["removed"]
    assert removed == {
        "ood": {"of": 1, "removed": 1, "share": 1.0}, "photo": {"of": 3, "removed": 1, "share": 1 / 3},
        "text_only": {"of": 1, "removed": 1, "share": 1.0},
    }  # fmt: skip


def test_judge__every_data_set_whichever_method_chose_it(tmp_path: Path) -> None:
    space = save_workspace(tmp_path)
    kinds = pa.table({"key": ["d.jpg", "e.jpg", "g.jpg"], "kind": ["photo", "duplicate", "ood"], "group": ["1"] * 3})
    write_table(tmp_path / "truth.parquet", kinds)
    for name, keys in (("full", ["d.jpg", "e.jpg"]), ("random-2", ["d.jpg", "g.jpg"])):
        write_table(space.manifest(name), pa.table({"key": keys}))
    figures = judge(space, tmp_path / "truth.parquet")
    assert figures["data_sets"] == {
        "full": {"images": 2, "share_in_domain": 1.0, "duplicate": 1, "ood": 0, "photo": 1},
        "random-2": {"images": 2, "share_in_domain": 0.5, "duplicate": 0, "ood": 1, "photo": 1},
    }  # fmt: skip
    assert read_answer(space) == figures


def test_read_answer__only_of_the_present_selection(tmp_path: Path) -> None:
    space = save_workspace(tmp_path)
    write_table(tmp_path / "truth.parquet", truth())
    finish(space, "select", result={"manifest_sha256": "this"})
    figures = judge(space, tmp_path / "truth.parquet")
    assert read_answer(space) == figures
    finish(space, "select", result={"manifest_sha256": "another"})
    assert read_answer(space) == {}


def test_kept__by_kind() -> None:
    keep = {**dict.fromkeys(TRUTH, False), "a": True, "b": True, "x": True}
    kept = score_against_answer(ledger(keep=keep), truth())["kept"]
    assert kept["photo"] == {"of": 3, "kept": 2} and kept["ood"] == {"of": 1, "kept": 1}
    assert kept["leak"] == {"of": 2, "kept": 0}


def test_score_against_answer__rows_without_an_answer_are_unknown() -> None:
    table = pa.table({"key": ["a", "new"], "keep": [True, True]})
    assert score_against_answer(table, truth())["kept"] == {
        "photo": {"of": 1, "kept": 1}, "unknown": {"of": 1, "kept": 1},
    }  # fmt: skip
