"""Embeddings of concepts by both of CLIPN's text towers, ensembled over prompts and kept on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from curation.encoders import ImageTextEncoder
from curation.prediction import Loop, predict_chunks
from curation.session import Session
from curation.workspace import write_table
from datamodules.files import fingerprint

# Texts of one file, of which each tower embeds this many: the unit of work and of resumption.
TEXTS_PER_FILE = 1024
# A pass always has this many, filled up at the end: a text's embedding does not depend on how many others there are.
TEXTS_PER_PASS = 64
TOWERS = ("yes", "no")


class TextTowers(LightningModule):
    """Ensembles a batch of concepts over prompts: normalise(sum over t of normalise(tower(t(concept)))), per tower."""

    def __init__(self, encoder: ImageTextEncoder, templates: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.templates = encoder, list(templates)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """yes, no: unit float32 [N, D] of the batch's N concepts `word`."""
        texts = [template.replace("{}", word) for word in batch["word"] for template in self.templates]
        return {tower: self._ensemble(texts, tower == "no") for tower in TOWERS}

    def _ensemble(self, texts: list[str], no: bool) -> Tensor:
        embed = self.encoder.embed_no_texts if no else self.encoder.embed_texts
        passes = [texts[first : first + TEXTS_PER_PASS] for first in range(0, len(texts), TEXTS_PER_PASS)]
        filled = [part + [""] * (TEXTS_PER_PASS - len(part)) for part in passes]
        embeddings = torch.cat([embed(part)[: len(own)] for own, part in zip(passes, filled, strict=True)])
        total = embeddings.view(-1, len(self.templates), embeddings.shape[1]).sum(dim=1)
        return torch.nn.functional.normalize(total, dim=1)


class TextFeatures:
    """The folder of one model, one `no` tower and one set of prompts: files of concepts with both embeddings.

    Concepts that are there already are not embedded again, so a changed bank costs its new concepts, and a run that
    was stopped goes on. identity: what decides the embeddings beside the concepts; it names the folder.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder / fingerprint(identity)

    def missing(self, words: Sequence[str]) -> list[str]:
        """Those of the concepts that no file holds, once each, in order."""
        files = [pq.read_table(path, columns=["concept"])["concept"].to_pylist() for path in self._files()]
        known = {word for file in files for word in file}
        return [word for word in dict.fromkeys(words) if word not in known]

    def read(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(yes, no) unit float32 [C, D] of concepts that are all there."""
        table = pa.concat_tables([pq.read_table(path) for path in self._files()])
        place = {word: number for number, word in enumerate(table["concept"].to_pylist())}
        rows = [place[word] for word in words]
        yes, no = (np.stack(table[tower].to_numpy())[rows] for tower in TOWERS)
        return yes, no

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def embed(
        self, session: Session, encoder: ImageTextEncoder, words: Sequence[str], templates: Sequence[str]
    ) -> None:
        """Embeds the given concepts, which must be missing, on all ranks.

        They are cut into files in order: whatever files a stopped run left, the next one cuts the rest as it did.
        """
        size = max(1, TEXTS_PER_FILE // len(templates))
        chunks = {number: np.arange(first, min(first + size, len(words)))
                  for number, first in enumerate(range(0, len(words), size))}  # fmt: skip

        def write(number: int, rows: np.ndarray, outputs: dict[str, Any]) -> None:
            concepts = [words[row] for row in rows]
            for tower in TOWERS:
                finite = np.isfinite(outputs[tower]).all(axis=1)
                if not finite.all():
                    raise ValueError(
                        f"curation.ood: the embedding of the concept {concepts[int(finite.argmin())]!r} by the {tower} "
                        "tower is not finite; if curation.precision is 16-mixed, set it to 32-true or bf16-mixed, else "
                        "the model's weights are damaged: get them again"
                    )
            columns = {tower: _vectors(outputs[tower]) for tower in TOWERS}
            write_table(self.folder / f"{fingerprint(concepts)}.parquet", pa.table({"concept": concepts, **columns}))

        predict_chunks(
            session, TextTowers(encoder, templates), title="concepts", chunks=chunks, done=lambda number: False,
            load=lambda row: {"word": words[row]}, write=write, loop=Loop(batch_size=size, num_workers=0),
            unit="concept",
        )  # fmt: skip


def _vectors(array: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(array, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
