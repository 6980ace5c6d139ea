"""The labels of evaluation data sets against the concept bank."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curation.concepts.coverage import FAR, describe, label_text, read_labels
from curation.encoders import embed_words
from curation.ood import best_concept
from curation.stage import Context, Stage
from curation.stages.concepts import Concepts
from curation.stages.embed import Embed
from curation.workspace import write_table
from datamodules.datasets.names import placed

KEY = "curation.coverage.labels"
SCHEMA = pa.schema(
    {"data_set": pa.string(), "label": pa.string(), "text": pa.string(), "concept": pa.string(),
     "distance": pa.float32()}
)  # fmt: skip


@dataclass(frozen=True)
class Coverage(Stage):
    """Cosine distance from each label to its nearest concept, by the text encoder of the retrieval.

    It only looks: no label enters the bank.

    Args:
        labels: Name of a data set: a folder of class folders, a .csv with a column `label`, a .txt of labels, or a
            data set by name (cub-200-2011:DIR).
        templates: Prompts, one `{}` each. The paper compares the names themselves.
    """

    name: ClassVar[str] = "coverage"
    reads: ClassVar[tuple[str, ...]] = ("concepts", "scenes")
    labels: dict[str, str] = field(default_factory=dict)
    templates: list[str] = field(default_factory=lambda: ["{}"])

    def identity(self, context: Context) -> dict[str, Any]:
        """The labels and the encoder."""
        made = {name: self._read(context, name) for name in self.labels if not self._is_made(context, name)}
        return {"labels": made, "encoder": _embed(context).image_text.identity()}

    def check(self, context: Context) -> None:
        """Reads the labels."""
        if not self.labels:
            raise ValueError(f"{KEY} is empty; give a data set's name and its labels, or set curation.coverage to null")
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"curation.coverage.templates: {template!r} must hold exactly one {{}}")
        for name in self.labels:
            if not self._is_made(context, name):
                self._read(context, name)

    def _read(self, context: Context, name: str) -> list[str]:
        return read_labels(placed(self.labels[name], context.workspace.root), f"{KEY}.{name}")

    def _is_made(self, context: Context, name: str) -> bool:
        """Whether the scenes stage makes this data set: a function of its settings, and maybe not there yet."""
        return "scenes" in context.stages and self.labels[name].startswith("workspace:scenes/")

    def run(self, context: Context) -> dict[str, Any]:
        """Writes coverage.parquet: data_set, label, the text compared, its nearest concept, distance."""
        return context.session.on_zero(lambda: self._run(context))

    def _run(self, context: Context) -> dict[str, Any]:
        concepts = context.stages["concepts"]
        assert isinstance(concepts, Concepts)
        encoder, bank = _embed(context).image_text.load(), concepts.bank(context)
        queries = embed_words(encoder, bank, self.templates)
        tables, result = [], {}
        for name in self.labels:
            labels = self._read(context, name)
            texts = [label_text(label) for label in labels]
            best, similarity = best_concept(embed_words(encoder, texts, self.templates), queries)
            distance = np.maximum(1.0 - similarity, 0.0).astype(np.float32)
            nearest = [bank[place] for place in best]
            columns = [[name] * len(labels), labels, texts, nearest, distance]
            tables.append(pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA))
            result[name] = {"labels": len(labels), "median": round(float(np.median(distance)), 4),
                            "far": round(float((distance > FAR).mean()), 4)}  # fmt: skip
            context.say(f"{self.name:<10} {describe(name, texts, nearest, distance)}")
        path: Path = context.workspace.stage_folder(self.name) / "coverage.parquet"
        write_table(path, pa.concat_tables(tables))
        rows = sum(table.num_rows for table in tables)
        medians = ", ".join(f"{name} {facts['median']:.3f}" for name, facts in result.items())
        return {"rows": rows, "summary": f"{rows} labels, median distance {medians}", "data_sets": result}


def _embed(context: Context) -> Embed:
    embed = context.stages["embed"]
    assert isinstance(embed, Embed)
    return embed
