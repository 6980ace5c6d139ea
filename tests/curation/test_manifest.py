import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curation.ledger import read_ledger
from curation.manifest import COLUMNS, verify_manifest, write_manifest
from curation.workspace import Workspace
from tests.curation.small_workspace import finish, save_workspace

PROVENANCE = ("url", "licence", "opt_out", "caption", "made_for", "model", "revision", "seed")
KEEP = np.array([False, False, False, True, True, True, False, False])


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return save_workspace(tmp_path / "ws")


def test_write_manifest__kept_rows_and_the_columns_that_are_there(space: Workspace, tmp_path: Path) -> None:
    write_manifest(read_ledger(space), KEEP, tmp_path / "set", space.roots)
    table = pq.read_table(tmp_path / "set" / "manifest.parquet")
    assert table["key"].to_pylist() == ["d.jpg", "e.jpg", "f.jpg"]
    assert table["removal_rank"].to_pylist() == [2, 1, 3]
    assert [name for name in COLUMNS if name in table.column_names] == table.column_names
    assert set(PROVENANCE) <= set(table.column_names)
    assert "drop_reason" not in table.column_names and "concepts" not in table.column_names
    assert json.loads((tmp_path / "set" / "roots.json").read_text()) == {"pool": str(space.root / "pool")}


def test_write_manifest__checksum_is_that_of_the_rows(space: Workspace, tmp_path: Path) -> None:
    ledger = read_ledger(space)
    first, again = (write_manifest(ledger, KEEP, tmp_path / name, space.roots) for name in ("a", "b"))
    other = write_manifest(ledger, ~KEEP, tmp_path / "c", space.roots)
    assert first == again != other
    # Where the pool lies is no part of the identity.
    assert write_manifest(ledger, KEEP, tmp_path / "d", {"pool": tmp_path}) == first


def test_write_manifest__nothing_kept(space: Workspace, tmp_path: Path) -> None:
    write_manifest(read_ledger(space), np.zeros(8, bool), tmp_path / "set", space.roots)
    assert pq.read_table(tmp_path / "set" / "manifest.parquet").num_rows == 0


def test_verify_manifest__missing_edited_and_right(space: Workspace) -> None:
    with pytest.raises(FileNotFoundError, match=r"full/manifest\.parquet is missing; run `curate`"):
        verify_manifest(space)
    checksum = write_manifest(read_ledger(space), KEEP, space.dataset_folder(), space.roots)
    finish(space, "select", result={"manifest_sha256": checksum})
    verify_manifest(space)
    write_manifest(read_ledger(space), ~KEEP, space.dataset_folder(), space.roots)
    with pytest.raises(ValueError, match=r"is not the manifest that .* wrote .*Move it away, delete .*columns/select"):
        verify_manifest(space)


def test_verify_manifest__between_two_runs(space: Workspace) -> None:
    checksum = write_manifest(read_ledger(space), KEEP, space.dataset_folder(), space.roots)
    finish(space, "select", result={"manifest_sha256": checksum}, print={"reads": {"ood": "print-of-ood"}})
    verify_manifest(space)
    finish(space, "ood", print={"reads": {"ingest": "of an index that was replaced"}})
    with pytest.raises(ValueError, match="is between two runs: an earlier stage ran again"):
        verify_manifest(space)
