import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pas_train.checkpoints import check_weights, load_weights, newest_good, read_checkpoint


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


def points(folder: Path, *steps: int) -> list[Path]:
    for step in steps:
        torch.save({"state_dict": net().state_dict(), "global_step": step}, folder / f"step={step}.ckpt")
    (folder / "last.ckpt").symlink_to(f"step={steps[-1]}.ckpt")
    return [folder / f"step={step}.ckpt" for step in steps]


def test_newest_good__by_its_step(tmp_path: Path) -> None:
    assert newest_good(tmp_path) is None and newest_good(tmp_path / "none") is None
    points(tmp_path, 8, 9, 10)
    assert newest_good(tmp_path) == tmp_path / "last.ckpt"
    (tmp_path / "last.ckpt").unlink()
    assert newest_good(tmp_path) == tmp_path / "step=10.ckpt"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 50)


def flip(path: Path) -> None:
    """One bit of the first weight."""
    content, weight = bytearray(path.read_bytes()), net().state_dict()["0.weight"].numpy().tobytes()
    content[content.index(weight)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [truncate, flip, lambda path: path.write_bytes(b"")])
def test_newest_good__damaged_ones_are_named_and_passed_over(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    paths = points(tmp_path, 1, 2, 3)
    spoil(paths[2])
    with pytest.warns(UserWarning, match=r"step=3\.ckpt is damaged: .*\. step=2\.ckpt is the newest good checkpoint"):
        assert newest_good(tmp_path) == paths[1]
    spoil(paths[1])
    with pytest.warns(UserWarning, match=r"step=2\.ckpt is damaged.*step=1\.ckpt is the newest good"):
        assert newest_good(tmp_path) == paths[0]
    spoil(paths[0])
    with pytest.raises(ValueError, match=r"step=3.*step=2.*step=1.*No good checkpoint is left in this folder"):
        newest_good(tmp_path)
