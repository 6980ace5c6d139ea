"""The card of a data set: dataset/<name>/README.md, which also makes the folder loadable. Imports no torch."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.card_text import filters, leakage, limits, origin
from curation.ledger import SOURCES, STAGES, drop_reasons, funnel, of_other_source, read_ledger
from curation.markdown import markdown_table, plain
from curation.provenance import Model, models, selected_from, stage_records
from curation.workspace import Workspace
from datamodules.files import atomic, read_json, sha256_file

LICENCES_TOLD = 12
LOADING = """The rows (keys, scores, provenance; `manifest.parquet`), with this folder's path:

```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="train")
```

The pixels stay where they were collected: a row's `root`, `shard`, `offset` and `size` say which bytes they are, and
`roots.json` where the roots lie. Two augmented views of each image, ready for pretraining:

```python
from datamodules.pretrain import PretrainDataModule

data = PretrainDataModule(source="path/to/this/folder/manifest.parquet", batch_size=256)
```

Identity of the data set (SHA-256 of `manifest.parquet`): `{sha256}`
"""


@dataclass(frozen=True)
class Counted:
    """Images of one data set: all, by source, and per licence of the real ones, most frequent first."""

    total: int
    by_source: dict[str, int]
    licences: list[tuple[str, int]]


def write_card(workspace: Workspace, name: str = "full") -> Path:
    """Writes dataset/<name>/README.md from the ledger, the stages' records and the manifest; returns its path.

    It has the front matter of a Hugging Face data set, so that `datasets.load_dataset(folder)` loads the manifest. It
    may be called as soon as the manifest is written, while the select stage is still at work. The same data set gives
    the same bytes wherever it lies; the manifest and its identity are not touched. Raises FileNotFoundError where
    there is no such data set.
    """
    manifest = workspace.manifest(name)
    if not manifest.exists():
        raise FileNotFoundError(f"{manifest} is missing: there is no data set {name!r}; run `curate` or `select` first")
    path = workspace.dataset_folder(name) / "README.md"
    with atomic(path) as temporary:
        temporary.write_bytes(card(workspace, name).encode("utf-8", "replace"))
    return path


def current_data_sets(workspace: Workspace) -> list[str]:
    """Names of the data sets that the present selection made, `full` first; none where it has not finished.

    A data set that was cut from an earlier selection is none of them: the ledger no longer tells of it.
    """
    record = workspace.current_record("select")
    if record is None or not workspace.manifest().exists():
        return []
    checksum = record["result"].get("manifest_sha256")
    return cut_from(workspace, checksum)


def cut_from(workspace: Workspace, checksum: str | None) -> list[str]:
    """`full`, and the names of the data sets whose manifest was cut from the manifest of this checksum."""
    names = ["full"]
    for path in sorted((workspace.root / "dataset").glob("*/selection.json")):
        if path.parent.name != "full" and checksum in (read_json(path) or {}).values():
            names.append(path.parent.name)
    return names


def card(workspace: Workspace, name: str) -> str:
    """The text of the card."""
    owner = read_json(workspace.root / "workspace.json") or {}
    domain = str(owner.get("domain") or workspace.root.name)
    records = stage_records(workspace)
    settings, used = selected_from(workspace)
    settings = {**settings, **(read_json(workspace.dataset_folder(name) / "selection.json") or {})}
    counted, sources = count(workspace.manifest(name)), settings.get("sources") or list(SOURCES)
    ledger, checksum = read_ledger(workspace, used), sha256_file(workspace.manifest(name))
    records = {stage: made for stage, made in records.items() if used is None or stage in used or stage not in STAGES}
    title = f"{domain}, {name}" if name != "full" else domain
    table = models(records, used)
    stand_ins = [model.role for model in table if model.stand_in]
    parts = [
        front_matter(title, domain, counted, checksum),
        f"# {plain(title)}\n",
        f"{counted.total:,} images of the domain {plain(domain)}: {_by_source(counted)}. "
        "Collected, filtered and cut without labels; made for self-supervised pretraining.\n",
        "## How it was made\n", *[f"- {line}" for line in origin(workspace, records)], "",
        "## Images after each step\n", _steps(ledger, sources, counted), "",
        "## What was left out, and by which rule\n",
        _left_out(ledger, sources, filters(records, settings), counted), "",
        "## Models\n", _models(table), "",
        "## Licences of the images\n", _licences(counted), "",
        "## Leakage from test sets\n", leakage(workspace, records), "",
        "## Limits\n", *[f"- {line}" for line in limits(records, stand_ins)], "",
        "## How to load it\n", LOADING.format(sha256=checksum),
    ]  # fmt: skip
    return "\n".join(parts)


def count(manifest: Path) -> Counted:
    """Counts of a manifest."""
    table = pq.read_table(manifest, columns=["source", "licence"])
    by_source = {source: pc.sum(pc.equal(table["source"], source)).as_py() or 0 for source in SOURCES}
    real = table.filter(pc.equal(table["source"], "real"))["licence"]
    found = pc.value_counts(pc.fill_null(pc.cast(real, pa.string()), "not known")).to_pylist()
    licences = sorted(((entry["values"], entry["counts"]) for entry in found), key=lambda item: (-item[1], item[0]))
    return Counted(table.num_rows, by_source, licences)


def front_matter(title: str, domain: str, counted: Counted, checksum: str) -> str:
    """The YAML block that Hugging Face reads.

    The checksum is in it because `datasets` caches a local folder by its name and this block alone: without it, the
    `full` of one workspace would be loaded for that of another.
    """
    tags = ["image", "self-supervised-learning", "pretraining", domain]
    tags += ["synthetic"] if counted.by_source["synthetic"] else []
    lines = [
        "---", f"pretty_name: {_quoted(title)}", "license: other", "license_name: see-each-row",
        "task_categories:", "- image-feature-extraction", "tags:", *[f"- {_quoted(tag)}" for tag in tags],
        "size_categories:", f"- {size_category(counted.total)}",
        "configs:", "- config_name: default", f"  description: manifest {checksum}",
        "  data_files:", "  - split: train", "    path: manifest.parquet", "---",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # YAML knows no pairs of surrogates


def size_category(images: int) -> str:
    """Hugging Face's name for a number of rows."""
    names = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B"]
    return names[max(0, min(len(str(images)) - 3, len(names) - 1))]


