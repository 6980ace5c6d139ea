import re
from pathlib import Path

import pytest
import yaml

from curation.card import current_data_sets, size_category, write_card
from curation.card_text import selected
from curation.ledger import read_ledger
from curation.manifest import write_manifest
from curation.workspace import Workspace
from datamodules.files import read_json, sha256_file, write_json
from tests.curation.small_workspace import finish, save_workspace


def curated(root: Path, domain: str = "food") -> Workspace:
    """The small workspace with its data set: one real image and two synthetic ones, of which one is kept."""
    space = save_workspace(root)
    write_json(space.root / "workspace.json", {"domain": domain})
    model = {"name": "ViT-L-14", "pretrained": "openai", "files": {"w.pt": "ab" * 32}}
    finish(space, "embed", models={"image_text": model, "copy": {"name": "/here/x.pt", "files": {}, "stand_in": True}})
    ledger = read_ledger(space)
    write_manifest(ledger, ledger["keep"].to_numpy(), space.dataset_folder(), space.roots)
    return space


def row(page: str, name: str) -> list[str]:
    found = re.search(rf"^\| {name} \|(.*)\|$", page, re.M)
    assert found is not None, page
    return [cell.strip() for cell in found[1].split("|")]


def test_write_card__counts_by_source_and_names_every_rule(tmp_path: Path) -> None:
    page = write_card(curated(tmp_path)).read_text()
    assert row(page, "collected") == ["6", "2", "8"]
    assert row(page, "unique") == ["3", "1", "4"]
    assert row(page, "in this data set") == ["2", "1", "3"]
    assert [row(page, reason)[-2:] for reason in ("unreadable", "not retrieved", "leak", "duplicate")] == [
        ["1", "0"], ["1", "0"], ["1", "0"], ["0", "1"]]  # fmt: skip
    assert row(page, "selection")[-2:] == ["1", "0"]
    assert row(page, "image-text encoder")[:2] == ["ViT-L-14 · openai", "MIT"]
    assert row(page, "copy descriptor")[:2] == ["x.pt", "stand-in"]
    assert "**Made with stand-in models** (copy descriptor)" in page
    assert str(tmp_path) not in page and "/here" not in page


def test_write_card__another_size_counts_its_own_rows(tmp_path: Path) -> None:
    space = curated(tmp_path)
    ledger = read_ledger(space)
    write_manifest(ledger, ledger["removal_rank"].to_numpy() >= 3, space.dataset_folder("mini"), space.roots)
    write_json(space.dataset_folder("mini") / "selection.json", {"method": "pareto", "size": 1})
    page = write_card(space, "mini").read_text()
    assert row(page, "in this data set") == ["1", "0", "1"] and row(page, "selection")[-2:] == ["2", "1"]
    assert "down to 1 images" in row(page, "selection")[0]
    assert yaml.safe_load(page.split("---")[1])["pretty_name"] == "food, mini"


def test_write_card__same_bytes_while_selection_is_at_work_and_the_manifest_stays(tmp_path: Path) -> None:
    space = curated(tmp_path)
    before = sha256_file(space.manifest())
    page = write_card(space).read_bytes()
    record = read_json(space.stage_folder("select") / "stage.json")
    assert record is not None
    (space.stage_folder("select") / "stage.json").unlink()
    write_json(space.stage_folder("select") / "begun.json", {"settings": {}, **record["print"]})
    assert write_card(space).read_bytes() == page
    assert sha256_file(space.manifest()) == before and before.encode() in page


@pytest.mark.parametrize("domain", ['say "cheese": #1', "a\nb | <c> *d* `e`", "---", "é日本 \U0001f355"])
def test_write_card__strange_domain_keeps_front_matter_and_tables(tmp_path: Path, domain: str) -> None:
    page = write_card(curated(tmp_path, domain)).read_text()
    matter = yaml.safe_load(re.split(r"^---$", page, flags=re.M)[1])
    assert matter["pretty_name"] == domain and domain in matter["tags"]
    assert matter["configs"][0]["data_files"] == [{"split": "train", "path": "manifest.parquet"}]
    assert len(re.findall(r"^# .+$", page, re.M)) == 1 and "<c>" not in page.split("---", 2)[2]


def test_write_card__loads_as_a_data_set_and_not_as_another_of_its_name(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    spaces = [curated(tmp_path / name) for name in ("one", "two")]
    ledger = read_ledger(spaces[1])
    write_manifest(ledger, ledger["removal_rank"].to_numpy() >= 3, spaces[1].dataset_folder(), spaces[1].roots)
    for space, keys in zip(spaces, (["d.jpg", "e.jpg", "f.jpg"], ["f.jpg"]), strict=True):
        folder = write_card(space).parent
        rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        assert list(rows["key"]) == keys


def test_write_card__no_data_set_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no data set 'mini'; run `curate` or `select`"):
        write_card(curated(tmp_path), "mini")


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        ({}, "the furthest from the domain first, up to the largest of the three knees"),
        ({"method": {"kind": "one_score", "score": "ood"}, "size": 1200},
         "the highest of one score removed first (ood), down to 1,200 images"),
        ({"method": {"kind": "clip_score", "threshold": 0.2}}, "removed first, with the threshold 0.2"),
        ({"method": None, "target_size": 5, "quotas": {"per_concept_max": 2, "synthetic_share": 0.5}},
         "down to 5 images; at most 2 images of a concept; at most 50 % synthetic"),
        ({"method": {"kind": "mine"}}, "removed in the order of the method mine"),
    ],
)  # fmt: skip
def test_selected__says_the_method_its_cut_and_the_quotas(selection: dict, text: str) -> None:
    assert selected(selection).endswith(text)


def test_current_data_sets__only_those_of_the_present_selection(tmp_path: Path) -> None:
    space = curated(tmp_path)
    checksum = sha256_file(space.manifest())
    record = read_json(space.stage_folder("select") / "stage.json") or {}
    write_json(space.stage_folder("select") / "stage.json", {**record, "result": {"manifest_sha256": checksum}})
    for name, parent in (("mini", checksum), ("old", "0" * 64)):
        write_json(space.dataset_folder(name) / "selection.json", {"parent": parent})
    assert current_data_sets(space) == ["full", "mini"]
    (space.stage_folder("select") / "stage.json").unlink()
    assert current_data_sets(space) == []


def test_size_category__boundaries() -> None:
    names = [size_category(images) for images in (0, 999, 1000, 9_999, 1_200_000, 10**12)]
    assert names == ["n<1K", "n<1K", "1K<n<10K", "1K<n<10K", "1M<n<10M", "1B<n<10B"]
