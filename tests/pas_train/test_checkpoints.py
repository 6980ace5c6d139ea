from pathlib import Path

import pytest
import torch
from torch import nn

from pas_train.checkpoints import check_weights, load_weights, read_checkpoint


def net(width: int = 3, bias: bool = True) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(2, width, bias=bias))


def save(path: Path, module: nn.Module) -> Path:
    torch.save({"state_dict": module.state_dict(), "global_step": 7}, path)
    return path


def test_load_weights__gives_the_model_the_weights(tmp_path: Path) -> None:
    theirs, mine = net(), net()
    nn.init.ones_(theirs[0].weight)
    assert load_weights(mine, save(tmp_path / "a.ckpt", theirs), "to test")["global_step"] == 7
    assert torch.equal(mine[0].weight, theirs[0].weight)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (net(4), "it has in another shape 2 tensors (0.weight, ...)"),
        (net(bias=False), "it lacks 1 tensors (0.bias, ...)"),
        (nn.Sequential(*net(), *net()), "it has besides 2 tensors (1.weight, ...)"),
    ],
)
def test_load_weights__another_model_is_named_and_nothing_loaded(tmp_path: Path, theirs: nn.Module, said: str) -> None:
    mine, before = net(), net().state_dict()
    path = save(tmp_path / "a.ckpt", theirs)
    with pytest.raises(ValueError) as error:
        load_weights(mine, path, "to test")
    assert str(path) in str(error.value) and said in str(error.value) and "config.yaml" in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in mine.state_dict().items())


def test_check_weights__fits() -> None:
    check_weights(net(), {"state_dict": net().state_dict()}, "a.ckpt")


@pytest.mark.parametrize("content", [b"", b"<html>404", b"PK\x03\x04 cut", b"\x80\x02."])
def test_read_checkpoint__damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"--ckpt_path: .*a\.ckpt cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / "a.ckpt", "to test")


def test_read_checkpoint__weights_alone_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "untrained.pt")
    with pytest.raises(ValueError, match=r"untrained\.pt holds no state of a training"):
        read_checkpoint(tmp_path / "untrained.pt", "to test")
    with pytest.raises(ValueError, match="--ckpt_path is not set; name the checkpoint to test"):
        read_checkpoint(None, "to test")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_checkpoint(tmp_path, "to test")  # a folder
