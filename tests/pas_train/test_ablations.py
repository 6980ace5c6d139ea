"""The packaged ablations: each is what a config has, less one step, in a workspace of its own."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pas_train import curated
from pas_train.commands import _parse_curation
from pas_train.configs import FOLDER, resolve_configs

ABLATIONS = sorted(path.stem for path in (FOLDER / "ablations").glob("*.yaml"))
OFFLINE = ("eighth", "half", "no-duplicates", "no-ood", "no-ood-general", "no-text-gap", "quarter", "real-only")


def parsed(config: str, *ablation: str) -> tuple[dict[str, Any], Path]:
    """(what the pipeline's stages are, by their fields; where it lies)."""
    files = [config, *(f"ablations/{name}.yaml" for name in ablation)]
    args = resolve_configs([part for file in files for part in ("--config", file)])
    options, curation, _ = _parse_curation(args, "")
    own = {name: getattr(curation, name) for name in ("concepts", "duplicates", "select", "ood", "text", "synthesis")}
    return own, curated.workspace_path(options.workspace, curation.domain, curation.variant)


@pytest.mark.parametrize(("config", "folder"), [("food.yaml", "runs/food"), ("quickstart.yaml", "runs/quickstart")])
def test_ablations__change_one_step_each(config: str, folder: str) -> None:
    whole, place = parsed(config)
    assert place == Path(folder) and parsed(config, "full") == (whole, place)
    for name in ABLATIONS if config == "food.yaml" else OFFLINE:
        if name == "full":
            continue
        own, beside = parsed(config, name)
        assert beside == Path(f"{folder}-{name}")
        step = {"no-expansion": "concepts", "no-check": "concepts", "no-duplicates": "duplicates"}.get(name, "select")
        assert {part for part in whole if own[part] != whole[part]} == {step}, name


def test_ablations__switch_off_what_their_name_says() -> None:
    discover = {name: parsed("birds.yaml", name)[0]["concepts"].discover for name in ("no-expansion", "no-check")}
    assert discover["no-expansion"].max_rounds == 0 and discover["no-expansion"].checker is not None
    assert discover["no-check"].checker is None and discover["no-check"].max_rounds > 0
    select = {name: parsed("food.yaml", name)[0].get("select") for name in ABLATIONS}
    assert {name: select[name].share for name in ("half", "quarter", "eighth")} == {
        "half": 0.5, "quarter": 0.25, "eighth": 0.125,
    }  # fmt: skip
    for name, score in (("no-ood", "ood"), ("no-ood-general", "ood_general"), ("no-text-gap", "text_gap")):
        assert {*select[name].scores, score} == {"ood", "ood_general", "text_gap"} and score not in select[name].scores
    assert select["real-only"].sources == ["real"] and select["synthetic-only"].sources == ["synthetic"]
    assert parsed("food.yaml", "no-duplicates")[0]["duplicates"] is None


@pytest.mark.parametrize("name", ["ablations", "scaling", "quickstart-ablations"])
def test_sweeps__name_packaged_ablations(name: str) -> None:
    values = yaml.safe_load((FOLDER / "sweeps" / f"{name}.yaml").read_text())["parameters"]["config"]["values"]
    assert values[0] == "ablations/full.yaml" and len(set(values)) == len(values) > 3
    assert {value.removeprefix("ablations/").removesuffix(".yaml") for value in values} <= set(ABLATIONS)


def test_workspace_path__of_a_variant() -> None:
    assert curated.workspace_path("runs/a", "x", "half") == Path("runs/a-half")
    assert curated.workspace_path(None, "x y", "half") == Path("runs/x-y-half")
    with pytest.raises(ValueError, match=r"curation\.variant '\.\./b' is no part of a folder's name"):
        curated.workspace_path("runs/a", "x", "../b")
