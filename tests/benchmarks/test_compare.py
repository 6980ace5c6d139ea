"""`compare` over 200 runs, start of the program included: under 5 s (processor time: others may be at work here)."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from tests.pas_train.comparison.made import PAPER, result, write

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 5.0
SETS = (*PAPER, ("uncurated", 5_000_000, 0.5, False), ("half", 600_000, 0.58, True), ("quarter", 300_000, 0.51, True),
        ("imagenet-21k", 14_000_000, 0.66, False), ("food-500", 400_000, 0.57, False),
        ("tenth", 120_000, 0.45, True))  # fmt: skip
RECIPES = (("MoCoV3", "vit_base_patch16_224"), ("MoCoV3", "resnet50"), ("NNCLR", "resnet18"), ("NNCLR", "resnet50"))
FIGURES = ("knn", "linear", "finetune", "linear_images", "fewshot1", "fewshot5", "fewshot10", "knn10", "knn20",
           "knn100", "knn200", "logme", "ncti")  # fmt: skip


@pytest.mark.benchmark
def test_compare__200_runs(tmp_path: Path) -> None:
    for name, images, top1, curated in SETS:
        for method, backbone in RECIPES:
            for seed in range(5):
                content = result(
                    name, seed, top1, images=images, curated=curated, screened=curated, method=method,
                    backbone=backbone, names=FIGURES, data_sets=("food-101", "foodx-251", "food-2k", "grocery"),
                )  # fmt: skip
                write(tmp_path / "runs" / name, content)
    line = [sys.executable, "-m", "pas_train", "compare", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    # Byte code is there, as it is from the second start of an installed program on.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    taken = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
        after = os.times()
        taken.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert "200 results" in done.stdout
    print(f"\ncompare, 200 runs of 13 figures on 4 sets: {median(taken):.1f} s")
    assert median(taken) < LIMIT_S
