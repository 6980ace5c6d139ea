from pathlib import Path

import pytest

from curation.doctor import Finding, examine, examine_disk, examine_store, examine_weights
from curation.pipeline import Curation
from curation.session import Session
from curation.stages.concepts import Concepts
from curation.stages.embed import Copy, Embed, ImageText
from curation.stages.synthesis import Synthesis
from curation.stages.text import Text
from curation.text import FAST
from curation.workspace import Workspace
from tests.curation.small_workspace import save_workspace
from tests.tiny import save_clip, save_descriptor, save_pool


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_clip(folder / "clip")
    save_descriptor(folder / "copy.pt")
    save_pool(folder / "pool", 3)
    return folder


def findings(home: Path, workspace: Path, copy: str, clip: Path | None = None) -> dict[str, Finding]:
    curation = Curation(
        "patterns",
        concepts=Concepts(words=["squares"]),
        embed=Embed(ImageText(str(clip or home / "clip"), None), Copy(str(home / copy), 24)),
        text=None,
    )
    context = curation.context(workspace, home / "pool", Session(accelerator="cpu"))
    return {finding.subject: finding for finding in examine(context)}


def test_examine__a_machine_that_has_everything(home: Path, tmp_path: Path) -> None:
    found = findings(home, tmp_path / "ws", "copy.pt")
    assert {finding.level for finding in found.values()} <= {"ok", "info", "note"}
    assert found["embed"] == Finding("ok", "embed", "settings, files and models are here")
    assert found["images"].text == "not indexed yet"
    assert not (tmp_path / "ws").exists()  # it looks, and makes nothing


def test_examine__names_what_is_missing_and_goes_on(home: Path, tmp_path: Path) -> None:
    found = findings(home, tmp_path / "ws", "sscd_disc_mixup.torchscript.pt")  # a path to where no file is
    assert found["embed"].level == "fail" and "curation.embed.copy.model" in found["embed"].text
    assert found["ood"].level == "ok"
    weights = found["weights"].text
    assert "curation.embed.copy.model: sscd_disc_mixup, MIT, 0.1 GB, from https" in weights


def test_examine_weights__names_the_file_that_is_used(home: Path, tmp_path: Path) -> None:
    path = save_descriptor(tmp_path / "sscd_disc_large.torchscript.pt")
    text = findings(tmp_path, tmp_path / "ws", path.name, clip=home / "clip")["weights"].text
    assert "curation.embed.copy.model: sscd_disc_large, MIT" in text and f", here: {path}" in text


def test_examine_weights__of_clipn_and_fast(tmp_path: Path) -> None:
    embed = Embed(clipn=ImageText("ViT-B-16", "clipn.pt"))
    curation = Curation("food", concepts=Concepts(words=["soup"]), embed=embed, text=Text(FAST()))
    context = curation.context(tmp_path / "ws", None, Session(accelerator="cpu"))
    texts = {finding.text.partition(":")[0]: finding.text for finding in examine_weights(context)}
    assert "CLIPN, MIT" in texts["curation.embed.clipn.pretrained"]
    assert "sscd_disc_mixup, MIT, 0.1 GB, from https" in texts["curation.embed.copy.model"]
    detector = texts["curation.text.detector.model"]
    assert "Apache 2.0, from https://github.com/czczup/FAST/releases" in detector and "T-MARS" in detector


def test_examine_disk__too_small_for_the_plan(tmp_path: Path) -> None:
    assert examine_disk(tmp_path / "not" / "yet", None).level == "ok"
    assert examine_disk(tmp_path, 1e-3).level == "ok"
    full = examine_disk(tmp_path, 1e9)
    assert full.level == "fail" and "the plan takes about 1000000000" in full.text


def test_examine_store__files_that_are_gone_or_cut(tmp_path: Path) -> None:
    space = save_workspace(tmp_path)
    (tmp_path / "pool").mkdir()
    for name in space.index["key"].to_pylist():
        (tmp_path / "pool" / name).write_bytes(bytes(10))
    assert [finding.level for finding in examine_store(Workspace(tmp_path))] == ["ok"]
    (tmp_path / "pool" / "a.jpg").unlink()
    (tmp_path / "pool" / "b.jpg").write_bytes(bytes(9))
    texts = sorted(finding.text for finding in examine_store(Workspace(tmp_path)) if finding.level == "fail")
    assert len(texts) == 2
    assert "a.jpg cannot be read (No such file or directory)" in texts[0]
    assert "b.jpg was cut: 9 bytes, the index knows of 10" in texts[1]


def test_examine_weights__names_the_commit_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--sd2-community--stable-diffusion-2-1"
    commit = "5cae40e6a2745ae2b01ad92ae5043f95f23644d6"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "model_index.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    curation = Curation("food", concepts=Concepts(words=["soup"]), synthesis=Synthesis())
    context = curation.context(tmp_path / "ws", None, Session(accelerator="cpu"))
    text = next(finding.text for finding in examine_weights(context) if "synthesis" in finding.text)
    assert "in the cache at commit 5cae40e6a274" in text
