import shutil
import time
from pathlib import Path

import pytest

from curation.generation.weights import check_weights, components, fetch, identify, variant
from tests.curation.generation.tiny_diffusion import save_tiny_diffusion


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_diffusion(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def cached(whole: Path, cache: Path) -> None:
    """Puts the pipeline into Hugging Face's cache as a download does."""
    repository = cache / "models--some--pipeline"
    shutil.copytree(whole, repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")


def test_check_weights__a_whole_folder(folder: Path) -> None:
    check_weights(str(folder), None, "curation.synthesis")
    assert fetch(str(folder), None, "curation.synthesis") == folder
    assert components(folder) == ["scheduler", "text_encoder", "tokenizer", "unet", "vae"]


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("model_index.json", "has no model_index.json"),
        ("unet/diffusion_pytorch_model.safetensors", "has a part that is not whole: unet has no weights"),
        ("tokenizer", "lacks its part tokenizer"),
    ],
)
def test_check_weights__names_what_a_folder_lacks(folder: Path, lost: str, told: str) -> None:
    shutil.rmtree(folder / lost) if (folder / lost).is_dir() else (folder / lost).unlink()
    with pytest.raises(FileNotFoundError, match=f"^curation.synthesis.model is .*{told}.*copy the model's folder anew"):
        check_weights(str(folder), None, "curation.synthesis")


def test_check_weights__a_file_cut_short(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileNotFoundError, match="vae has a file that is damaged or cut short"):
        check_weights(str(folder), None, "curation.synthesis")


def test_check_weights__no_folder_and_no_repository() -> None:
    with pytest.raises(FileNotFoundError, match="curation.synthesis.model is '/data/none', which is neither a folder"):
        check_weights("/data/none", None, "curation.synthesis")


def test_check_weights__missing_weights_are_told_in_seconds_without_a_network() -> None:
    began = time.monotonic()
    with pytest.raises(
        FileNotFoundError,
        match="^curation.synthesis.model is 'no/such', which is not in the cache.* name a local folder in curat",
    ):
        check_weights("no/such", None, "curation.synthesis")
    assert time.monotonic() - began < 5


def test_cache__is_used_whole_and_refused_in_part(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached(whole, tmp_path)
    check_weights("some/pipeline", None, "curation.synthesis")
    assert identify("some/pipeline", None) == {"name": "some/pipeline", "revision": "0123abcd"}
    found = fetch("some/pipeline", None, "curation.synthesis")
    assert found == tmp_path / "models--some--pipeline" / "snapshots" / "0123abcd"
    (found / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="which is not whole in the cache: .*0123abcd has a part .* `hf downl"):
        fetch("some/pipeline", None, "curation.synthesis")


def test_identify__follows_the_weights_not_the_folder(whole: Path, folder: Path) -> None:
    assert identify(str(whole), None) == identify(str(folder), None)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    assert identify(str(whole), None) != identify(str(folder), None)


def test_variant__is_found_where_there_is_no_other(folder: Path) -> None:
    assert variant(folder) is None
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert variant(folder) == "fp16"
