"""From two strings to a data set: language model, generator, search, download and pool, all small and real."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curation.concepts.settings import Discover
from curation.encoders import ImageTextEncoder
from curation.language import LanguageModel
from curation.ledger import funnel, read_ledger
from curation.pipeline import Curation
from curation.session import Session
from curation.stages.captions import Captions
from curation.stages.concepts import Concepts
from curation.stages.embed import Copy, Embed, ImageText
from curation.stages.fetch import Fetch
from curation.stages.gaps import Gaps
from curation.stages.ingest import Ingest
from curation.stages.retrieve import Retrieve
from curation.stages.search import Search
from curation.stages.select import Select
from curation.stages.synthesis import Synthesis
from curation.trace import tell_story, trace_key
from datamodules.decoding import ImageLimits
from tests.curation.concepts.food_model import FoodModel
from tests.curation.fetching import tiny_img2dataset
from tests.curation.fetching.image_server import ImageServer
from tests.curation.generation.tiny_diffusion import save_tiny_diffusion
from tests.curation.language.server import LanguageServer
from tests.tiny import picture, save_clip, save_descriptor, save_pool

PICTURES = 60


@dataclass
class World:
    """The models, and the servers with what they were asked."""

    home: Path
    language: LanguageServer
    images: ImageServer

    def curation(self, **changes: object) -> Curation:
        model = LanguageModel("tiny", endpoint=self.language.url, temperature=0.7)
        discover = Discover(model, checker=model, max_concepts=6, max_draws=2, max_rounds=0, wider=False)
        settings: dict = {
            "domain": "food",
            "description": "dishes",
            "concepts": Concepts(words=["grilled salmon"], discover=discover),
            "captions": Captions(model, per_concept=2),
            "synthesis": Synthesis(str(self.home / "diffusion"), images_per_caption=2, steps=1, chunk_rows=8),
            "search": Search(str(self.home / "tables"), k=5),
            "fetch": Fetch(
                command=f"{sys.executable} {tiny_img2dataset.__file__}", allow_private=True, processes=1, threads=4,
                retries=0, samples_per_shard=8,
            ),  # fmt: skip
            "ingest": Ingest(ImageLimits(min_side_px=16), num_workers=0),
            "embed": Embed(
                ImageText(str(self.home / "clip"), None), Copy(str(self.home / "copy.pt"), 24), num_workers=0,
            ),
            "retrieve": Retrieve(k=3),
            "text": None,
        }  # fmt: skip
        return Curation(**{**settings, **changes})

    def run(self, workspace: Path, **changes: object) -> Path:
        return self.curation(**changes).run(workspace, self.home / "pool", Session(accelerator="cpu"))

    def asked(self) -> tuple[int, int]:
        return len(self.language.requests), sum(self.images.asked.values())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("home")
    save_clip(home / "clip")
    save_descriptor(home / "copy.pt")
    save_pool(home / "pool", 12)
    save_tiny_diffusion(home / "diffusion")
    with LanguageServer(FoodModel(20, per_draw=8)) as language, ImageServer() as images:
        save_table(home, images)
        yield World(home, language, images)


def save_table(home: Path, images: ImageServer) -> None:
    """Addresses of the server's pictures beside their embeddings, as DataComp publishes them; one address is gone."""
    encoder = ImageTextEncoder.load(str(home / "clip"))
    prepared = np.stack([encoder.prepare(np.asarray(picture(number))) for number in range(PICTURES)])
    with torch.inference_mode():
        vectors = encoder.embed_images(torch.from_numpy(prepared)).numpy()
    (home / "tables").mkdir()
    for part, rows in enumerate(np.array_split(np.arange(PICTURES), 3)):
        np.savez(home / "tables" / f"{part}.npz", l14_img=vectors[rows].astype(np.float16))
        urls = [images.url(f"{row}.jpg") for row in rows]
        table = {"uid": [f"{row:032x}" for row in rows], "url": urls, "text": [f"picture {row}" for row in rows]}
        pq.write_table(pa.table(table), home / "tables" / f"{part}.parquet")


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("finished") / "ws"
    world.run(workspace)
    return workspace


def test_collection__images_of_every_source_with_their_concepts(finished: Path) -> None:
    ledger = read_ledger(finished)
    roots = dict(zip(*np.unique(ledger["root"].to_pylist(), return_counts=True), strict=True))
    bank = pq.read_table(finished / "concepts" / "bank.parquet")
    concepts = [row["concept"] for row in bank.to_pylist() if row["valid"] and not row["general"]]
    assert len(concepts) == 6 and roots["synthetic"] == 6 * 2 * 2 and roots["pool"] == 17
    assert roots["fetched"] == pq.read_metadata(finished / "columns/search/found.parquet").num_rows
    for row in ledger.to_pylist():
        if row["root"] == "synthetic":
            assert row["concepts"] == [row["made_for"]] and row["retrieved"]
            assert row["model"].endswith("diffusion") and row["seed"] is not None and row["made_for"] in concepts
        elif row["root"] == "fetched" and row["readable"]:
            assert row["url"].startswith("http://127.0.0.1") and set(row["concepts"]) <= set(concepts)
            assert row["similarities"] == sorted(row["similarities"], reverse=True)
            assert row["caption"].startswith("picture ") and row["opt_out"] is not True
    steps = {row["stage"]: (row["real"], row["synthetic"]) for row in funnel(ledger)}
    assert steps["collected"][1] == 24 and steps["kept"][0] > 0


