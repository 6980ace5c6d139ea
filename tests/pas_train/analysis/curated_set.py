"""A workspace as a curation leaves it, with chosen embeddings."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.manifest import write_manifest
from curation.workspace import Workspace, write_part, write_table
from datamodules.files import write_json
from datamodules.indexing import index_pool
from tests.pas_train.planted import save_set

ENCODER = {"name": "tiny", "pretrained": None, "files": {"weights": "abc"}}


def save_workspace(root: Path, count: int = 12, model: str = "tiny") -> tuple[Path, np.ndarray]:
    """(manifest, stored embeddings [count, 16]): three concepts, of which the last has no image; two images synthetic.

    The first image is not kept.
    """
    pool = save_set(root / "pool", count, 0)
    space = Workspace(root)
    write_json(root / "workspace.json", {})
    table = index_pool(pool)
    names = table["key"].combine_chunks()
    space.write_index(table, {"pool": pool})
    write_json(space.index_folder / "stage.json", {"stage": "index", "fingerprint": "i"})
    vectors = np.random.default_rng(0).normal(size=(count, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    write_part(space.stage_folder("embed"), 0, np.arange(count), names, {}, {"image": vectors})
    record = {"stage": "embed", "fingerprint": "e", "models": {"image_text": {**ENCODER, "name": model}}}
    write_json(space.stage_folder("embed") / "stage.json", record)
    bank = {"concept": ["apple pie", "bread", "curry", "thing", "wrong"], "general": [False] * 3 + [True, False]}
    write_table(root / "concepts" / "bank.parquet", pa.table({**bank, "valid": [True] * 4 + [False]}))
    concepts = ["apple pie" if row % 3 else "bread" for row in range(count)]
    kinds = ["synthetic" if row in (2, 3) else "real" for row in range(count)]
    ledger = table.set_column(table.column_names.index("source"), "source", pa.array(kinds))
    ledger = ledger.append_column("concept", pa.array(concepts))
    keep = np.arange(count) > 0
    write_manifest(ledger, keep, space.dataset_folder(), {"pool": pool})
    return space.manifest(), vectors
