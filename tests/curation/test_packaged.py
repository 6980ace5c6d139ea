from pathlib import Path

import pytest

from curation.packaged import resolve


def test_resolve__other_names_are_unchanged() -> None:
    assert resolve("ViT-B-16") == "ViT-B-16" and resolve("/models/clip") == "/models/clip"


def test_resolve__every_file_that_it_offers() -> None:
    with pytest.raises(FileNotFoundError, match="packaged:nothing does not come with the package; choices: ") as error:
        resolve("packaged:nothing")
    choices = str(error.value).split("choices: ")[1].split(", ")
    assert choices and all(Path(resolve(f"packaged:{name}")).exists() for name in choices)
