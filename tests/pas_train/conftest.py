"""One small project and one finished fit for all tests of the command line."""

import shutil
from pathlib import Path

import pytest
import wandb

from tests.pas_train.small_project import pas, save_project


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_project(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def fitted(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("fitted") / "ws"
    assert pas("fit", home, workspace) == 0
    wandb.finish()
    wandb.teardown()  # else it goes on writing down what later tests print
    return workspace


@pytest.fixture
def curated(fitted: Path, tmp_path: Path) -> Path:
    """The fitted workspace's data set, without a training."""
    shutil.copytree(fitted, tmp_path / "ws", ignore=shutil.ignore_patterns("training"))
    return tmp_path / "ws"
