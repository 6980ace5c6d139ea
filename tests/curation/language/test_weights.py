"""The files of a local model."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from curation.language import LanguageModel
from curation.language.weights import fetch, identify
from tests.curation.language.tiny_lm import build_tiny_lm

KEY = "curation.captions.model"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_lm(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "model"))


@pytest.fixture
def cached(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository org/tiny in a cache, at the commit c0ffee."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--tiny"
    shutil.copytree(built, folder / "snapshots" / "c0ffee")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c0ffee")
    return folder / "snapshots" / "c0ffee"


def check(model: Path | str) -> None:
    LanguageModel(str(model)).check(KEY)


def test_check__a_whole_folder_passes(model: Path) -> None:
    check(model)
    assert fetch(str(model), None, KEY) == model


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: shorten(folder / "model.safetensors"), "damaged or cut short, model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs"), "damaged or cut short"),
        (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "has no tokenizer"),
    ],
)
def test_check__what_a_folder_lacks(model: Path, damage, said: str) -> None:
    damage(model)
    with pytest.raises(
        FileNotFoundError, match=rf"^{KEY}\.model is '{model}', but .*{said}.*; copy the model's folder"
    ):
        check(model)


def test_check__a_lacking_part_of_the_weights(model: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    with pytest.raises(FileNotFoundError, match="lacks 1 of its 2 weight files, such as model-2.safetensors"):
        check(model)


def test_check__a_base_model_cannot_answer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{KEY}\.model is .* no chat template.*instruct or chat variant"):
        check(build_tiny_lm(tmp_path, template=None))


def test_check__a_path_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=rf"{KEY}\.model is '/no/such/model', which is neither a folder nor"):
        check("/no/such/model")


def test_check__offline_without_a_copy_fails_in_seconds_with_the_remedy() -> None:
    began = time.monotonic()
    with pytest.raises(FileNotFoundError, match=rf"{KEY}\.model is 'org/none'.*`hf download org/none`.*local folder"):
        check("org/none")
    assert time.monotonic() - began < 5


def test_check__a_cached_repository_passes_and_is_known_by_its_commit(cached: Path) -> None:
    check("org/tiny")
    assert identify("org/tiny", None) == {"revision": "c0ffee"}
    assert fetch("org/tiny", None, KEY) == cached
    with pytest.raises(FileNotFoundError, match=r"org/tiny' at revision 'v2'.*hf download org/tiny --revision v2"):
        LanguageModel("org/tiny", revision="v2").check(KEY)


def test_check__half_a_download_is_no_copy(cached: Path) -> None:
    (cached / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="is not whole in the cache: .*c0ffee has no weights"):
        check("org/tiny")


def test_identify__a_folder_by_its_contents(model: Path) -> None:
    before = identify(str(model), None)
    (model / "chat_template.jinja").write_text("other")
    assert identify(str(model), None) != before


def test_identify__a_large_folder_by_its_small_files_and_parts_of_the_others(model: Path) -> None:
    with open(model / "model-2.safetensors", "wb") as file:
        file.truncate(3_000_000_000)  # sparse
    files = identify(str(model), None)["files"]
    assert files["model-2.safetensors"].startswith("sampled:") and len(files["config.json"]) == 64
