import csv
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pas_train.comparison.command import compare
from tests.pas_train.comparison.made import paper, result, write

ROOT = Path(__file__).resolve().parents[3]


class Reader(HTMLParser):
    """Collects what a page refers to and which tags it leaves open."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.sources += [str(known[key]) for key in ("src", "href") if key in known]
        self.ids |= {str(known["id"])} if "id" in known else set()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_compare__writes_all_files_and_prints_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = paper(tmp_path / "runs", names=("knn", "linear"))
    compare("compare", [str(folder), "--out", str(tmp_path / "out"), "--baseline", "imagenet-1k"])
    told = capsys.readouterr().out
    assert "k-NN, top-1 accuracy in %" in told and f"page        {tmp_path / 'out' / 'index.html'}" in told
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "tables.md", "tables.csv", "tables.tex", "accuracy-over-size.png", "accuracy-over-size.svg",
        "knn-over-images.png", "knn-over-images.svg", "index.html",
    }  # fmt: skip
    assert "mean_per_class" in (tmp_path / "out" / "tables.csv").read_text()


def test_compare__the_page_stands_alone(tmp_path: Path) -> None:
    name = "<b>pas & 'f'</b>"
    write(tmp_path / "runs", result(name, names=("knn", "fewshot1", "logme")))
    write(tmp_path / "runs", result("other", names=("knn", "fewshot1", "logme"), screened=False))
    compare("compare", [str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--allow-unscreened"])
    text = (tmp_path / "out" / "index.html").read_text()
    page = Reader()
    page.feed(text)
    assert not page.open and name not in text
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert {source[1:] for source in page.sources if source.startswith("#")} <= page.ids
    assert "‡ Curated here, but not screened" in text


def test_compare__shows_the_metric_and_the_parts_that_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for backbone in ("resnet18", "resnet50"):
        write(tmp_path / "runs", result(backbone=backbone))
    more = ["--metric", "mean_per_class", "--split-by", "backbone", "--protocol", "knn", "--data-set", "food-101"]
    compare("compare", [str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *more])
    told = capsys.readouterr().out
    assert "k-NN · ResNet-18, mean accuracy per class in %" in told and "k-NN · ResNet-50" in told
    assert "Linear" not in told and "foodx-251" not in told


def test_compare__masks_and_boxes_stand_beside_accuracies_of_any_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    paper(tmp_path / "runs", seeds=1, names=("knn", "segmentation", "detection"))
    compare("compare", [str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--metric", "top5"])
    told = capsys.readouterr().out
    assert "k-NN, top-5" in told and "food-101 mIoU" in told and "food-101 AP75" in told
    records = list(csv.DictReader(io.StringIO((tmp_path / "out" / "tables.csv").read_text())))
    known = [(record["data_set"], record["figure"], record["metric"], record["row"]) for record in records]
    assert len(set(known)) == len(known) and {"top1", "miou", "macc", "map75"} <= {metric for _, _, metric, _ in known}
    page = (tmp_path / "out" / "index.html").read_text()
    assert re.search(r"Best on food-101, Semantic segmentation</span><b>\d+\.\d % mIoU</b>", page)
    compare("compare", [str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--protocol", "detection"])
    assert "k-NN" not in capsys.readouterr().out.partition("compared")[0]


def test_compare__imports_no_torch(tmp_path: Path) -> None:
    paper(tmp_path / "runs", seeds=1, names=("knn", "ncti"))
    code = (
        "import sys\nfrom pas_train.__main__ import main\n"
        f"status = main(['compare', {str(tmp_path / 'runs')!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        "heavy = {'torch', 'lightning', 'jsonargparse', 'pandas', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'{heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_compare__refusals_are_one_message(tmp_path: Path) -> None:
    write(tmp_path, result("a"))
    write(tmp_path, result("b", k=20))
    done = subprocess.run(
        [sys.executable, "-m", "pas_train", "compare", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("pas_train: error: results of different protocols:\n- food-101: knn.k is 1 in")
