"""The select stage on stored scores: methods, quotas, cuts, what it leaves on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.card_text import selected
from curation.fates import tell_fate
from curation.ledger import funnel, read_ledger
from curation.manifest import SCORES
from curation.pareto import pareto_fronts
from curation.selection import knee_cut
from curation.selectors import BalancedClusters, ClipScore, OneScore, Random, SemanticDeduplication
from curation.session import Session
from curation.sizes import write_size
from curation.stage import Context, run_stage
from curation.stages.embed import Embed
from curation.stages.select import Select
from curation.trace import trace_key
from curation.workspace import Workspace, write_part
from datamodules.descriptions import INDEX_SCHEMA
from datamodules.files import sha256_file
from tests.curation.selectors.pools import spheres
from tests.curation.small_workspace import finish

COUNT = 60


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    """60 images, the first of which cannot be read; every third is synthetic, four concepts."""
    return save_scored(tmp_path / "ws", np.random.default_rng(0).random((COUNT, 3)).astype(np.float32))


def save_scored(root: Path, scores: np.ndarray) -> Workspace:
    space, count = Workspace(root), len(scores)
    keys = [f"{number:03d}.jpg" for number in range(count)]
    given = {
        "key": keys, "source": ["synthetic" if number % 3 == 0 else "real" for number in range(count)],
        "root": ["pool"] * count, "shard": keys, "offset": [0] * count, "size": [10] * count, "ext": ["jpg"] * count,
    }  # fmt: skip
    missing = {name: [None] * count for name in INDEX_SCHEMA.names if name not in given}
    space.write_index(pa.table({**given, **missing}, schema=INDEX_SCHEMA), {"pool": root / "pool"})
    finish(space, "index")
    every = np.arange(count)

    def write(name: str, rows: np.ndarray, **columns: Any) -> None:
        write_part(space.stage_folder(name), 0, rows, pa.array(keys), columns, {})
        finish(space, name)

    write("ingest", every, readable=every > 0)
    vectors = spheres([count], 0.3)[0].astype(np.float16)
    write_part(space.stage_folder("embed"), 0, every, pa.array(keys), {}, {"image": vectors})
    finish(space, "embed")
    ood, general, gap = scores[1:].T
    write("ood", every[1:], ood=ood, ood_general=general, text_gap=gap,
          concept=[f"c{number % 4}" for number in every[1:]], concept_similarity=1 - ood)  # fmt: skip
    return space


def run(space: Workspace, **settings: Any) -> dict[str, Any]:
    """result of the stage's record."""
    stage = Select(**settings)
    stages: dict[str, Any] = {"ingest": None, "ood": None, "select": stage}
    context = Context(space, Session(accelerator="cpu"), "x", "", None, stages=stages)
    stage.check(context)
    run_stage(stage, context)
    record = space.stage_record("select")
    assert record is not None
    return dict(record["result"])


def keys_of(space: Workspace, name: str = "full") -> set[str]:
    return set(pq.read_table(space.manifest(name))["key"].to_pylist())


def test_select__size_with_quotas(space: Workspace) -> None:
    result = run(space, target_size=20, per_concept_max=6, synthetic_share=0.25)
    table = pq.read_table(space.manifest())
    assert table.num_rows == result["kept"] == 20 and table["source"].to_pylist().count("synthetic") <= 5
    assert max(table["concept"].to_pylist().count(f"c{number}") for number in range(4)) <= 6
    first, *ranked = read_ledger(space).to_pylist()
    assert first["drop_reason"] == "unreadable" and not first["keep"] and first["removal_rank"] is None
    assert sorted(row["removal_rank"] for row in ranked) == list(range(COUNT - 1))
    for row in ranked:
        removed = row["removal_rank"] < result["cut"]
        assert row["drop_reason"] == ("pareto" if removed else None if row["keep"] else "quota")
    assert sum(row["drop_reason"] == "quota" for row in ranked) == result["over_quota"] > 0


def test_select__knee_with_quotas_keeps_only_what_the_knee_keeps(space: Workspace) -> None:
    plain = run(space)
    without = keys_of(space)
    result = run(space, per_concept_max=8)
    assert result["knees"] == plain["knees"] and result["cut"] == plain["cut"]
    assert keys_of(space) < without and len(without) == result["kept"] + result["over_quota"]


def test_select__tells_how_it_chose(space: Workspace) -> None:
    run(space, target_size=10, synthetic_share=0.5)
    told = json.loads((space.dataset_folder() / "selection.json").read_text())
    assert told["method"]["kind"] == "pareto" and told["size"] == told["images"] == 10 and told["parent"] is None
    assert told["quotas"] == {"per_concept_max": None, "synthetic_share": 0.5} and told["knee"] == "first"
    assert "at most 50 % synthetic" in (space.dataset_folder() / "README.md").read_text()


