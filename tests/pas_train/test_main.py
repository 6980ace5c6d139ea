"""The thin dispatcher: help and mistakes answer at once, config names resolve."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pas_train.__main__ import COMMANDS, main
from pas_train.configs import FOLDER, ConfigError, find_config, packaged, resolve_configs


def test_main__help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in COMMANDS)


def test_main__no_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2


@pytest.mark.parametrize(("typed", "meant"), [("fitt", "fit"), ("evalute", "evaluate"), ("currate", "curate")])
def test_main__mistyped_command_suggests(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed]) == 2
    assert f"did you mean {meant}" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["--help"], ["fitt"], ["fit", "--config", "nonsense.yaml"]])
def test_main__answers_without_heavy_imports(args: list[str]) -> None:
    code = f"import sys; from pas_train.__main__ import main; main({args!r}); sys.exit(int('torch' in sys.modules))"
    began = time.process_time()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert time.process_time() - began < 5


def test_configs__every_packaged_name_resolves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "quickstart.yaml" in packaged()
    for name in packaged():
        assert find_config(name) == FOLDER / name
        assert find_config(name.removesuffix(".yaml")) == FOLDER / name


def test_configs__a_file_in_the_current_directory_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool.yaml").write_text("{}")
    assert find_config("pool.yaml") == Path("pool.yaml")
    assert resolve_configs(["-c", "pool.yaml", "--pool", "x"]) == ["--config", "pool.yaml", "--pool", "x"]
    assert resolve_configs(["--config=quickstart"]) == [f"--config={FOLDER / 'quickstart.yaml'}"]


def test_configs__unknown_name_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"did you mean pool\.yaml"):
        find_config("pol.yaml")
    with pytest.raises(ConfigError, match="needs a file"):
        resolve_configs(["--config"])


def test_configs__deep_nulls_arrive_as_null() -> None:
    section = '{"curation": {"embed": {"copy": {"pretrained": null}}}}'
    args = ["--curation.embed.copy.pretrained", "null", "--curation.text", "null", "--pool", "null"]
    assert resolve_configs(args) == ["--config", section, *args[2:]]
    assert resolve_configs(["--curation.embed.copy.pretrained=null"]) == ["--config", section]