def test_collection__a_second_run_asks_makes_and_fetches_nothing(world: World, finished: Path) -> None:
    before, shards = world.asked(), {path: path.stat().st_mtime_ns for path in finished.rglob("*.tar")}
    world.run(finished)
    assert world.asked() == before
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.tar")} == shards


def test_collection__tells_the_way_of_each_image(finished: Path) -> None:
    rows = read_ledger(finished).to_pylist()
    made = next(row["key"] for row in rows if row["root"] == "synthetic" and row["made_for"] != "grilled salmon")
    story = dict(tell_story(finished, trace_key(finished, made)))
    assert ": generated in round 1 by tiny" in story["concept"] and "from the caption" in story["made"]
    assert story["stored"].startswith(f"{finished}/images/synthetic/00000.tar")
    found = next(row["key"] for row in rows if row["root"] == "fetched" and row["readable"])
    assert "; by " in dict(tell_story(finished, trace_key(finished, found)))["found"]


def test_collection__an_edited_bank_changes_only_what_follows_from_it(
    world: World, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = tmp_path / "ws"
    shutil.copytree(finished, workspace)
    table = workspace / "concepts" / "bank.csv"
    with open(table, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    taken_out = next(row["concept"] for row in rows if row["origin"] == "generated" and row["valid"] == "true")
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row for row in rows if row["concept"] != taken_out)
    shards = {path.name: path.read_bytes() for path in (workspace / "images/synthetic").glob("*.tar")}
    (questions, downloads) = world.asked()
    world.run(workspace)
    said = capsys.readouterr().out
    assert "takes" in said and "bank.csv as it was edited" in said
    assert world.asked() == (questions, downloads)  # captions of the other concepts are there, so are their images
    assert {path.name: path.read_bytes() for path in (workspace / "images/synthetic").glob("*.tar")} == shards
    made = [row["made_for"] for row in read_ledger(workspace).to_pylist() if row["source"] == "synthetic"]
    assert len(made) == 20 and taken_out not in made


def test_collection__a_second_round_for_concepts_with_few_images(world: World, tmp_path: Path) -> None:
    model = LanguageModel("tiny", endpoint=world.language.url)
    concepts = Concepts(discover=Discover(model, max_draws=2, max_rounds=0, wider=False))
    changes: dict = {
        "concepts": concepts, "search": None, "fetch": None, "gaps": Gaps(), "captions": None, "synthesis": None,
    }  # fmt: skip
    workspace = tmp_path / "ws"
    world.run(workspace, **changes)
    bank = pq.read_table(workspace / "concepts" / "bank.parquet").to_pylist()
    assert "gap" in {row["origin"] for row in bank if row["valid"]}
    assert json.loads((workspace / "columns/gaps/stage.json").read_text())["result"]["valid"] > 0
    before = world.asked()
    world.run(workspace, **changes)
    assert world.asked() == before  # once, not round after round


def test_collection__without_a_pool(world: World, tmp_path: Path) -> None:
    manifest = world.curation(search=None, fetch=None).run(tmp_path / "ws", None, Session(accelerator="cpu"))
    assert set(pq.read_table(manifest)["source"].to_pylist()) == {"synthetic"}


def test_check__tells_all_that_is_missing_at_once(world: World, tmp_path: Path) -> None:
    changes: dict = {
        "search": Search(), "synthesis": Synthesis(str(tmp_path / "nothing")), "fetch": Fetch(command="no-program"),
    }  # fmt: skip
    with pytest.raises(ValueError, match="things are missing or wrong") as error:
        world.run(tmp_path / "ws", **changes)
    for key in ("curation.search.tables is not set", "curation.synthesis.model", "curation.fetch.command"):
        assert key in str(error.value)
    with pytest.raises(ValueError, match=r"curation\.synthesis draws captions, but curation\.captions is null"):
        world.run(tmp_path / "ws", captions=None)


def test_collection__variants_use_what_their_base_asked_made_and_fetched(
    world: World, finished: Path, tmp_path: Path
) -> None:
    before, asked = contents(finished), world.asked()
    for source in ("real", "synthetic"):
        manifest = world.run(tmp_path / source, base=str(finished), select=Select(sources=[source]))
        assert set(pq.read_table(manifest)["source"].to_pylist()) == {source}
        assert {row["stage"]: row for row in funnel(read_ledger(tmp_path / source))}["of the source"][
            "synthetic" if source == "real" else "real"
        ] == 0  # fmt: skip
    assert world.asked() == asked
    roots = json.loads((tmp_path / "real/dataset/full/roots.json").read_text())
    assert roots["synthetic"] == str(tmp_path.resolve() / "real/images/synthetic")
    model = LanguageModel("tiny", endpoint=world.language.url, temperature=0.7)
    unchecked = Discover(model, max_concepts=8, max_draws=2, max_rounds=0, wider=False)
    workspace = tmp_path / "unchecked"
    world.run(workspace, base=str(finished), concepts=Concepts(words=["grilled salmon"], discover=unchecked))
    for name in ("images/synthetic/00000.tar", "images/fetched/round-000/00000.tar"):
        assert os.path.samefile(workspace / name, finished / name)
    made = {row["made_for"] for row in read_ledger(workspace).to_pylist() if row["source"] == "synthetic"}
    assert len(made) == 8 and world.asked()[0] - asked[0] < 8 * 2  # captions of what is new alone
    assert contents(finished) == before


def contents(root: Path) -> dict[Path, tuple[bytes, int]]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
