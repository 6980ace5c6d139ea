"""Small backbones whose names, configs and features were recorded from the libraries of OpenMMLab.

`python -m tests.pas_train.exporting.openmmlab_cases DIR` writes the exports that record_openmmlab.py reads.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pas_train.exporting.registry import target
from pas_train.exporting.source import Source
from pas_train.exporting.target import Target
from pas_train.exporting.verifying import write_proof
from tests.fixtures import record_openmmlab
from tests.pas_train.exporting.small_sources import source, vit

FIXTURE = Path(record_openmmlab.__file__).with_name("openmmlab.json")
CASES = {
    "vit": lambda: vit(depth=4),
    "odd": lambda: vit(depth=5, embed_dim=36, num_heads=3, mlp_ratio=2),
    "resnet18": lambda: source("resnet18", 64, channels=[8, 16, 32, 64]),
    "resnet50": lambda: source("resnet50", 64, channels=[8, 16, 32, 64]),
}
HELD = {
    "mmpretrain": ["vit", "odd", "resnet18"], "mmseg": ["vit", "odd", "resnet18"], "mmdet": ["resnet18", "resnet50"],
}  # fmt: skip


def written(case: str, name: str, folder: Path) -> tuple[Source, Target]:
    """Writes one export, unverified."""
    made, held = target(name), CASES[case]()
    made.check(held)
    folder.mkdir(parents=True, exist_ok=True)
    made.write(held, folder)
    return held, made


def recorded(case: str, name: str) -> dict[str, Any]:
    """What was recorded of a library."""
    content: dict[str, Any] = json.loads(FIXTURE.read_text())[f"{case}-{name}"]
    return content


def assert_as_recorded(case: str, name: str, folder: Path) -> None:
    """Names, shapes and config files are those of the library, and the way back gives what its own model computes."""
    held, made = written(case, name, folder)
    told = recorded(case, name)
    assert {key: list(shape) for key, shape in made.recorded(held).items()} == told["names"]
    for file in (key for key in told if key.endswith(".py")):
        assert (folder / file).read_text() == told[file]
        compile(told[file], file, "exec")
    twin: Any = copy.deepcopy(held.backbone)
    values = {
        key: torch.from_numpy(np.array(record_openmmlab.made(key, shape))) for key, shape in told["names"].items()
    }
    twin.load_state_dict(made.restore(values, held))
    images = torch.from_numpy(record_openmmlab.images(held.image_size))
    found = Source(twin, held.architecture, held.image_size, held.mean, held.std).outputs(images)
    for feature, expected in told["features"].items():
        assert np.allclose(record_openmmlab.kept(found[feature].numpy()), expected, rtol=1e-4, atol=2e-5), feature
        assert np.std(expected) > 0.01


if __name__ == "__main__":
    for name, cases in HELD.items():
        for case in cases:
            out = Path(sys.argv[1], f"{case}-{name}")
            held, made = written(case, name, out)
            write_proof(made, held, out)
            print(out)
