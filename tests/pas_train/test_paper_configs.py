"""The packaged yaml of the paper's data sets: whole, and clear about what a person has to bring."""

import pytest

from pas_train.__main__ import main

PAPER = ["food.yaml", "birds.yaml", "food-small.yaml"]
Said = pytest.CaptureFixture[str]


def run(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("config", PAPER)
def test_plan__counts_the_papers_numbers_and_names_the_missing_table(config: str, capsys: Said) -> None:
    assert run("plan", "--config", config) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in said.splitlines() if line}
    concepts = 1000 if config == "food-small.yaml" else 5000
    per_concept = 2 * 5 if config == "food-small.yaml" else 5 * 35
    assert lines["concepts"][1] == f"{concepts:,}" and lines["synthesis"][1] == f"{concepts * per_concept:,}"
    end = " ".join(said.split()).partition(" missing: ")[2]
    assert end.startswith("curation.search.tables is not set") and "12.8 million images in 78 GB" in end


def test_fit__without_a_source_ends_at_once_with_the_key(tmp_path, monkeypatch, capsys: Said) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("fit", "--config", "food.yaml") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "curation.search.tables is not set: the folder of a published table" in said
    assert "hf download mlfoundations/datacomp_small" in said
    for key in ("concepts.discover.generator.model", "captions.model", "synthesis.model", "embed.copy.model"):
        assert f"curation.{key}" in said  # all that is missing, at once


def test_doctor__says_the_same(tmp_path, monkeypatch, capsys: Said) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("doctor", "--config", "food-small.yaml") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "fail search curation.search.tables is not set" in said and "12.8 million images in 78 GB" in said
    assert "Qwen/Qwen3-4B-Instruct-2507, Apache 2.0, 8 GB" in said
    assert not list(tmp_path.iterdir())
