from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.images import ImageReader
from datamodules.decoding import ImageLimits, RefusedImage
from datamodules.descriptions import INDEX_SCHEMA
from datamodules.indexing import index_pool
from tests.tiny import picture


def test_image_reader__decodes_rows_and_says_why_there_is_none(tmp_path: Path) -> None:
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    missing = {"key": ["x", "y"], "source": ["real"] * 2, "root": ["pool"] * 2, "shard": ["x", "y"],
               "status": ["failed_to_download", None], "reason": ["HTTP 404", None]}  # fmt: skip
    nulls = {name: [None] * 2 for name in INDEX_SCHEMA.names if name not in missing}
    index = pa.concat_tables([index_pool(tmp_path), pa.table({**missing, **nulls}, schema=INDEX_SCHEMA)])
    reader = ImageReader(index, {"pool": tmp_path}, ImageLimits())
    np.testing.assert_array_equal(reader.rgb(1), np.asarray(picture(1)))
    assert reader.data(0) == (tmp_path / "0.png").read_bytes()
    with pytest.raises(RefusedImage, match="HTTP 404") as failed:
        reader.rgb(2)
    with pytest.raises(RefusedImage, match="table has no image for it") as absent:
        reader.rgb(3)
    assert (failed.value.reason, absent.value.reason) == ("failed_to_download", "missing")
