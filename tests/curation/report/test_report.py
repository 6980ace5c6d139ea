import csv
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont

from curation.report import ReportSettings, write_report
from curation.report.tables import backbones, training_runs
from curation.screening import write_certificate
from curation.workspace import Workspace, write_part
from datamodules.files import write_json
from datamodules.indexing import index_pool

STRANGE = "z<b>&\"'.png"


def draw(path: Path, seed: int, word: str = "") -> None:
    noise = np.random.default_rng(seed).integers(40, 200, (4, 4, 3), np.uint8)
    image = Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)
    ImageDraw.Draw(image).text((4, 20), word, fill=(255, 255, 255), font=ImageFont.load_default(size=14))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


class Maker:
    """Writes a workspace stage by stage, in the layout that the pipeline writes."""

    def __init__(self, root: Path) -> None:
        names = [f"{number:02d}.png" for number in range(11)] + [STRANGE]
        for number, name in enumerate(names):
            draw(root / "pool" / name, number, "pizza" if number == 5 else "")
        (root / "pool" / "broken.png").write_bytes(b"no image")
        draw(root / "tests" / "a" / "leaked.png", 2)
        self.space = Workspace(root / "workspace")
        index = index_pool(root / "pool")
        self.keys = index["key"].combine_chunks()
        index = index.set_column(1, "source", pa.array(["synthetic"] + ["real"] * (len(self.keys) - 1)))
        self.space.write_index(index, {"pool": root / "pool"})
        self.tests = root / "tests"
        self.every = np.arange(len(self.keys))
        self.readable = np.array([key.as_py() != "broken.png" for key in self.keys])
        self.rows = self.every[self.readable]
        self.finish("index")
        write_json(self.space.root / "workspace.json", {"domain": "food & <drink>", "pool": "/data/pool"})

    def finish(self, stage: str, result: dict[str, Any] | None = None, **record: Any) -> None:
        record = {"stage": stage, "fingerprint": "f" * 16, "seconds": 1.5, "summary": f"{stage} is done",
                  "settings": {}, "models": {}, "result": result or {}, "print": {"reads": {}}, **record}  # fmt: skip
        write_json(self.space.stage_folder(stage) / "stage.json", record)

    def part(self, stage: str, rows: np.ndarray, **columns: Any) -> None:
        write_part(self.space.stage_folder(stage), 0, rows, self.keys, columns, {})

    def ingest(self) -> None:
        reasons = [None if readable else "not_an_image" for readable in self.readable]
        self.part("ingest", self.every, readable=self.readable, reason=pa.array(reasons, pa.string()))
        self.finish("ingest")

    def embed(self) -> None:
        model = {"name": "tiny-clip", "files": {"w.pt": "ab" * 32}, "stand_in": True}
        self.finish("embed", models={"image_text": model, "copy": {"name": "sscd.pt", "files": {"sscd.pt": "cd" * 32}}})

    def leakage(self) -> None:
        leaks = self.rows == 2
        similarity = np.where(leaks, 0.91, 0.1).astype(np.float32)
        origin = ["food & drink/a/leaked.png"] * len(self.rows)
        self.part("leakage", self.rows, leak_similarity=similarity, leaks_from=origin, leaks=leaks)
        self.certificate()
        self.finish("leakage", {"tests": [str(self.tests)]}, settings={"threshold": 0.45})

    def certificate(self) -> None:
        """What the stage leaves beside its columns."""
        tests = Workspace(self.space.stage_folder("leakage") / "tests")
        index = index_pool(self.tests, "food & drink")
        tests.write_index(index, {"food & drink": self.tests})
        keys = index["key"].combine_chunks()
        rows = np.arange(len(keys))
        write_part(tests.stage_folder("ingest"), 0, rows, keys, {"sha256": ["ab"], "readable": [True]}, {})
        for stage in ("index", "ingest"):
            write_json(tests.stage_folder(stage) / "stage.json", {"fingerprint": "f"})
        settings = {"threshold": 0.45, "descriptor": {"name": "/here/sscd.pt"}, "score_normalisation": None,
                    "whole_groups": False}  # fmt: skip
        write_certificate(self.space.stage_folder("leakage"), tests, {"food & drink": "/there"}, settings)

    def duplicates(self) -> None:
        copies = np.isin(self.rows, [7, 8])
        groups = np.where(copies, 6, self.rows)
        copy_of = pa.array(["06.png" if copy else None for copy in copies], pa.string())
        self.part("duplicates", self.rows, duplicate_group=groups, duplicate_of=copy_of)
        self.finish("duplicates")

    @property
    def left(self) -> np.ndarray:
        return self.rows[~np.isin(self.rows, [2, 7, 8])]

    def text(self) -> None:
        boxes: list[list[list[int]]] = [[[4, 20, 44, 20, 44, 36, 4, 36]] if row == 5 else [] for row in self.left]
        area = np.where(self.left == 5, 0.16, 0).astype(np.float32)
        self.part("text", self.left, text_area=area, text_boxes=pa.array(boxes, pa.list_(pa.list_(pa.int32()))))
        self.finish("text", settings={"strength": 0.5})

    def ood(self) -> None:
        scores = np.linspace(0.9, 0.1, len(self.left)).astype(np.float32)
        gap = np.where(self.left == 5, 0.25, 0).astype(np.float32)
        self.part("ood", self.left, ood=scores, ood_general=scores[::-1], text_gap=gap,
                  concept=["<pizza>"] * len(self.left), concept_similarity=scores)  # fmt: skip
        self.finish("ood")

    def select(self, quota: tuple[int, ...] = ()) -> None:
        count, total = len(self.left), len(self.keys)
        front, rank, keep = np.full(total, -1), np.full(total, -1), np.zeros(total, bool)
        front[self.left], rank[self.left] = np.arange(count) // 2, np.arange(count)
        keep[self.left] = np.arange(count) >= 4
        reasons = np.full(total, "pareto", object)
        reasons[~self.readable], reasons[2], reasons[[7, 8]], reasons[keep] = "unreadable", "leak", "duplicate", None
        keep[list(quota)], reasons[list(quota)] = False, "quota"
        columns = {"front": pa.array(front, mask=front < 0), "removal_rank": pa.array(rank, mask=rank < 0)}
        self.part("select", self.every, **columns, keep=keep, drop_reason=pa.array(reasons, pa.string()))
        reads = dict.fromkeys(("ingest", "leakage", "duplicates", "text", "ood"), "f" * 16)
        result = {"knees": [4, 2, None], "cut": 4, "kept": int(keep.sum()), "target_size": None}
        self.finish("select", result, print={"reads": reads})

    def training(self) -> None:
        folder = self.space.root / "training" / "mocov3-full-0123"
        folder.mkdir(parents=True)
        with open(folder / "metrics.csv", "w", newline="") as file:
            csv.writer(file).writerow(["epoch", "step", "train/loss", "val/knn_top1"])
            csv.writer(file).writerows([[0, 9, 3.5, ""], [0, 9, "", 0.5], [1, 19, 2, ""]])
        figures = {
            "trained": {"knn": {"top1": 0.75}},
            "untrained": {"knn": {"top1": 0.5}},
            "pixels": {"knn": {"top1": 0.25}},
        }
        evaluation = {"fruits": figures, "birds": {"trained": {"knn": {"top1": 0.5}}}}
        screening = {"fruits": {"screened": True}, "birds": {"screened": False}}
        write_json(folder / "results.json", {"run": "r", "screening": screening, "evaluation": evaluation})
        answer = {"images": 13, "leaks": {"planted": 4, "found": 3}, "auroc": {"ood": {"all": 0.98765, "words": None}},
                  "broken": {"total": 2, "by_case": {"empty": {"empty": 1}, "cut": {"truncated": 1}}}}  # fmt: skip
        write_json(self.space.root / "columns" / "answer.json", answer)

    def all(self) -> Workspace:
        for stage in ("ingest", "embed", "leakage", "duplicates", "text", "ood", "select", "training"):
            getattr(self, stage)()
        return self.space


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', page, re.S)
    assert found is not None
    return found[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a finished workspace."""
    return write_report(Maker(tmp_path_factory.mktemp("finished")).all().root)


def test_write_report__finished_workspace_shows_every_section(finished: Path) -> None:
    assert finished.parts[-3:] == ("workspace", "report", "index.html")
    page = finished.read_text()
    assert page.count("<section") == page.count("</section>") == 13
    assert "Left out by the configuration" in section(page, "retrieved")
    assert "Not run yet" not in page
    cells = re.findall(
        r"<td>(collected|readable|not leaking|unique|kept)</td>(.*?)<td class=\"bar", section(page, "funnel")
    )
    counts = {step: [int(number) for number in re.findall(r">(\d+)<", rest)][:3] for step, rest in cells}
    assert counts == {"collected": [12, 1, 13], "readable": [11, 1, 12], "not leaking": [10, 1, 11],
                      "unique": [8, 1, 9], "kept": [5, 0, 5]}  # fmt: skip
    assert section(page, "kept").count("<img") == 5
    assert "not an image" in section(page, "unreadable") and "broken.png" in section(page, "unreadable")
    assert "similarity 0.910" in section(page, "leaks") and "not reachable" not in section(page, "leaks")
    assert "3 images" in section(page, "duplicates") and section(page, "duplicates").count("<img") == 3
    assert section(page, "text").count("<img") == 2 and "16 % of the area · score +0.250" in section(page, "text")
    assert [f"Front {n}" in section(page, "domain") for n in (1, 2, 5, 10)] == [True, True, True, False]
    assert "image/svg+xml" in section(page, "selection") and "image/svg+xml" in section(page, "scores")
    titles = re.findall(r"<h3>(.*?)</h3>", section(page, "answer"))
    assert [title.split(" ")[0] for title in titles] == ["pool", "leaks", "AUROC", "broken", "broken,"]
    assert '<td>ood</td><td class="n">0.988</td><td class="n">–</td>' in section(page, "answer")
    assert "75.0 %" in section(page, "training") and "+25.0" in section(page, "training")
    assert "image/svg+xml" in section(page, "training")
    assert "<td>fruits</td>" in section(page, "training")
    assert re.findall(r"<td>birds <span[^>]*>not screened</span></td>", section(page, "training"))


def test_write_report__shows_the_leakage_certificate(finished: Path) -> None:
    page = section(finished.read_text(), "leaks")
    assert "All 12 images were compared" in page and "by sscd.pt; 1 are over" in page
    row = re.findall(r"<td>food &amp; drink</td>(.*?)<td><code>([0-9a-f]{16})</code>", page)
    assert len(row) == 1 and re.findall(r">(\d+)<", row[0][0]) == ["1", "0", "1"]
    assert "0.4: 1, 0.45: 1, 0.5: 1" in page and "0.9: 1" in page
    assert "/here" not in page and "/there" not in page


def test_write_report__is_self_contained_and_escaped(finished: Path) -> None:
    page = finished.read_text()
    assert not re.search(r"<(link|script|iframe)|src=\"(?!data:)|href=\"(?!#)|url\(", page)
    assert "z<b>" not in page and "<pizza>" not in page and "<drink>" not in page
    assert "food &amp; &lt;drink&gt;" in page and "z&lt;b&gt;&amp;&#34;&#39;.png" in page


def test_write_report__marks_stand_ins(finished: Path) -> None:
    page = finished.read_text()
    assert "Made with stand-in models" in page
    assert section(page, "how").count(">stand-in<") == 1  # the copy descriptor is the real one


@pytest.mark.parametrize("last", ["nothing", "embed", "leakage", "text", "ood"])
def test_write_report__partly_finished(tmp_path: Path, last: str) -> None:
    maker = Maker(tmp_path)
    for stage in ("ingest", "embed", "leakage", "duplicates", "text", "ood") if last != "nothing" else ():
        getattr(maker, stage)()
        if stage == last:
            break
    page = write_report(maker.space.root).read_text()
    for name in ("kept", "domain", "selection", "training"):
        assert "ot run yet" in section(page, name)
    assert ("Not run yet" in section(page, "leaks")) == (last in ("nothing", "embed"))
    assert ("Not run yet" in section(page, "scores")) == (last in ("nothing", "embed"))
    assert "13" in section(page, "funnel")


def test_write_report__no_index_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run `curate`"):
        write_report(tmp_path)


def test_write_report__lost_images_leave_places(tmp_path: Path) -> None:
    space = Maker(tmp_path).all()
    for path in (tmp_path / "pool").iterdir():
        path.unlink()
    (tmp_path / "tests" / "a" / "leaked.png").write_bytes(b"")
    page = write_report(space.root).read_text()
    assert "image/jpeg" not in page and section(page, "kept").count("not reachable") == 5
    assert section(page, "leaks").count("not reachable") == 2 * 7  # the leak and six below the threshold


def test_write_report__same_bytes_again_and_other_place(finished: Path, tmp_path: Path) -> None:
    other = write_report(finished.parents[1], tmp_path / "elsewhere" / "page.html")
    assert other.read_bytes() == finished.read_bytes()


def test_write_report__settings_bound_the_pictures(tmp_path: Path) -> None:
    space = Maker(tmp_path).all()
    few = replace(ReportSettings(), samples=2, pairs=1, groups=1, per_group=1, per_reason=1, fronts=(1,))
    page = write_report(space.root, tmp_path / "few.html", few).read_text()
    assert section(page, "kept").count("<img") == 2
    assert section(page, "leaks").count("image/jpeg") == 2
    assert "2 more not shown" in section(page, "duplicates")
    assert section(page, "domain").count("<img") == 4  # front 1, last removed, first kept, last of all
    assert page.count("image/jpeg") == 2 + 2 + 1 + 2 + 4


def test_write_report__quotas_and_other_data_sets_are_rows_of_the_funnel(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for stage in ("ingest", "leakage", "duplicates", "text", "ood"):
        getattr(maker, stage)()
    maker.select(quota=(10,))
    for name, rows in (("mini", 2), ("random-3", 3)):
        folder = maker.space.dataset_folder(name)
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"source": ["real"] * (rows - 1) + ["synthetic"]}), folder / "manifest.parquet")
        write_json(folder / "selection.json", {"method": {"kind": "random", "seed": 1}, "size": rows})
    page = write_report(maker.space.root).read_text()
    funnel = section(page, "funnel")
    steps = re.findall(r"<tr><td>(?:<code>)?([a-z0-9 -]+)<.*?<b>([0-9,]+)</b>", funnel)
    assert steps[-4:] == [("in the domain", "5"), ("kept", "4"), ("random-3", "3"), ("mini", "2")]
    assert "removed at random, by a seed, down to 3 images" in funnel
    assert "Over the quota" in section(page, "domain") and "1 more left out by quotas" in section(page, "domain")


def test_write_report__another_method_has_no_fronts_and_no_knees(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for stage in ("ingest", "leakage", "duplicates", "text", "ood", "select"):
        getattr(maker, stage)()
    total = len(maker.keys)
    rank, keep = np.full(total, -1), np.zeros(total, bool)
    rank[maker.left], keep[maker.left[3:]] = np.arange(len(maker.left)), True
    reasons = np.where(keep, "", "random").astype(object)
    reasons[[2, 7, 8]], reasons[keep] = "duplicate", None
    maker.part("select", maker.every, front=pa.nulls(total, pa.int32()), keep=keep,
               removal_rank=pa.array(rank, mask=rank < 0), drop_reason=pa.array(reasons, pa.string()))  # fmt: skip
    record = maker.space.stage_record("select") or {}
    settings = {"method": {"kind": "random", "seed": 1}, "target_size": 6}
    maker.finish("select", {**record["result"], "knees": [None] * 3}, print={**record["print"], "settings": settings})
    page = write_report(maker.space.root).read_text()
    titles = re.findall(r"<h3>(.*?)</h3>", section(page, "domain"))
    assert titles == ["First removed", "Last removed", "First kept", "Last of all"]
    assert "Rule: removed at random, by a seed, down to 6 images." in section(page, "selection")
    assert "<img" not in section(page, "selection") and "removed by the method random" in page


def test_write_report__many_reasons_of_refusal_are_cut_short(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    reasons = [f"server says {number}" for number in maker.every]
    maker.part("ingest", maker.every, readable=np.zeros(13, bool), reason=pa.array(reasons))
    maker.finish("ingest")
    page = write_report(maker.space.root, settings=replace(ReportSettings(), reasons=4)).read_text()
    assert section(page, "unreadable").count("server says") == 4
    assert "9 other reasons" in section(page, "unreadable")


def test_write_report__words_filled_with_the_colour_around_them(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for stage in ("ingest", "embed", "leakage", "duplicates", "text"):
        getattr(maker, stage)()
    models = {"detector": {"name": "FAST-tiny", "sha256": "ef" * 32}}
    maker.finish("text", settings={"fill": "mean", "strength": 0.5}, models=models)
    page = section(write_report(maker.space.root).read_text(), "text")
    assert "words filled" in page and "words blurred" not in page and "found by <code>FAST-tiny</code>" in page


def test_write_report__group_larger_than_k_is_counted_and_shown(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for stage in ("ingest", "leakage", "duplicates"):
        getattr(maker, stage)()
    maker.finish("duplicates", settings={"threshold": 0.6, "k": 2})
    page = section(write_report(maker.space.root).read_text(), "duplicates")
    assert "1 of them larger than 2 images" in page and ">more than 2<" in page
    assert '<td>3 – 4</td><td class="n">1</td><td class="n">3</td>' in page


def test_write_report__files_with_the_same_bytes_make_no_group_larger_than_k(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for stage in ("ingest", "leakage", "duplicates"):
        getattr(maker, stage)()
    same = pa.array(["06.png" if row == 7 else None for row in maker.rows], pa.string())
    maker.part("identical", maker.rows, identical_to=same)
    maker.finish("identical")
    result = {"index": "IVF256,Flat", "recall": 0.9871}
    maker.finish("duplicates", result, settings={"threshold": 0.6, "k": 2})
    page = section(write_report(maker.space.root).read_text(), "duplicates")
    assert "none larger than 2 images" in page and "1 file dropped before any model" in page and "same file" in page
    assert "IVF256,Flat: it finds 98.7 % of the pairs of a sample" in page


def test_write_report__leak_with_its_group_is_told(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for stage in ("ingest", "leakage", "duplicates"):
        getattr(maker, stage)()
    groups, nothing = np.where(maker.rows == 3, 2, maker.rows), pa.nulls(len(maker.rows), pa.string())
    taken = np.isin(maker.rows, [2, 3])
    maker.part("duplicates", maker.rows, duplicate_group=groups, duplicate_of=nothing, leaks_with_group=taken)
    page = section(write_report(maker.space.root).read_text(), "leaks")
    assert "2 images dropped" in page and "similarity 0.100 · leaks with its group" in page
    assert "similarity 0.910<" in page


def test_write_report__scores_by_source_only_where_there_are_both(tmp_path: Path, finished: Path) -> None:
    maker = Maker(tmp_path)
    maker.space.write_index(maker.space.index.set_column(1, "source", pa.array(["real"] * 13)), maker.space.roots)
    page = write_report(maker.all().root).read_text()
    titles = [re.findall(r"<h3>(.*?)</h3>", section(text, "scores")) for text in (finished.read_text(), page)]
    assert titles == [["Kept and dropped", "Real and synthetic"], ["Kept and dropped"]]


def test_report__imports_no_torch() -> None:
    code = "import sys, curation.report; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_backbones__the_start_only_where_a_training_began_with_given_weights(tmp_path: Path) -> None:
    def columns(name: str, figures: dict[str, Any]) -> list[str]:
        write_json(tmp_path / "training" / name / "results.json", {"evaluation": {"fruits": figures}})
        return list(backbones(training_runs(tmp_path)))

    trained = {"trained": {"knn": {"top1": 0.75}}}
    assert columns("random", trained) == ["pixels", "untrained", "trained"]
    assert columns("given", {**trained, "start": {"knn": {"top1": 0.5}}}) == ["pixels", "untrained", "start", "trained"]


def test_accuracies__of_all_protocols_and_published_backbones(tmp_path: Path) -> None:
    judged = {
        "trained": {"knn": {"top1": 0.75}, "fewshot5": {"top1": 0.5}, "logme": {"score": 1.25},
                    "segmentation": {"miou": 0.5, "macc": 0.75}},
        "untrained": {"knn": {"top1": 0.5}, "segmentation": {"miou": 0.25, "macc": 0.5}},
        "timm:resnet50": {"knn": {"top1": 0.8}, "ncti": {"ncc": 1.0}},
    }  # fmt: skip
    told = {"timm:resnet50": {"title": "resnet50"}}
    write_json(tmp_path / "training" / "one" / "results.json", {"evaluation": {"fruits": judged}, "backbones": told})
    runs = training_runs(tmp_path)
    assert backbones(runs) == {
        "pixels": "raw pixels", "untrained": "untrained", "timm:resnet50": "resnet50", "trained": "trained",
    }  # fmt: skip
    assert [(row["protocol"], row["cells"], row["gain"]) for row in runs[0].accuracies] == [
        ("k-NN", {"trained": "75.0 %", "untrained": "50.0 %", "timm:resnet50": "80.0 %"}, 25.0),
        ("5 images a class", {"trained": "50.0 %"}, None),
        ("LogME", {"trained": "1.250"}, None),
        ("segmentation, mIoU", {"trained": "50.0 %", "untrained": "25.0 %"}, 25.0),
    ]
