"""The prediction loop: chunks, resumption, ranks."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightning.pytorch import LightningModule
from torch import Tensor
from tqdm import tqdm

from curation.prediction import Loop, Passing, SharedBatches, predict_chunks, predict_rows
from curation.session import Session

KEYS = pa.array([f"{number:04d}" for number in range(100)])


class Square(LightningModule):
    def predict_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        return {"square": batch["value"] ** 2}


def load(row: int) -> dict:
    return {"value": np.array([row], np.float32)}


def run(folder: Path, rows: np.ndarray, loaded=load, batch_size: int = 3) -> None:
    def finish(rows: np.ndarray, outputs: dict) -> tuple:
        squares = outputs["square"] if outputs else np.empty((0, 1), np.float32)
        return {"value": squares[:, 0]}, {"square": squares}

    predict_rows(
        Session(accelerator="cpu"), Square(), title="square", folder=folder, keys=KEYS, rows=rows, load=loaded,
        finish=finish, loop=Loop(chunk_rows=10, batch_size=batch_size, num_workers=0),
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_predict_rows__one_file_per_chunk_of_the_index(tmp_path: Path) -> None:
    rows = np.array([0, 1, 2, 3, 4, 35, 36, 99])
    run(tmp_path, rows)
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == [f"part-0000{n}.parquet" for n in (0, 3, 9)]
    table = pa.concat_tables([pq.read_table(path) for path in sorted(tmp_path.glob("*.parquet"))])
    assert table["row"].to_pylist() == rows.tolist()
    assert table["key"].to_pylist() == [f"{row:04d}" for row in rows]
    assert table["value"].to_pylist() == [float(row**2) for row in rows]
    assert np.load(tmp_path / "part-00003.square.npy").tolist() == [[35.0**2], [36.0**2]]


def test_predict_rows__goes_on_with_the_missing_chunks_only(tmp_path: Path) -> None:
    rows = np.arange(100)
    run(tmp_path / "whole", rows)
    run(tmp_path / "resumed", rows)
    (tmp_path / "resumed" / "part-00004.parquet").unlink()
    asked: list[int] = []
    run(tmp_path / "resumed", rows, lambda row: asked.append(row) or load(row))
    assert asked == list(range(40, 50))
    assert contents(tmp_path / "whole") == contents(tmp_path / "resumed")


def test_predict_rows__an_error_leaves_whole_parts_behind(tmp_path: Path) -> None:
    def fail_at_57(row: int) -> dict:
        if row == 57:
            raise OSError("disk gone")
        return load(row)

    with pytest.raises(OSError, match="disk gone"):
        run(tmp_path / "resumed", np.arange(100), fail_at_57)
    assert len(list((tmp_path / "resumed").glob("*.parquet"))) == 5
    run(tmp_path / "resumed", np.arange(100))
    run(tmp_path / "whole", np.arange(100))
    assert contents(tmp_path / "whole") == contents(tmp_path / "resumed")


def test_predict_rows__no_row_gives_one_empty_part(tmp_path: Path) -> None:
    run(tmp_path, np.empty(0, np.int64))
    assert pq.read_table(tmp_path / "part-00000.parquet").num_rows == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_predict_chunks__lists_keep_their_arrays(tmp_path: Path, workers: int) -> None:
    class Sizes(LightningModule):
        def predict_step(self, batch: dict, batch_idx: int) -> dict[str, list]:
            assert all(type(value) is np.ndarray for value in batch["image_list"])
            return {"size": [value.shape for value in batch["image_list"]]}

    written: dict[int, list] = {}
    predict_chunks(
        Session(accelerator="cpu"), Sizes(), title="sizes", chunks={7: np.array([1, 2, 3])}, done=lambda number: False,
        load=lambda row: {"image_list": np.zeros((row, 2), np.uint8)},
        write=lambda number, rows, outputs: written.update({number: outputs["size"]}),
        loop=Loop(batch_size=2, num_workers=workers),
    )  # fmt: skip
    assert written == {7: [(1, 2), (2, 2), (3, 2)]}


def test_predict_rows__an_error_closes_the_bar(tmp_path: Path) -> None:
    def fail(row: int) -> dict:
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        run(tmp_path, np.arange(3), fail)
    assert not tqdm._instances


def test_predict_rows__two_ranks_write_what_one_writes(tmp_path: Path, two_ranks) -> None:
    rows = np.arange(0, 100)
    run(tmp_path / "one", rows)

    def work(rank: int) -> None:
        def finish(rows: np.ndarray, outputs: dict) -> tuple:
            return {"value": outputs["square"][:, 0]}, {"square": outputs["square"]}

        session = Session(accelerator="cpu")
        session.start()
        assert (session.rank, session.world_size) == (rank, 2)
        predict_rows(
            session, Square(), title="square", folder=tmp_path / "two", keys=KEYS, rows=rows, load=load,
            finish=finish, loop=Loop(chunk_rows=10, batch_size=3, num_workers=0),
        )  # fmt: skip
        assert session.on_zero(lambda: os.getpid()) > 0

    two_ranks(work)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_shared_batches__memory_of_used_batches_comes_again() -> None:
    memory = SharedBatches()
    arrays = [np.full((2, 3), value, np.uint8) for value in (1, 2)]
    first, second = memory.stack(arrays, 0), memory.stack(arrays, 1)
    assert first.is_shared() and first.data_ptr() != second.data_ptr()
    memory.used[0] = 1  # the main process is through with batch 0, not with batch 1
    third = memory.stack(arrays[::-1], 2)
    assert third.data_ptr() == first.data_ptr() and third[:, 0, 0].tolist() == [2, 1]
    assert memory.stack(arrays, 3).data_ptr() not in (first.data_ptr(), second.data_ptr())


def test_shared_batches__sizes_and_types_share_the_memory_of_the_batches_in_flight() -> None:
    memory = SharedBatches()
    for number in range(200):
        memory.used[0] = number - 2
        arrays = [np.full((2, 3), value, np.uint8 if number % 7 else np.int16) for value in range(1 + number % 64)]
        batch = memory.stack(arrays, number)
        assert batch.numpy().dtype == arrays[0].dtype and (batch.numpy() == np.stack(arrays)).all()
    assert len(memory.held) <= 4 and sum(piece.nbytes for _, piece in memory.held) <= 4 * 2 * 64 * 6


@pytest.mark.parametrize("workers", [1, 2])
def test_predict_rows__outputs_outlive_the_memory_of_their_batch(tmp_path: Path, workers: int) -> None:
    # The module hands on the very memory of the batch, 50 batches a chunk: each later one takes over an earlier one's.
    predict_rows(
        Session(accelerator="cpu"), Passing(), title="pass", folder=tmp_path, keys=KEYS, rows=np.arange(100), load=load,
        finish=lambda rows, outputs: ({}, {"value": outputs["value"]}),
        loop=Loop(chunk_rows=100, batch_size=2, num_workers=workers),
    )  # fmt: skip
    assert np.load(tmp_path / "part-00000.value.npy")[:, 0].tolist() == list(range(100))
