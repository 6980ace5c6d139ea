"""One small project and one finished fit for all tests of the command line.

What a fit needs takes long to import, and is imported by the tests alone that need it.
"""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.pas_train.small_project import save_project

    return save_project(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def fitted(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import wandb

    from tests.pas_train.small_project import pas

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
