"""The command `analyse`, from two sets with a planted difference to its page."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pas_train.__main__ import main
from pas_train.analysis.densities import overlap, umap_together
from pas_train.analysis.embedding import choose
from pas_train.analysis.sets import read_sets
from tests.pas_train.analysis.curated_set import save_workspace
from tests.pas_train.planted import save_set
from tests.tiny import save_clip


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says that ends with an error, in one line."""
    with pytest.raises(SystemExit) as end:
        main(["analyse", *map(str, arguments)])
    assert end.value.code
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain and plain-too hold the same, checked a pattern in every other picture; class folders a and b."""
    home = tmp_path_factory.mktemp("sets")
    save_set(home / "plain", 60, 0, names="ab")
    save_set(home / "plain-too", 60, 2, names="ab")
    save_set(home / "checked", 60, 1, planted=True, names="ab", whole=True)
    save_set(home / "asked", 40, 3, planted=True, names="ab", whole=True)
    (home / "labels.txt").write_text("a\nApple_pie\n")
    save_clip(home / "clip")
    return home


def test_analyse__shows_the_planted_difference(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("umap")
    given = [str(sets / name) for name in ("plain", "plain-too", "checked")]
    models = ["--embeddings", "random:resnet18", "--image-size", "32", "--texts", str(sets / "clip"), "--workers", "0"]
    labels = ["--labels", f"mine={sets / 'labels.txt'}", "--queries", str(sets / "asked")]
    assert main(["analyse", *given, "--out", str(tmp_path), *models, *labels, "--device", "cpu"]) == 0
    result = json.loads((tmp_path / "analysis.json").read_text())
    shared = {(first, second): value for first, second, value in result["images_map"]["overlap"]}
    same = shared["plain", "plain-too"]
    assert same > max(shared["plain", "checked"], shared["plain-too", "checked"]) + 0.1
    # In `checked` all pictures of class a hold the pattern: only a bank that has it, too, can tell the classes.
    bank = {name: figures["knn"] for name, figures in result["bank"]["sets"].items()}
    assert bank["checked"] > 0.9 > max(bank["plain"], bank["plain-too"])
    (covered, *_) = result["coverage"]
    assert (covered["labels"], covered["same"]) == (2, 0.5)
    with open(tmp_path / "coverage.csv", newline="") as file:
        nearest = {row["label"]: (row["nearest"], float(row["distance"])) for row in csv.DictReader(file)}
    assert nearest["a"] == ("a", 0) and nearest["apple pie"][1] > 0
    page = (tmp_path / "index.html").read_text()
    assert all(title in page for title in ("Sizes and sources", "Lexical coverage", "Map of images", "k-NN classifier"))
    assert page.count("<img") == 3 and "<script" not in page and 'src="http' not in page
    assert all(len(line) <= 118 for line in capsys.readouterr().out.splitlines())


def test_analyse__stored_embeddings_need_no_image(tmp_path: Path, sets: Path) -> None:
    pytest.importorskip("umap")
    manifest, _ = save_workspace(tmp_path / "food", model=str(sets / "clip"))
    for image in (tmp_path / "food" / "pool").iterdir():
        image.unlink()
    assert main(["analyse", str(manifest), "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert result["images_map"]["points"] == {"food": 11}
    assert result["left_out"] == ["map of texts: 3 points make none"]
    figures = result["sets"][0]["balance"]
    assert figures["all"]["coverage"] == pytest.approx(2 / 3) and figures["synthetic"]["present"] == 2
    rows = list(csv.DictReader((tmp_path / "out" / "classes.csv").open()))
    assert [(row["class"], row["real"], row["synthetic"]) for row in rows] == [
        ("apple pie", "7", "1"), ("bread", "2", "1"), ("curry", "0", "0"),
    ]  # fmt: skip


def test_choose__says_what_is_missing(tmp_path: Path, sets: Path) -> None:
    import torch

    device = torch.device("cpu")
    plain = read_sets([str(sets / "plain")])
    assert "give --embeddings timm:resnet152" in choose(None, plain, 32, device)
    with pytest.raises(ValueError, match="--embeddings stored: none of the sets"):
        choose("stored", plain, 32, device)
    with pytest.raises(ValueError, match="--embeddings random:resnet19.*close matches"):
        choose("random:resnet19", plain, 32, device)
    with pytest.raises(FileNotFoundError, match="nowhere.ckpt does not exist"):
        choose("nowhere.ckpt", plain, 32, device)
    both = [str(save_workspace(tmp_path / name, model=name)[0]) for name in ("one", "two")]
    with pytest.raises(ValueError, match="one and two were embedded by different models"):
        choose(None, read_sets(both), 32, device)


def test_analyse__errors_name_the_option(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = sets / "plain"
    assert "--images must be at least 1, got 0" in refused(capsys, plain, "--images", 0)
    assert "--labels: labels.txt has no name; write NAME=SOURCE" in refused(capsys, plain, "--labels", "labels.txt")
    assert "unrecognized arguments: --imagess" in refused(capsys, plain, "--imagess", 4)
    (tmp_path / "no.ckpt").write_bytes(b"nothing")
    said = refused(capsys, plain, sets / "checked", "--no-maps", "--protosim", tmp_path / "no.ckpt", "--out", tmp_path)
    assert "--protosim:" in said and "no.ckpt cannot be read as a checkpoint" in said


def test_umap__the_same_seed_gives_the_same_map_and_equal_vectors_lie_on_one_point() -> None:
    pytest.importorskip("umap")
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(40, 6)) + shift for shift in (0, 4)]
    vectors[1][:3] = vectors[0][:3]
    once, again = (umap_together(["a", "b"], vectors, 3) for _ in range(2))
    assert all((one.places == other.places).all() for one, other in zip(once, again, strict=True))
    assert (once[0].places[:3] == once[1].places[:3]).all()
    assert overlap(*once) < 0.35


def test_choose__a_checkpoint_gives_its_trained_backbone(tmp_path: Path, sets: Path) -> None:
    import torch
    import yaml

    from pas_train.methods import MoCoV3
    from tests.pas_train.small_project import BACKBONE

    settings = {"backbone": "resnet18", "backbone_options": BACKBONE, "image_size": 32, "projector_hidden": 8,
                "projector_dim": 4, "mean": [0.5, 0.5, 0.5]}  # fmt: skip
    model, path = MoCoV3(**settings, seed=3), tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": model.state_dict(), "global_step": 1}, path)
    section = {"class_path": "pas_train.methods.MoCoV3", "init_args": settings}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"model": section}))
    embedder = choose(str(path), read_sets([str(sets / "plain")]), 32, torch.device("cpu"))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = torch.nn.functional.normalize(model.eval().backbone(model.normalise(images)), dim=1)
    assert torch.allclose(embedder.embed(images), expected, atol=1e-5)
    assert embedder.prepare(np.zeros((50, 40, 3), np.uint8)).shape == (3, 32, 32)


def test_analyse__a_trained_protosim_compares_other_sets(sets: Path, tmp_path: Path) -> None:
    import torch

    from tests.pas_train.protosim.test_module import made

    model, path = made(), tmp_path / "protosim.ckpt"
    content = {
        "state_dict": model.state_dict(),
        "global_step": 1,
        "hyper_parameters": {**model.hparams, "_class_path": "x"},
    }
    torch.save(content, path)
    given = [str(sets / name) for name in ("plain", "checked")]
    assert (
        main(["analyse", *given, "--out", str(tmp_path), "--no-maps", "--protosim", str(path), "--workers", "0"]) == 0
    )
    found = json.loads((tmp_path / "analysis.json").read_text())["protosim"]
    assert [one["images"] for one in found["sets"]] == [60, 60]
    tokens = found["all_tokens"]
    own = [one["prototypes"] for one in tokens["exclusive"].values()]
    assert tokens["shared"] + sum(own) + tokens["unused"] == found["prototypes"] == 24
    assert "Own by chance" in (tmp_path / "index.html").read_text()
    assert "Against chance" in (tmp_path / "protosim" / "index.html").read_text()
