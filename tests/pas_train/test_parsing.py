import subprocess
import sys
from pathlib import Path

import pytest

from pas_train.parsing import accept_sections, explain, section_parser, short_error

KNOWN = ["curation", "duplicates", "threshold", "temperature", "workspace", "model", "init_args"]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):
    """Sets the command line that messages are explained by."""
    return lambda *arguments: monkeypatch.setattr(sys, "argv", ["pas_train", "fit", *map(str, arguments)])


def test_short_error__is_one_paragraph() -> None:
    text = short_error("one\n\n  two   three " + "word " * 60)
    assert text.startswith("pas_train: error: one two three word") and all(len(x) <= 118 for x in text.splitlines())


@pytest.mark.parametrize(
    ("message", "argument", "expected"),
    [
        ("Option 'treshold' is not accepted", "--curation.duplicates.treshold",
         "unknown key curation.duplicates.treshold; did you mean threshold?"),
        ("unrecognized arguments: --workspac", "--workspac=x", "unknown key workspac; did you mean workspace?"),
        ("Key 'curration.domain' is not expected", "--curration.domain",
         "unknown key curration.domain; did you mean curation?"),
        ("Option 'zzz' is not accepted", "--model.init_args.zzz", "unknown key model.init_args.zzz (--print"),
        ("Option 'threshold' is not accepted", "--model.threshold", "unknown key model.threshold (--print"),
    ],
)  # fmt: skip
def test_explain__unknown_key_of_the_command_line(typed, message: str, argument: str, expected: str) -> None:
    typed(argument, "0.5")
    assert explain(message, KNOWN).startswith(expected)


def test_explain__unknown_key_of_a_yaml(typed, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model:\n  init_args:\n    temprature: 1\n")
    for arguments in (["--config", tmp_path / "a.yaml"], [f"--config={tmp_path}/a.yaml"]):
        typed(*arguments)
        said = explain("Option 'temprature' is not accepted", KNOWN)
        assert said.startswith(
            f"unknown key model.init_args.temprature in {tmp_path}/a.yaml; did you mean temperature?"
        )


def test_explain__unknown_key_of_a_section_tells_what_it_takes(typed) -> None:
    from pas_train.evaluation import evaluation  # noqa: F401

    message = "Key 'crop' is not expected"
    typed("--evaluation.segmentation", "{steps: 20, crop: 64}")
    said = explain(message, KNOWN)
    assert said.startswith("unknown key evaluation.segmentation.crop; evaluation.segmentation takes steps, batch_size,")
    typed("--evaluation.detection", "{epoch: 20}")
    said = explain("Key 'epoch' is not expected", KNOWN)
    assert said == "unknown key evaluation.detection.epoch; did you mean epochs?"


def test_explain__class_that_is_not_there(typed) -> None:
    typed("--model.class_path", "a.B")
    message = (
        'Parser key "model": Does not validate against any of the Union subtypes\nErrors:\n  - Problem with given '
        "class_path 'a.B': No module named 'a'\n  - Expected a <class 'NoneType'>\nGiven value type: x"
    )
    assert explain(message, KNOWN) == "model.class_path: a.B cannot be used: No module named 'a'"


def test_explain__name_of_no_class_tells_the_choices(typed) -> None:
    import curation.selectors  # noqa: F401  (the pipeline has imported it before anything is parsed)

    typed("curate", "--curation.select.method", "Randm")
    message = 'Parser key "method": Does not validate: - Expected a dot import path string: Randm - Expected a None'
    told = explain(message, [])
    assert told.startswith("curation.select.method: Randm is unknown; choices: BalancedClusters, ")


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "Parser key \"size\": Does not validate against any of the Union subtypes\nSubtypes: [<class 'int'>, "
            "<class 'NoneType'>]\nErrors:\n  - Expected a <class 'int'>\n  - Expected a <class 'NoneType'>\n"
            "Given value type: <class 'str'>\nGiven value: abc",
            "size must be a whole number or null, got abc",
        ),
        (
            "Parser key \"keep\": Expected a typing.Literal['draw', 'largest']. Got value: biggest",
            "curation.duplicates.keep must be 'draw', 'largest', got biggest",
        ),
    ],
)
def test_explain__value_of_another_type(typed, message: str, told: str) -> None:
    typed("curate", "--curation.duplicates.keep", "biggest")
    assert explain(message, []) == told


def test_explain__missing_argument(typed) -> None:
    typed()
    assert (
        explain("the following arguments are required: size", KNOWN)
        == "size must be given, in a yaml (--config FILE) or as --KEY VALUE"
    )


def test_explain__other_messages_are_unchanged(typed, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("trainer:\n  max_epochs: many\n")
    typed("--config", tmp_path / "a.yaml")
    assert explain("max_epochs: expected an integer", KNOWN) == "max_epochs: expected an integer"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1\n", "is no valid yaml (line 2: "), (b"- a\n- b\n", "holds no keys"),
        (b"\xff\xfe\x00", "cannot be read as yaml"), (b"a: \x00", "cannot be read as yaml"),
    ],
)  # fmt: skip
def test_explain__damaged_yaml_is_named(typed, tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    typed("--config", tmp_path / "a.yaml")
    assert explain("Problems parsing config", KNOWN).startswith(f"--config {tmp_path}/a.yaml {expected}")


def test_section_parser__reads_a_yaml_with_sections_of_other_commands(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("workspace: runs/a\nmodel:\n  class_path: anything\n")
    parser = section_parser("Test.")
    accept_sections(parser, "model")
    config = parser.parse_args(["--config", str(tmp_path / "a.yaml"), "--pool", "photos"])
    assert (config.workspace, config.pool) == ("runs/a", "photos")


def test_section_parser__ends_with_status_2(capsys: pytest.CaptureFixture[str], typed) -> None:
    typed("--worksp", "x")  # an abbreviation is no key
    with pytest.raises(SystemExit) as end:
        section_parser("Test.").parse_args(["--worksp", "x"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("pas_train: error: unknown key worksp; did you mean workspace")


def test_accept_sections__imports_no_class_that_a_section_names(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model:\n  class_path: pas_train.methods.MoCoV3\n")
    code = (
        "import sys; from pas_train.parsing import accept_sections, section_parser; parser = section_parser('a'); "
        "accept_sections(parser, 'model'); found = parser.parse_args(['--config', sys.argv[1]]).model; "
        "sys.exit('torch' in sys.modules or found['class_path'] != 'pas_train.methods.MoCoV3')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.yaml")], check=False)
    assert done.returncode == 0


def test_parse_args__names_an_unknown_section_that_is_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], typed
) -> None:
    import pas_train.evaluation.evaluation  # noqa: F401

    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("evaluation: {fewshot: {}, knn: {weighted: []}}\n")
    bad.write_text("evaluation: {few_shot: {}}\n")
    parser = section_parser("a command")
    accept_sections(parser, "evaluation")
    typed("--config", good)
    assert parser.parse_args(["--config", str(good)]).evaluation["fewshot"] == {}
    typed("--config", bad)
    with pytest.raises(SystemExit):
        parser.parse_args(["--config", str(bad)])
    assert "unknown key evaluation.few_shot in" in capsys.readouterr().err
