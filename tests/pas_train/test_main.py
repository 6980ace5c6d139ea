"""The thin dispatcher: help and mistakes answer at once, config names resolve."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pas_train.__main__ import COMMANDS, main
from pas_train.configs import FOLDER, ConfigError, find_config, packaged, resolve_configs, share_seed, with_run_config


def test_main__help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in COMMANDS)
    assert "sweep FILE, compare RUN ..., analyse NAME=SOURCE ..." in text  # these take no --config


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


@pytest.mark.parametrize(
    ("arg", "resolved"),
    [
        ("--model.weights=None", "--model.weights=null"),
        ("--x=[None, 'a', {'b': None, 'c': True}]", '--x=[null, "a", {"b": null, "c": true}]'),
        ("--x={name: None}", "--x={name: None}"),  # a yaml's, in which None is a word
        ("--x=[NoneSuch]", "--x=[NoneSuch]"),
        ("--x=None of these", "--x=None of these"),
    ],
)
def test_configs__a_sweeps_none_is_null(arg: str, resolved: str) -> None:
    assert resolve_configs([arg, "--pool", "x"]) == [resolved, "--pool", "x"]
    assert resolve_configs(arg.split("=", 1)) == resolved.split("=", 1)
    assert resolve_configs(["None"]) == ["None"]  # not after a key


def test_configs__a_sweeps_yamls_in_the_order_of_their_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("{}")
    args = ["--config=c", "--config.2_data=a", "--pool=x", "--config.1_recipe=b"]
    assert resolve_configs(args) == ["--config=c", "--config=b", "--pool=x", "--config=a"]
    assert resolve_configs(["--config.1=None", "--config=b", "--config=None"]) == ["--config=b"]
    assert resolve_configs(["--config.10=a", "--config.9=b"]) == ["--config=b", "--config=a"]


def test_configs__one_seed_for_model_and_data() -> None:
    seeds = ["--model.init_args.seed=3", "--data.init_args.seed=3"]
    assert share_seed(["--seed=3", "--config", "a"]) == share_seed(["--config", "a", "--seed", "3"])
    assert share_seed(["--seed=3", "--config", "a"]) == ["--config", "a", *seeds]
    assert share_seed(["--seed_everything=3"]) == ["--seed_everything=3"]
    with pytest.raises(ConfigError, match="needs a number"):
        share_seed(["--seed"])


def test_fit__takes_what_a_sweep_writes(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"evaluation.linear": None, "data.init_args.source": None, "curation.embed.copy.pretrained": None,
              "evaluation.datasets": [{"name": "a", "train": "b", "test": "c", "root": None}], "seed": 4,
              "trainer.precision": None, "model.init_args.small_images": True,
              "tracking": {"enabled": False, "group": None, "tags": ["a"]}}  # fmt: skip
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config=quickstart", *(f"--{name}={value}" for name, value in values.items()), "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["evaluation"]["linear"] is config["data"]["init_args"]["source"] is None
    assert config["curation"]["embed"]["init_args"]["copy"]["pretrained"] is config["trainer"]["precision"] is None
    assert config["evaluation"]["datasets"][0]["root"] is None and config["model"]["init_args"]["seed"] == 4
    assert config["tracking"]["tags"] == ["a"] and config["tracking"]["group"] is None


def test_configs__a_list_of_sections_replaces_the_yamls() -> None:
    sets = "[{name: food-101, root: data/food-101}]"
    for given in (["--evaluation.datasets", sets], [f"--evaluation.datasets={sets}"]):
        assert resolve_configs(given) == ["--evaluation.datasets=[]", *given]
    assert resolve_configs(["--tracking.tags", "[a, b]"]) == ["--tracking.tags", "[a, b]"]


def test_fit__takes_nothing_of_the_yamls_evaluation_sets(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--evaluation.datasets", "[{name: food-101, root: data/x}]", "--print_config"]
    with pytest.raises(SystemExit):
        main(["fit", "--config", "quickstart.yaml", *given])
    shown = yaml.safe_load(capsys.readouterr().out)["evaluation"]["datasets"]
    assert [(one["name"], one["root"], one["train"], one["test"]) for one in shown] == [("food-101", "data/x", "", "")]


def test_run_config__comes_first_where_no_other_tells_the_model(tmp_path: Path) -> None:
    for name, content in (("run/config.yaml", "model: {}"), ("sets.yaml", "evaluation: {}"), ("all.yaml", "model: {}")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    run, sets, full = tmp_path / "run" / "config.yaml", f"{tmp_path}/sets.yaml", f"{tmp_path}/all.yaml"
    checkpoint = f"{tmp_path}/run/checkpoints/last.ckpt"
    for args in (
        ["--config", sets, "--ckpt_path", checkpoint], [f"--config={sets}", f"--ckpt_path={checkpoint}"],
        ["--ckpt_path", checkpoint, "--config", '{"curation": null}'],
    ):  # fmt: skip
        assert with_run_config(args) == (["--config", str(run), *args], run)
    for args in (
        ["--config", sets], ["--config", sets, "--ckpt_path", "timm"], ["--config", full, "--ckpt_path", checkpoint],
        ["--model", "MoCoV3", "--ckpt_path", checkpoint], ["--ckpt_path", f"{tmp_path}/run/last.ckpt"],
        ["--config", '{"model": {}}', "--ckpt_path", checkpoint],
    ):  # fmt: skip
        assert with_run_config(args) == (args, None)
