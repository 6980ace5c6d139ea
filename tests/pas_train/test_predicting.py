from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pas_train.predicting import EmbeddingWriter

KEYS = pa.chunked_array([["a", "b"], ["c", "d", "e"]])


def test_embedding_writer__keys_of_the_rows_and_their_embeddings(tmp_path: Path) -> None:
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with EmbeddingWriter(tmp_path / "a.parquet", KEYS, 2) as writer:
        for rows in ([4, 0], [], [2]):  # of the second batch no image could be read
            writer.on_predict_batch_end(None, None, (torch.tensor(rows, dtype=torch.int64), values[rows]))  # type: ignore[arg-type]
    table = pq.read_table(tmp_path / "a.parquet")
    assert table["key"].to_pylist() == ["e", "a", "c"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), values[[4, 0, 2]])


def test_embedding_writer__no_image_is_an_empty_table(tmp_path: Path) -> None:
    with EmbeddingWriter(tmp_path / "a.parquet", KEYS, 2):
        pass
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.num_rows == 0 and table.column_names == ["key", "embedding"]


def test_embedding_writer__an_error_passes_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"), EmbeddingWriter(tmp_path / "a.parquet", KEYS, 2):
        raise RuntimeError("stopped")
