"""The command `predict`: embeddings of every image of a source, as Parquet."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor

from datamodules.files import atomic
from datamodules.sources import open_sources
from pas_train import curated
from pas_train.checkpoints import load_weights
from pas_train.fitting import backbone_of

if TYPE_CHECKING:
    from pas_train.cli import PasCLI


class EmbeddingWriter(Callback):
    """Appends batches of embeddings to a Parquet file: key string, embedding fixed_size_list<float32>[D].

    keys: of all images by row; width: D. Use as a context: the file is closed at its end.
    """

    def __init__(self, path: Path, keys: pa.ChunkedArray, width: int) -> None:
        self.path, self.keys, self.width = path, keys, width
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "EmbeddingWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is None:  # no image: an empty file with the right columns
            self.append(torch.empty(0, dtype=torch.int64), torch.empty(0, self.width))
        assert self._writer is not None
        self._writer.close()

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Appends one batch, the (rows, embeddings) of `predict_step`, as a row group."""
        if len(outputs[0]):
            self.append(*outputs)

    def append(self, rows: Tensor, embeddings: Tensor) -> None:
        """int64 [B] rows and float32 [B, D] embeddings."""
        width = embeddings.shape[1]
        schema = pa.schema([("key", pa.string()), ("embedding", pa.list_(pa.float32(), width))])
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, schema)
        values = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.flatten().cpu().numpy()), width)
        table = pa.table([self.keys.take(pa.array(rows.cpu().numpy())), values], schema=schema)
        self._writer.write_table(table)


def predict(cli: "PasCLI", model: LightningModule, data: LightningDataModule, ckpt_path: str | None) -> None:
    """Embeds data.source, or the workspace's data set, with a checkpoint's backbone."""
    output, trainer = cli.options["output"], cast(Any, cli.trainer)
    load_weights(model, ckpt_path, "whose backbone embeds the images")
    source = getattr(data, "source", None)
    images = open_sources(source or str(curated.full_manifest(cli.workspace)))
    data.rows = images  # type: ignore[attr-defined]
    data.source = source or str(cli.workspace)  # type: ignore[attr-defined]
    folder = Path(output) if output else cli.workspace / "embeddings" / Path(str(ckpt_path)).stem
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output: {folder} is a file; give a folder for the Parquet files")
    with atomic(folder / f"{trainer.global_rank:05d}.parquet") as temporary:
        with EmbeddingWriter(temporary, images.keys(), int(cast(int, backbone_of(model).num_features))) as writer:
            trainer.callbacks.append(writer)
            trainer.predict(model, datamodule=data, return_predictions=False)
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        for file in folder.glob("[0-9]" * 5 + ".parquet"):
            if int(file.stem) >= trainer.world_size:  # of an earlier run with more ranks
                file.unlink()
        files = [folder / f"{rank:05d}.parquet" for rank in range(trainer.world_size)]
        count = sum(pq.read_metadata(file).num_rows for file in files)
        total = len(images)
        left = f"; {total - count} could not be read" if count < total else ""
        print(f"embeddings  {folder}: {count} of {total} images{left}")
