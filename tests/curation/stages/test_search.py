"""The search stage over small real sources, with a small real encoder."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from curation.searching import answers, running
from curation.searching.service import Service
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.concepts import Concepts
from curation.stages.embed import Embed, ImageText
from curation.stages.ingest import Ingest
from curation.stages.search import Search
from curation.workspace import Workspace, result_print
from tests.curation.searching.sources import (
    KnnServer,
    save_embedding_folder,
    save_index,
    save_tables,
    spread_index,
    unit,
)
from tests.tiny import picture, save_clip

WORDS = ["red squares", "blue circles", "green noise", "grey lines"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip", no_branch=False)


@pytest.fixture
def make_context(clip: Path, tmp_path: Path) -> Callable[..., Context]:
    def make(search: Search, workspace: str = "ws") -> Context:
        stages = {
            "concepts": Concepts(words=WORDS), "search": search, "ingest": Ingest(),
            "embed": Embed(image_text=ImageText(str(clip), None)),
        }  # fmt: skip
        session = Session(accelerator="cpu")
        return Context(Workspace(tmp_path / workspace), session, "patterns", "", None, stages=stages)

    return make


def run(context: Context) -> dict[str, dict[str, float]]:
    """Runs concepts and search; url -> concept -> similarity of what was found."""
    for name in ("concepts", "search"):
        context.stages[name].check(context)
        run_stage(context.stages[name], context)
    table = pq.read_table(context.workspace.stage_folder("search") / "found.parquet")
    assert table["url"].to_pylist() == sorted(set(table["url"].to_pylist()))
    return {row["url"]: dict(zip(row["concepts"], row["similarities"], strict=True)) for row in table.to_pylist()}


def expected(clip: Path, vectors: np.ndarray, k: int, words: list[str] = WORDS) -> dict[str, dict[str, float]]:
    with torch.inference_mode():
        queries = ImageText(str(clip), None).load().embed_texts(words).numpy()
    similarity = queries @ vectors.T
    found: dict[str, dict[str, float]] = {}
    for concept, row in enumerate(np.argsort(-similarity, axis=1)[:, :k]):
        for number in row:
            found.setdefault(f"http://example.org/{number}.jpg", {})[words[concept]] = similarity[concept, number]
    return found


def assert_same(found: dict[str, dict[str, float]], wanted: dict[str, dict[str, float]], atol: float = 2e-3) -> None:
    assert found.keys() == wanted.keys()
    for url, concepts in wanted.items():
        assert found[url] == pytest.approx(concepts, abs=atol)
        assert list(found[url].values()) == sorted(found[url].values(), reverse=True)


def test_search__tables_of_embeddings(clip: Path, tmp_path: Path, make_context: Callable[..., Context]) -> None:
    vectors = unit(300).astype(np.float16).astype(np.float32)
    search = Search(tables=str(save_tables(tmp_path / "tables", vectors, parts=5)), k=30)
    context = make_context(search)
    assert_same(run(context), expected(clip, vectors, 30))
    found = pq.read_table(context.workspace.stage_folder("search") / "found.parquet").to_pylist()[0]
    number = int(found["url"].rpartition("/")[2].removesuffix(".jpg"))
    assert found["caption"] == f"picture {number}" and found["id"] == f"{number:032x}"
    assert run_stage(search, context) is False


@pytest.mark.parametrize(
    "factory, arrow, euclidean", [("Flat", False, False), ("Flat", False, True), ("IVF4,Flat", True, False)]
)
def test_search__ready_index(
    clip: Path, tmp_path: Path, make_context: Callable[..., Context], factory: str, arrow: bool, euclidean: bool
) -> None:
    vectors = unit(200)
    folder = save_index(tmp_path / "index", vectors, factory, arrow, euclidean)
    effort = "nprobe=4" if "IVF" in factory else None
    context = make_context(Search(index=str(folder), k=20, effort=effort))
    assert_same(run(context), expected(clip, vectors, 20))
    found = pq.read_table(context.workspace.stage_folder("search") / "found.parquet")
    assert set(found["licence"].to_pylist()) == {"CC-BY 4.0"} and found["caption"].null_count == 0


def test_search__ready_index_with_its_lists_on_disk(
    clip: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    vectors = unit(200)
    spread_index(save_index(tmp_path / "index", vectors, "IVF4,Flat", arrow=True))
    (tmp_path / "index").rename(tmp_path / "moved")
    context = make_context(Search(index=str(tmp_path / "moved"), k=20, effort="nprobe=4"))
    assert_same(run(context), expected(clip, vectors, 20))


def test_search__nothing_but_what_has_no_direction(tmp_path: Path, make_context: Callable[..., Context]) -> None:
    tables = save_tables(tmp_path / "tables", np.zeros((10, 16), np.float32))
    with pytest.raises(ValueError, match="curation.search found no address for 4 concepts in .*tables"):
        run(make_context(Search(tables=str(tables))))


def test_search__embedding_folder_without_an_index(
    clip: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    vectors = unit(100).astype(np.float16).astype(np.float32)
    context = make_context(Search(index=str(save_embedding_folder(tmp_path / "out", vectors)), k=10))
    assert_same(run(context), expected(clip, vectors, 10))


@pytest.mark.parametrize("templates", [["{}"], ["{}", "a photo of {}"]], ids=["by name", "by embedding"])
def test_search__service(clip: Path, make_context: Callable[..., Context], templates: list[str]) -> None:
    vectors, encoder = unit(100), ImageText(str(clip), None).load()
    with KnnServer(vectors, lambda text: encoder.embed_texts([text])[0].detach().numpy()) as server:
        service = Service(server.url, deduplicate=False, aesthetic_score=None)
        found = run(make_context(Search(service=service, k=15, templates=templates)))
    sent = server.requests[0]
    assert sent["indice_name"] == "laion5B" and sent["num_images"] == 15 and not sent["deduplicate"]
    if len(templates) == 1:
        assert sorted(body["text"] for body in server.requests) == sorted(WORDS)
        assert_same(found, expected(clip, vectors, 15), atol=1e-5)
    else:
        assert "text" not in sent and len(sent["embedding_input"]) == 16


def test_search__service_filters_are_the_clients_by_default(make_context: Callable[..., Context]) -> None:
    with KnnServer(unit(100), lambda text: unit(1, seed=3)[0]) as server:
        found = run(make_context(Search(service=Service(server.url), k=50)))
    sent = server.requests[0]
    names = ("deduplicate", "use_safety_model", "use_violence_detector", "aesthetic_score", "aesthetic_weight")
    assert [sent[name] for name in names] == [True, True, True, 9, 0.5]
    assert len(found) < 50  # filtered after the search


def test_search__seed_pictures_instead_of_names(
    clip: Path, tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    for number, name in enumerate(["Red Square", "green noise"]):
        (tmp_path / "seeds" / name).mkdir(parents=True)
        picture(number).save(tmp_path / "seeds" / name / "1.png")
    (tmp_path / "seeds" / "green noise" / "broken.jpg").write_bytes(b"no picture")
    encoder = ImageText(str(clip), None).load()
    image = torch.from_numpy(encoder.prepare(np.asarray(picture(0).convert("RGB"))))[None]
    seed = encoder.embed_images(image).detach().numpy()
    vectors = np.concatenate([unit(50), seed])
    tables = save_tables(tmp_path / "tables", vectors)
    found = run(make_context(Search(tables=str(tables), seeds=str(tmp_path / "seeds"), k=1)))
    assert found["http://example.org/50.jpg"]["red squares"] == pytest.approx(1, abs=2e-3)
    names = expected(clip, vectors, 1, ["blue circles", "grey lines"])
    assert all(found[url].keys() >= concepts.keys() for url, concepts in names.items())


def test_search__seeds_of_no_concept_are_named(tmp_path: Path, make_context: Callable[..., Context]) -> None:
    (tmp_path / "seeds" / "tractors").mkdir(parents=True)
    picture(0).save(tmp_path / "seeds" / "tractors" / "1.png")
    tables = save_tables(tmp_path / "tables", unit(20))
    with pytest.raises(ValueError, match="folders that are no concept of the bank: tractors"):
        run(make_context(Search(tables=str(tables), seeds=str(tmp_path / "seeds"))))


def test_search__two_ranks_find_the_same_bytes(
    tmp_path: Path, make_context: Callable[..., Context], two_ranks: Callable[[Callable[[int], None]], None]
) -> None:
    search = Search(tables=str(save_tables(tmp_path / "tables", unit(300), parts=7)), k=20)
    run(make_context(search, "one"))

    def work(rank: int) -> None:
        context = make_context(search, "two")
        context.session.start()
        for name in ("concepts", "search"):
            run_stage(context.stages[name], context)

    two_ranks(work)
    one, two = (tmp_path / name / "columns" / "search" / "found.parquet" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_search__goes_on_after_a_kill(tmp_path: Path, make_context: Callable[..., Context]) -> None:
    search = Search(tables=str(save_tables(tmp_path / "tables", unit(400), parts=8)), k=20)
    whole = run(make_context(search, "whole"))
    context = make_context(search, "killed")
    run_stage(context.stages["concepts"], context)
    folder = context.workspace.stage_folder("search")
    child = os.fork()
    if child == 0:
        write = running.write_hits

        def slow(path: Path, *args: object, **options: object) -> None:
            write(path, *args, **options)
            time.sleep(0.1)

        running.write_hits = slow
        run_stage(context.stages["search"], context)
        os._exit(0)
    while len(list(folder.glob("hits-*.parquet"))) < 3:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("hits-*.parquet")}
    assert 3 <= len(before) < 8
    assert run(context) == whole
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before


def test_search__a_kill_asks_no_block_of_answers_twice(
    make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "QUERIES_PER_FILE", 1)
    with KnnServer(unit(50), lambda text: unit(1, seed=len(text))[0], latency_s=0.2) as server:
        search = Search(service=Service(server.url, concurrency=1), k=5)
        context = make_context(search)
        run_stage(context.stages["concepts"], context)
        child = os.fork()
        if child == 0:
            run_stage(search, context)
            os._exit(0)
        while len(server.requests) < 3:
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        run(context)
    asked = [body["text"] for body in server.requests]
    assert asked[:2] == WORDS[:2] and set(asked[:2]).isdisjoint(asked[3:]) and set(asked) == set(WORDS)


def test_search__what_failed_and_is_found_later_is_told_to_later_stages(
    make_context: Callable[..., Context],
) -> None:
    failing = {WORDS[0]}

    def script(body: dict[str, Any], number: int) -> int | None:
        return 500 if body["text"] in failing else None

    with KnnServer(unit(50), lambda text: unit(1, seed=len(text))[0], script=script) as server:
        context = make_context(Search(service=Service(server.url, retries=0), k=5))
        run(context)
        first = context.workspace.stage_record("search")
        failing.clear()
        (context.workspace.stage_folder("search") / "stage.json").unlink()
        run(context)
    second = context.workspace.stage_record("search")
    assert first and second and first["fingerprint"] == second["fingerprint"] and len(server.requests) == 5
    assert "1 queries failed; delete" in first["summary"] and result_print(first) != result_print(second)


@pytest.mark.parametrize(
    "search, error, message",
    [
        (Search(), ValueError, "curation.search.tables is not set: the folder of a published table"),
        (Search(tables="a", index="b"), ValueError, "curation.search has tables and index"),
        (Search(tables="nowhere"), FileNotFoundError, "curation.search.tables: nowhere is no folder"),
        (Search(index="nowhere"), FileNotFoundError, "curation.search.index: nowhere is no folder"),
        (Search(index="nowhere", k=0), ValueError, "curation.search.k must be at least 1"),
        (Search(index="a", templates=["photo"]), ValueError, r"curation.search.templates: \['photo'\] must have"),
        (Search(index="a", modality="sound"), ValueError, "curation.search.modality is 'sound'"),
        (Search(service=Service("http://127.0.0.1:9")), ConnectionError, "search.service.url http://127.0.0.1:9 does"),
    ],
)
def test_check__names_the_key(
    make_context: Callable[..., Context], search: Search, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        search.check(make_context(search))


def test_check__tables_of_another_model(tmp_path: Path, make_context: Callable[..., Context]) -> None:
    search = Search(tables=str(save_tables(tmp_path / "tables", unit(20))), embedding="b32_img")
    with pytest.raises(ValueError, match="b32_img in .* has embeddings of 8 dimensions, but .* makes 16"):
        search.check(make_context(search))


def test_check__index_without_its_metadata_or_with_anothers(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    search = Search(index=str(save_index(tmp_path / "index", unit(20))))
    (tmp_path / "index" / "metadata" / "metadata_1.parquet").unlink()
    with pytest.raises(ValueError, match="has 20 vectors, but its metadata 10 rows"):
        search.check(make_context(search))
    (tmp_path / "index" / "metadata" / "metadata_0.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="holds neither .parquet nor .arrow"):
        search.check(make_context(search))


def test_check__an_effort_the_index_does_not_take_and_a_broken_index(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    search = Search(index=str(save_index(tmp_path / "index", unit(20))), effort="nprobe=3")
    with pytest.raises(ValueError, match="curation.search.effort is 'nprobe=3', which image.index does not take"):
        search.check(make_context(search))
    (tmp_path / "index" / "image.index").write_bytes(b"IxFI nothing")
    with pytest.raises(ValueError, match="faiss cannot read .*image.index"):
        search.check(make_context(search))
