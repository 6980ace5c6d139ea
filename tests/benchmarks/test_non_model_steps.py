"""What all steps without a model take at 1.2 million images, beside the embedding pass: `pytest -m benchmark -s`.

An estimate: each step's CPU seconds of one thread are measured on a smaller pool and scaled to 1.2 million rows
(copies: with a linear and a quadratic part). Products of embeddings run on the GPU where there is one; its speed is
assumed, as is that of the embedding, from the same arithmetic: no GPU was measured. PAS_ROWS sets the size of the pool.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from curation.leakage import max_similarity
from curation.ood import score_images
from curation.selectors import Pareto
from curation.session import Session
from curation.stage import Context, Stage
from curation.stages.duplicates import Duplicates
from curation.stages.ingest import Ingest
from curation.stages.leakage import Leakage
from curation.stages.ood import Ood
from curation.stages.select import Select
from curation.workspace import Workspace, write_part
from datamodules.descriptions import INDEX_SCHEMA
from datamodules.files import write_json
from tests.benchmarks.test_duplicate_graph import pool

ROWS, FULL = int(os.environ.get("PAS_ROWS", "48_000")), 1_200_000
WIDTH, TESTS, CONCEPTS, PASSES = 512, 25_250, 5000, 4 / 3  # Food-101's test images; a third of the images has words

# One H200: 35 % of its 790 TFLOP/s for the encoders, 25 % for bfloat16 products of the search of copies, 25 % of
# float32's 67 for the others. Forward operations an image: CLIP L/14 162 G, CLIPN's B/16 35 G, SSCD's ResNet-50 17 G.
ENCODERS = {"CLIP B/16 alone (7,900 images/s)": 35e9, "the three of food.yaml": 162e9 + 35e9 + 17e9}
EMBEDDING, HALF, SINGLE = 0.35 * 790e12, 0.25 * 790e12, 0.25 * 67e12


def save_pool(root: Path, count: int) -> Workspace:
    """A workspace of images without files: index, ingest and stored embeddings."""
    space, keys = Workspace(root), [f"{number:08d}.jpg" for number in range(count)]
    known = {"key": keys, "source": ["real", "synthetic"] * (count // 2), "root": ["pool"] * count, "shard": keys,
             "offset": [0] * count, "size": [10] * count, "ext": ["jpg"] * count}  # fmt: skip
    index = {name: known.get(name, [None] * count) for name in INDEX_SCHEMA.names}
    space.write_index(pa.table(index, schema=INDEX_SCHEMA), {"pool": root / "pool"})
    sides = pa.array(np.full(count, 400, np.int32))
    write_stage(space, "ingest", readable=np.ones(count, bool), reason=pa.nulls(count, pa.string()), width=sides,
                height=sides, sha256=pa.array(keys))  # fmt: skip
    for part, rows in enumerate(np.array_split(np.arange(count), max(1, count // 20_000))):
        vectors = {"copy": pool(len(rows), WIDTH, part)}
        write_part(space.stage_folder("embed"), part, rows, pa.array(keys), {}, vectors)
    finish(space, "embed")
    write_json(space.index_folder / "stage.json", {"fingerprint": "index", "result": {}})
    return space


def write_stage(space: Workspace, name: str, **columns: Any) -> None:
    rows = np.arange(len(next(iter(columns.values()))))
    write_part(space.stage_folder(name), 0, rows, pa.array([f"{row:08d}.jpg" for row in rows]), columns, {})
    finish(space, name)


def finish(space: Workspace, name: str) -> None:
    content = {"fingerprint": name, "result": {}, "summary": "", "print": {"reads": {}}, "settings": {}, "models": {}}
    write_json(space.stage_folder(name) / "stage.json", content)


def context_of(space: Workspace, **stages: Stage) -> Context:
    named = {"ingest": Ingest(), **stages}
    return Context(space, Session(accelerator="cpu"), "x", "", space.root / "pool", stages=named)


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def find_copies(root: Path, count: int) -> float:
    """The whole stage, twice: the search, the draw and the columns; other load on the machine slows one or both."""
    taken = []
    for number in range(2):
        context = context_of(save_pool(root / str(number), count), duplicates=Duplicates())
        taken.append(seconds(lambda context=context: Duplicates().run(context)))  # type: ignore[misc]
    return min(taken)


def select(root: Path, count: int) -> float:
    """The whole stage: ledger, Pareto fronts, knees, order, manifest and card."""
    space, rng = save_pool(root, count), np.random.default_rng(0)
    shared = rng.random(count)
    scores = {name: pa.array((0.7 * shared + 0.3 * rng.random(count)).astype(np.float32))
              for name in ("ood", "ood_general", "text_gap")}  # fmt: skip
    write_stage(space, "leakage", leak_similarity=pa.array(rng.random(count).astype(np.float32)),
                leaks_from=pa.nulls(count, pa.string()), leaks=np.zeros(count, bool))  # fmt: skip
    write_stage(space, "duplicates", duplicate_of=pa.nulls(count, pa.string()))
    write_stage(space, "ood", **scores, concept=pa.array(["food"] * count), concept_similarity=scores["ood"])
    context = context_of(
        space, leakage=Leakage(tests=["x"]), duplicates=Duplicates(), ood=Ood(), select=Select(method=Pareto())
    )
    return seconds(lambda: Select().run(context))


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_non_model_steps__a_twentieth_of_the_embedding_time(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    find_copies(tmp_path / "warm", 2000), select(tmp_path / "warm-select", 2000)  # what is compiled or loaded at first

    half, whole = find_copies(tmp_path / "half", ROWS // 2), find_copies(tmp_path / "whole", ROWS)
    square = max(0.0, whole - 2 * half) / (ROWS**2 / 2)  # t = a n + b n^2
    linear = max(0.0, whole - square * ROWS**2) / ROWS
    rows = torch.nn.functional.normalize(torch.randn(ROWS // 3, WIDTH))
    texts = torch.nn.functional.normalize(torch.randn(2 * CONCEPTS, WIDTH))
    pairs = len(rows) * (TESTS // 5)
    leak = seconds(lambda: max_similarity(rows.numpy(), np.ascontiguousarray(rows[: TESTS // 5].numpy()))) / pairs
    score = seconds(lambda: score_images(rows, texts[:CONCEPTS], texts[CONCEPTS:])) / len(rows)
    chosen = select(tmp_path / "select", ROWS) / ROWS

    core = {"copies": linear * FULL + square * FULL**2, "leaks": leak * FULL * TESTS,
            "scores": PASSES * score * FULL, "selection": chosen * FULL}  # fmt: skip
    products = {"copies": FULL**2 * WIDTH / HALF, "leaks": 2 * FULL * TESTS * WIDTH / SINGLE,
                "scores": 4 * PASSES * FULL * CONCEPTS * WIDTH / SINGLE, "selection": 0.0}  # fmt: skip
    rest = {"copies": linear * FULL, "leaks": 0.0, "scores": 0.0, "selection": chosen * FULL}
    print(f"\nat {FULL} images, seconds{'':12} one core {'':6} GPU products (est.) + one core")
    for name, taken in core.items():
        print(f"{name:<12}{taken:28.1f}{products[name]:22.1f} + {rest[name]:.1f}")
    total = sum(products.values()) + sum(rest.values())
    print(f"{'sum':<12}{sum(core.values()):28.1f}{total:28.1f}")
    shares = {}
    for name, operations in ENCODERS.items():
        embedding = FULL * operations / EMBEDDING
        shares[name] = total / embedding
        print(f"embedding by {name}: {embedding:.0f} s (est.), all other steps {shares[name]:.1%} of it")
    assert shares["the three of food.yaml"] <= 0.05
