import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from curation.copy_descriptors import CopyDescriptor
from curation.encoders import ImageTextEncoder
from curation.known_weights import KNOWN, find_file, known, named_models, verify_file
from curation.stages.embed import Copy, Embed, ImageText
from curation.stages.ood import Ood
from curation.stages.text import Text
from curation.text import FAST


def test_known__by_the_names_of_the_yaml_and_by_file_name() -> None:
    assert known("ViT-L-14/openai").licence == "MIT"
    assert known("/models/sscd_disc_mixup.torchscript.pt").role == "copy descriptor"
    assert known("sscd_disc_large").dim == 1024 and known("sscd_disc_large.torchscript.pt").name == "sscd_disc_large"
    assert known("weights/fast_tiny_tt_512_finetune_ic17mlt.pth").role == "text detector"
    assert known("my-own-model") is None


@pytest.mark.parametrize("entry", KNOWN, ids=lambda entry: entry.name)
def test_known__every_entry_says_where_it_comes_from(entry) -> None:
    assert entry.source.startswith("https://") and entry.licence
    assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert entry.gigabytes is None or 0.05 < entry.gigabytes < 200


def test_find_file__in_the_current_folder_then_in_torchs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert find_file("sscd_disc_blur") is None and find_file("other.pt") is None
    cached = tmp_path / "cache/torch/hub/checkpoints/sscd_disc_blur.torchscript.pt"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"")
    assert find_file("sscd_disc_blur") == find_file("sscd_disc_blur.torchscript.pt") == cached
    Path("sscd_disc_blur.torchscript.pt").write_bytes(b"")
    assert find_file("sscd_disc_blur") == Path("sscd_disc_blur.torchscript.pt")
    assert find_file(str(cached)) == cached and find_file(str(tmp_path)) is None  # a path is that file only


def test_verify_file__a_published_name_with_other_bytes_is_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "ViT-L-14.pt"
    damaged.write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"my\.key: .*ViT-L-14\.pt is not the file that its publisher offers"):
        verify_file(damaged, "my.key")
    with pytest.raises(ValueError, match=r"curation\.embed\.image_text\.pretrained: .*Download it again from https"):
        ImageTextEncoder.load("ViT-L-14", str(damaged))
    damaged.rename(tmp_path / "mine.pt")
    verify_file(tmp_path / "mine.pt", "my.key")
    verify_file(tmp_path / "nothing.pt", "my.key")


def test_verify_file__is_asked_for_copy_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(entry for entry in KNOWN if entry.sha256)
    file = tmp_path / entry.source.rpartition("/")[2]
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"curation\.embed\.copy\.model: .* is damaged or another model"):
        CopyDescriptor.load(str(file))


@dataclass
class Generator:
    model: str = "served"
    endpoint: str | None = "http://localhost:1/v1"


@dataclass
class Stage:
    generator: Generator = field(default_factory=Generator)
    checker: Generator = field(default_factory=lambda: Generator("local", None))
    other: Generator | None = None


def test_named_models__of_nested_settings() -> None:
    embed = Embed(clipn=ImageText("ViT-B-16", "laion2b_s34b_b88k"))
    assert list(named_models(embed, "curation.embed")) == [
        ("curation.embed.image_text.model", "ViT-L-14/openai"),
        ("curation.embed.copy.model", "sscd_disc_mixup"),
        ("curation.embed.clipn.model", "ViT-B-16/laion2b_s34b_b88k"),
    ]
    assert list(named_models(Ood(no_branch="no.pt"), "curation.ood")) == [("curation.ood.no_branch", "no.pt")]
    embed = Embed(copy=Copy("timm:resnet50"), clipn=ImageText("ViT-B-16", "clipn.pt"))
    assert list(named_models(embed, "curation.embed"))[1:] == [
        ("curation.embed.copy.model", "timm:resnet50"), ("curation.embed.clipn.pretrained", "clipn.pt"),
    ]  # fmt: skip
    assert list(named_models(Text(FAST()), "curation.text")) == [
        ("curation.text.detector.model", "fast_tiny_tt_512_finetune_ic17mlt.pth")
    ]
    assert list(named_models(Stage(), "x")) == [("x.checker.model", "local")]  # what an endpoint serves is elsewhere