@pytest.mark.parametrize(
    ("method", "kind"),
    [(Random(1), "random"), (ClipScore(), "clip_score"), (OneScore("text_gap"), "one_score"),
     (BalancedClusters(clusters=[6, 2]), "balanced_clusters"), (SemanticDeduplication(), "semantic_deduplication")],
)  # fmt: skip
def test_select__every_method_cuts_to_a_size(space: Workspace, method: Any, kind: str) -> None:
    result = run(space, method=method, target_size=15)
    ledger = read_ledger(space)
    assert result["kept"] == 15 and result["knees"] == [None] * 3
    assert ledger["front"].null_count == COUNT
    assert ledger["drop_reason"].to_pylist().count(kind) == COUNT - 16
    kept = keys_of(space)
    assert keys_of_size(space, 7) < kept < keys_of_size(space, 30)


def keys_of_size(space: Workspace, size: int) -> set[str]:
    write_size(space, size, f"n{size}")
    return keys_of(space, f"n{size}")


def test_select__names_the_data_sets_cut_from_an_earlier_selection(
    space: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run(space, target_size=20)
    write_size(space, 5, "five")
    assert "earlier selection" not in capsys.readouterr().out
    run(space, target_size=20, per_concept_max=6)
    assert "cut from an earlier selection, and no subsets of this one: five\n" in capsys.readouterr().out


def test_select__a_threshold_is_a_cut(space: Workspace) -> None:
    result = run(space, method=OneScore("ood", threshold=0.7))
    ood = read_ledger(space)["ood"].to_numpy()[1:]
    assert result["kept"] == (ood <= 0.7).sum() and result["cut"] == (ood > 0.7).sum()


def test_select__a_changed_method_runs_it_again(space: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run(space, target_size=5)
    first = sha256_file(space.manifest())
    run(space, target_size=5, method=Random(2))
    assert "select     runs again (method.kind None -> 'random'; method.seed None -> 2" in capsys.readouterr().out
    assert sha256_file(space.manifest()) != first
    run(space, target_size=5)
    assert sha256_file(space.manifest()) == first


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": Random()}, r"select\.method Random only orders the images: set curation\.select\.target_size to"),
        ({"method": ClipScore()}, r"target_size or curation\.select\.method\.threshold to say"),
        ({"method": ClipScore(3.0)}, r"curation\.select\.method\.threshold must be a cosine"),
        ({"target_size": 0}, "target_size must be at least 1, got 0"),
        ({"synthetic_share": -0.1}, r"curation\.select\.synthetic_share must be in \[0, 1\]"),
        ({"target_size": 60}, r"curation\.select\.target_size is 60, but only 59 images are left after the earlier"),
        ({"target_size": 9, "per_concept_max": 2}, "is 9, but only 8 images are left after the earlier stages and the"),
    ],
)
def test_select__wrong_settings(space: Workspace, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run(space, **settings)
    assert not space.manifest().exists()


def test_select__a_method_on_embeddings_that_nobody_stores(space: Workspace) -> None:
    select = Select(method=BalancedClusters(embedding="clipn"), target_size=5)
    stages: dict[str, Any] = {"embed": Embed(), "select": select}
    with pytest.raises(ValueError, match=r"^curation\.select\.method\.embedding is clipn, but curation\.embed\.clipn"):
        select.check(Context(space, Session(accelerator="cpu"), "x", "", None, stages=stages))
    run(space)
    with pytest.raises(ValueError, match=r"embed holds no 'clipn' embeddings; choose another `embedding`"):
        write_size(space, 5, "five", BalancedClusters(embedding="clipn"))


@pytest.mark.parametrize("count", [1, 2])
def test_select__no_image_left_and_one(tmp_path: Path, count: int) -> None:
    space = save_scored(tmp_path / "ws", np.zeros((count, 3), np.float32))
    assert run(space, per_concept_max=1, synthetic_share=0.5)["kept"] == count - 1
    assert pq.read_table(space.manifest()).num_rows == count - 1


def test_select__identical_scores_have_no_knee_and_nest_by_key(tmp_path: Path) -> None:
    space = save_scored(tmp_path / "ws", np.full((COUNT, 3), 0.5, np.float32))
    assert run(space)["kept"] == COUNT - 1
    assert keys_of_size(space, 10) == {f"{number:03d}.jpg" for number in range(50, 60)}


def test_select__writes_the_same_bytes_again(space: Workspace) -> None:
    sums = []
    for _ in range(2):
        run(space, target_size=12, per_concept_max=9)
        files = [*space.dataset_folder().iterdir(), *space.stage_folder("select").glob("part-*")]
        sums.append({path.name: sha256_file(path) for path in files})
        space.manifest().unlink()
    assert sums[0] == sums[1] and {"manifest.parquet", "selection.json", "README.md"} <= sums[0].keys()


def test_select__a_share_is_the_last_of_what_would_be_kept(space: Workspace) -> None:
    whole = run(space, target_size=41)
    kept = keys_of(space)
    sets = []
    for share in (0.5, 0.25, 0.001):
        result = run(space, target_size=41, share=share)
        sets.append(keys_of(space))
        assert result["whole"] == whole["kept"] == 41 and result["target_size"] == 41
        write_size(space, len(sets[-1]), f"size-{share}")
        assert keys_of(space, f"size-{share}") == sets[-1]  # as `select --size` takes them
    assert [len(one) for one in sets] == [20, 10, 1] and sets[2] < sets[1] < sets[0] < kept
    told = json.loads((space.dataset_folder() / "selection.json").read_text())
    assert told["share"] == 0.001 and "the 0.1 % that would be removed last" in selected(told)


def test_select__scores_that_count_make_fronts_and_knees(space: Workspace) -> None:
    every = run(space)
    ledger = read_ledger(space, ["ingest", "ood"]).slice(1)
    for names in (["text_gap", "ood"], ["ood_general"]):
        result = run(space, scores=names)
        scores = np.stack([ledger[name].to_numpy() for name in SCORES if name in names], axis=1)
        fronts = pareto_fronts(scores)
        cut, knees = knee_cut(scores, fronts)
        assert result["cut"] == cut and [knee for knee in result["knees"] if knee is not None] == [
            knee for knee in knees if knee is not None
        ]
        assert len(result["knees"]) == 3 == len(every["knees"])
        off = [place for place, name in enumerate(SCORES) if name not in names]
        assert all(result["knees"][place] is None for place in off)
        assert read_ledger(space)["front"].to_pylist()[1:] == fronts.tolist()
    rule = selected(json.loads((space.dataset_folder() / "selection.json").read_text()))
    assert rule.endswith("of ood_general alone, up to the knee")
    told = dict(tell_fate(space, trace_key(space, "007.jpg")))["scores"]
    assert told.count("(does not count)") == 2
    write_size(space, 5, "five")
    assert json.loads((space.dataset_folder("five") / "selection.json").read_text())["method"]["scores"] == [
        "ood_general"
    ]


def test_select__sources(space: Workspace) -> None:
    both = run(space)
    result = run(space, sources=["real"], target_size=10)
    assert set(pq.read_table(space.manifest())["source"].to_pylist()) == {"real"}
    ledger = read_ledger(space)
    reasons = dict(zip(ledger["key"].to_pylist(), ledger["drop_reason"].to_pylist(), strict=True))
    assert result["other_source"] == 19 and reasons["000.jpg"] == "unreadable" and reasons["003.jpg"] == "source"
    assert ledger["removal_rank"].to_pylist()[3] is None and both["kept"] > 0
    assert dict(tell_fate(space, trace_key(space, "003.jpg")))["fate"] == (
        "dropped: source (the data set takes no synthetic image)"
    )
    steps = {row["stage"]: (row["real"], row["synthetic"]) for row in funnel(ledger)}
    assert steps["of the source"] == (40, 0) and steps["kept"] == (10, 0)
    card = (space.dataset_folder() / "README.md").read_text()
    assert "| of the source | 40 | 0 | 40 |" in card
    assert "| source | not real: the data set takes real images alone | 0 | 19 |" in card
    with pytest.raises(ValueError, match="only 40 images are left"):
        run(space, sources=["real"], target_size=41)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, r"curation\.select\.share must be above 0 and at most 1, or null, got 0\.0"),
        (
            {"scores": ["odd"]},
            r"curation\.select\.scores is \[odd\]; list each once, and one at least, of ood, ood_gen",
        ),
        ({"scores": []}, r"curation\.select\.scores is \[\]"),
        ({"scores": ["ood"], "method": Random(), "target_size": 3}, r"but curation\.select\.method is Random; set"),
        ({"sources": ["made"]}, r"curation\.select\.sources is \[made\]; list real, synthetic, or both"),
        ({"sources": ["synthetic"], "synthetic_share": 0.5}, r"synthetic_share 0\.5 lets no data set be all synthetic"),
    ],
)
def test_select__refuses_wrong_switches(space: Workspace, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(space, **settings)
