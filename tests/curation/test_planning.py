from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.concepts.settings import Discover
from curation.language import LanguageModel
from curation.pipeline import Curation
from curation.planning import Line, Rates, count_images, plan_curation, total
from curation.session import Session
from curation.stages.captions import Captions
from curation.stages.concepts import Concepts
from curation.stages.embed import Copy, Embed, ImageText
from curation.stages.retrieve import Retrieve
from curation.stages.search import Search
from curation.stages.select import Select
from curation.stages.synthesis import Synthesis
from curation.stages.text import Text
from curation.text import FAST
from tests.tiny import picture, save_pool

LOCAL = LanguageModel("a-model")
SERVED = LanguageModel("a-model", endpoint="http://localhost:1/v1", concurrency=10)
ROUND = Rates(
    concepts=100, draws=10, expansions_per_concept=2, checks_per_concept=1, distinct=0.5, fetched=0.5, readable=1,
    unique=0.5, answers_per_s=1, endpoint_s=10, generated_per_s=2, generated_kb=100, fetched_kb=50,
)  # fmt: skip


def plan(tmp_path: Path, pool: Path | None = None, rates: Rates = ROUND, **settings: object) -> dict[str, Line]:
    curation = Curation("food", "dishes", **settings)
    context = curation.context(tmp_path / "ws", pool, Session(accelerator="cpu"))
    return {line.stage: line for line in plan_curation(curation, context, rates)}


def test_plan_curation__from_two_strings_to_images(tmp_path: Path) -> None:
    lines = plan(
        tmp_path, concepts=Concepts(discover=Discover(LOCAL)), captions=Captions(SERVED, per_concept=3),
        synthesis=Synthesis(images_per_caption=4), search=Search(k=20),
    )  # fmt: skip
    assert (lines["concepts"].count, lines["concepts"].calls) == (100, 10 + 300)
    assert lines["concepts"].gpu_hours == pytest.approx(310 / 3600)
    captions = lines["captions"]
    assert captions.calls == 300 and captions.gpu_hours == 0
    assert captions.machine_hours == pytest.approx(300 * 10 / 10 / 3600)  # seconds of waiting, ten at a time
    assert lines["synthesis"].count == 1200 and lines["synthesis"].gpu_hours == pytest.approx(600 / 3600)
    assert lines["synthesis"].disk_gb == pytest.approx(1200 * 100e-6)
    assert (lines["search"].count, lines["fetch"].count) == (1000, 500)
    assert lines["ingest"].count == lines["embed"].count == 1700 and lines["select"].count == 850


def test_plan_curation__limits_of_the_search_for_concepts(tmp_path: Path) -> None:
    discover = Discover(LOCAL, only_new=True, max_concepts=40, max_calls=60)
    line = plan(tmp_path, concepts=Concepts(discover=discover))["concepts"]
    assert (line.count, line.calls) == (40, 60)


def test_plan_curation__of_a_pool_with_given_concepts(tmp_path: Path) -> None:
    pool = save_pool(tmp_path / "pool", 40)  # 48 files
    given = Concepts(words=["squares", "circles"])
    lines = plan(tmp_path, pool, concepts=given, retrieve=Retrieve(k=10), text=None, select=Select(target_size=4))
    assert lines["concepts"] == Line("concepts", 2, "concepts, given")
    assert (lines["pool"].count, lines["retrieve"].count) == (48, 10)  # 2 x 10, half of them distinct
    assert "text" not in lines and lines["select"].count == 4


def test_plan_curation__widths_of_the_encoders_and_the_detectors_device(tmp_path: Path) -> None:
    pool = save_pool(tmp_path / "pool", 40)
    given = Concepts(words=["squares"])
    usual = plan(tmp_path, pool, concepts=given)
    assert usual["embed"].disk_gb == pytest.approx(48 * 2 * (768 + 512) / 1e9)
    assert usual["text"].machine_hours > 0 and usual["text"].gpu_hours == 0
    embed = Embed(copy=Copy("sscd_disc_large"), clipn=ImageText("ViT-B-16", "clipn.pt"))
    large = plan(tmp_path, pool, concepts=given, embed=embed, text=Text(FAST()))
    assert large["embed"].disk_gb == pytest.approx(48 * 2 * (768 + 1024 + 512) / 1e9)
    assert large["duplicates"].gpu_hours == pytest.approx(2 * usual["duplicates"].gpu_hours)
    assert large["text"].gpu_hours == pytest.approx(large["text"].count / 800 / 3600)


def test_count_images__shards_by_their_tables_or_sizes(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "loose.png")
    pq.write_table(pa.table({"key": ["1", "2", "3"]}), tmp_path / "a.parquet")
    (tmp_path / "a.tar").write_bytes(bytes(10))
    (tmp_path / "b.tar").write_bytes(bytes(120_000))
    assert count_images(tmp_path) == 1 + 3 + 2
    assert count_images(tmp_path / "b.tar") == 2


def test_total__sums_what_can_be_added() -> None:
    lines = [Line("a", 5, "images", 1, 2.0, 0.5, 1.0), Line("b", 9, "images", 2, 1.0)]
    assert total(lines) == replace(Line("total", 0, ""), calls=3, gpu_hours=3.0, machine_hours=0.5, disk_gb=1.0)
