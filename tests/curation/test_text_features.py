"""Concepts embedded by both text towers and kept on disk."""

from pathlib import Path

import numpy as np
import pytest

import curation.text_features
from curation.clipn import NoBranch
from curation.encoders import ImageTextEncoder, embed_words
from curation.session import Session
from curation.text_features import TextFeatures
from tests.tiny import save_clip

pytest.importorskip("open_clip")
TEMPLATES = ["a {}", "a photo of a {}", "{}"]
WORDS = [f"thing {number}" for number in range(7)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ImageTextEncoder:
    return ImageTextEncoder.load(str(save_clip(tmp_path_factory.mktemp("models") / "clip")))


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curation.text_features, "TEXTS_PER_FILE", 6)  # two concepts
    monkeypatch.setattr(curation.text_features, "TEXTS_PER_PASS", 4)


def embed(store: TextFeatures, encoder: ImageTextEncoder, words: list[str]) -> list[str]:
    missing = store.missing(words)
    store.embed(Session(accelerator="cpu"), encoder, missing, TEMPLATES)
    return missing


def bytes_of(store: TextFeatures) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


def test_text_features__ensembles_of_both_towers(tmp_path: Path, encoder: ImageTextEncoder) -> None:
    store = TextFeatures(tmp_path, {"model": "x"})
    embed(store, encoder, WORDS)
    for found, no in zip(store.read(WORDS[::-1]), (False, True), strict=True):
        np.testing.assert_allclose(found, embed_words(encoder, WORDS, TEMPLATES, no=no)[::-1], atol=1e-6)
        assert found.dtype == np.float32
    assert len(bytes_of(store)) == 4


def test_text_features__new_concepts_alone_are_embedded(tmp_path: Path, encoder: ImageTextEncoder) -> None:
    store = TextFeatures(tmp_path, {"model": "x"})
    assert embed(store, encoder, WORDS[:5]) == WORDS[:5]
    before = bytes_of(store)
    assert embed(store, encoder, ["new", *WORDS[2:], "new"]) == ["new", *WORDS[5:]]
    assert before.items() < bytes_of(store).items()
    fresh = TextFeatures(tmp_path, {"model": "y"})  # another model's folder
    embed(fresh, encoder, ["new", *WORDS])
    assert store.folder != fresh.folder
    for old, new in zip(store.read(["new", *WORDS]), fresh.read(["new", *WORDS]), strict=True):
        np.testing.assert_array_equal(old, new)  # whichever others were embedded with them


def test_text_features__goes_on_where_it_was_stopped(tmp_path: Path, encoder: ImageTextEncoder) -> None:
    store, whole = TextFeatures(tmp_path / "a", {}), TextFeatures(tmp_path / "b", {})
    for each in (store, whole):
        embed(each, encoder, WORDS)
    kept = sorted(store.folder.iterdir())[1]
    time = kept.stat().st_mtime_ns
    for path in store.folder.iterdir():
        if path != kept:
            path.unlink()
    embed(store, encoder, WORDS)
    assert bytes_of(store) == bytes_of(whole) and kept.stat().st_mtime_ns == time


def test_text_features__what_is_not_finite_is_named_and_not_kept(tmp_path: Path) -> None:
    damaged = ImageTextEncoder.load(str(save_clip(tmp_path / "clip")))
    assert isinstance(damaged.no_branch, NoBranch)
    damaged.no_branch.prompt_no.data.fill_(np.inf)
    store = TextFeatures(tmp_path / "store", {})
    with pytest.raises(ValueError, match=r"^curation\.ood: .* concept 'thing 0' by the no tower .*precision .*weights"):
        embed(store, damaged, WORDS)
    assert store.missing(WORDS) == WORDS


def test_text_features__two_ranks_write_the_same_files(tmp_path: Path, encoder: ImageTextEncoder, two_ranks) -> None:
    whole = TextFeatures(tmp_path / "one", {})
    embed(whole, encoder, WORDS)
    store = TextFeatures(tmp_path / "two", {})

    def work(rank: int) -> None:
        session = Session(accelerator="cpu")
        session.start()
        store.embed(session, encoder, WORDS, TEMPLATES)

    two_ranks(work)
    assert bytes_of(store) == bytes_of(whole)
