"""Other data sets of a finished curation: other sizes, and other methods to compare with. Imports no torch."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.card import write_card
from curation.choosing import admission, choose, describe, size_within
from curation.ledger import SOURCES, read_ledger
from curation.manifest import write_manifest
from curation.quotas import Quotas
from curation.selectors import Candidates, Pareto, Ranking, Selector
from curation.stages.select import ranking_columns
from curation.workspace import Workspace
from datamodules.datasets.listing import read_listing
from datamodules.datasets.names import is_named, parse_name, told_as
from datamodules.datasets.registry import known_set
from datamodules.indexing import index_pool


def write_size(
    workspace: Workspace, size: int | None, name: str, method: Selector | None = None, option: str = "--size"
) -> Path:
    """Writes dataset/<name> with the `size` images that come in first; returns its manifest.

    method: null takes the order of the finished selection, another one orders the same images anew. The quotas of the
    finished selection hold. Sizes are nested: of one method, a smaller set is a subset of a larger one, and `full` is
    one of them. size: null takes the method's own cut. An existing data set is never overwritten. Raises ValueError,
    naming `option`, for a size beyond what is left, or for a name that is taken or no folder name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"--name {name!r} is no folder name; use letters, digits, '.', '_' and '-'")
    if size is not None and size < 1:
        raise ValueError(f"{option} must be at least 1, got {size}")
    ledger = read_ledger(workspace)
    if "removal_rank" not in ledger.column_names:
        raise FileNotFoundError(
            f"{workspace.stage_folder('select')} has no stage.json: nothing is selected yet; run `curate` first"
        )
    if workspace.manifest(name).exists():
        folder = workspace.dataset_folder(name)
        raise ValueError(f"--name {name}: {folder} exists and is never overwritten; choose another name")
    record = workspace.stage_record("select") or {}
    settings = record.get("settings") or {}
    quotas = Quotas(settings.get("per_concept_max"), settings.get("synthetic_share"))
    left = Candidates(workspace, ledger, np.flatnonzero(pc.is_valid(ledger["removal_rank"])))
    if size is not None:
        size_within(size, len(left), option)  # before any clustering
    ranking = _finished(left) if method is None else _ranked(left, method, size)
    admitted = admission(left, ranking.order, quotas)
    if size is not None:
        size_within(size, len(admitted), option, quotas)
    choice = choose(ranking.order, admitted, ranking.cut, size)
    if not choice.keep.any():
        raise ValueError(
            f"--method {type(method).__name__} keeps none of the {len(left)} images; choose another threshold, or give "
            "--size"
        )
    keep = np.zeros(ledger.num_rows, bool)
    keep[left.rows] = choice.keep
    if method is not None:
        for column, values in ranking_columns(left, ranking).items():
            ledger = ledger.set_column(ledger.column_names.index(column), column, pa.chunked_array([values]))
    paper = Pareto(settings["scores"]) if settings.get("scores") else Pareto()
    # A share is of `full`; this set has its own size.
    told = describe(method or paper, size, choice, quotas, (record.get("result") or {}).get("manifest_sha256"),
                    sources=settings.get("sources") or list(SOURCES))  # fmt: skip
    if method is None and settings.get("method"):
        told["method"] = settings["method"]
    write_manifest(ledger, keep, workspace.dataset_folder(name), workspace.roots, told)
    write_card(workspace, name)
    return workspace.manifest(name)


def _finished(candidates: Candidates) -> Ranking:
    return Ranking(np.argsort(candidates.column("removal_rank").to_numpy()))


def _ranked(candidates: Candidates, method: Selector, size: int | None) -> Ranking:
    method.check("--method")
    if size is None and (isinstance(method, Pareto) or not method.cuts):
        raise ValueError(f"--method {type(method).__name__} only orders the images: give --size or --like as well")
    return method.rank(candidates)


def _named_images(text: str) -> int:
    name = parse_name(text, "--like")
    if name.known:
        return len(read_listing(text, "--like", default=known_set(name.kind).train))
    from datamodules.sources import open_source

    with told_as("--like"):
        return len(open_source(text))


def images_of(like: Path) -> int:
    """Images of another data set: rows of a manifest (or of the manifest in a folder), else a folder's or shard's.

    Of one by name, such as food-2k:DIR, those that a training on it takes. Raises FileNotFoundError or ValueError
    naming --like.
    """
    if is_named(like) or parse_name(like, "--like").coco:
        return _named_images(str(like))
    manifest = like / "manifest.parquet" if (like / "manifest.parquet").is_file() else like
    if not manifest.exists():
        raise FileNotFoundError(
            f"--like {like} does not exist; give a manifest.parquet, a folder of images, shards, or a "
            "data set by name such as food-2k:DIR"
        )
    if manifest.suffix == ".parquet" and manifest.is_file():
        try:
            count = int(pq.read_metadata(manifest).num_rows)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"--like {manifest} cannot be read as Parquet ({error})") from error
    else:
        count = pc.count(index_pool(like, "--like")["size"]).as_py()  # without failed downloads
    if not count:
        raise ValueError(f"--like {like} holds no image; give a data set that has some")
    return count