def _by_source(counted: Counted) -> str:
    parts = [f"{counted.by_source[source]:,} {source}" for source in SOURCES if counted.by_source[source]]
    return " and ".join(parts) or "none"


def _steps(ledger: pa.Table, sources: list[str], counted: Counted) -> str:
    rows = [(row["stage"], row["real"], row["synthetic"]) for row in funnel(ledger, sources) if row["stage"] != "kept"]
    rows.append(("in this data set", counted.by_source["real"], counted.by_source["synthetic"]))
    cells = [(step, f"{real:,}", f"{made:,}", f"{real + made:,}") for step, real, made in rows]
    return markdown_table(("Step", "Real", "Synthetic", "Total"), cells, 3)


def _left_out(ledger: pa.Table, sources: list[str], rules: list[tuple[str, str]], counted: Counted) -> str:
    synthetic = pc.equal(ledger["source"], "synthetic").to_numpy(zero_copy_only=False).astype(bool)
    reasons = drop_reasons(ledger)
    reasons[of_other_source(ledger, reasons, sources)] = "source"
    rows = []
    for reason, rule in rules:
        mask = reasons == (None if reason == "selection" else reason)
        lost = [int((mask & ~synthetic).sum()), int((mask & synthetic).sum())]
        if reason == "selection":  # of those that no rule left out, the ones that are not in the data set
            lost = [before - counted.by_source[source] for before, source in zip(lost, SOURCES, strict=True)]
        rows.append((reason.replace("_", " "), plain(rule), *(f"{number:,}" for number in lost)))
    return markdown_table(("Reason", "Rule", "Real", "Synthetic"), rows, 2)


def _models(table: list[Model]) -> str:
    if not table:
        return "None."
    rows = []
    for model in table:
        licence = "stand-in" if model.stand_in else model.licence or "see its publisher"
        rows.append((plain(model.role), plain(model.name), plain(licence), model.source, f"`{model.checksum}`"))
    return markdown_table(("Role", "Model", "Licence", "Source", "Checksum"), rows)


def _licences(counted: Counted) -> str:
    rows = [(plain(name), f"{number:,}") for name, number in counted.licences[:LICENCES_TOLD]]
    rest = counted.licences[LICENCES_TOLD:]
    if rest:
        rows.append((f"{len(rest)} others", f"{sum(number for _, number in rest):,}"))
    if counted.by_source["synthetic"]:
        rows.append(("synthetic: that of the generator", f"{counted.by_source['synthetic']:,}"))
    return markdown_table(("Licence", "Images"), rows, 1) if rows else "No image."
