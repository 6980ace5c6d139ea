from typing import Any

import pytest

from curation.provenance import models


def records(**stages: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage: {"models": found} for stage, found in stages.items()}


def test_models__known_weights_have_a_licence_and_no_folder() -> None:
    found = models(records(
        embed={"image_text": {"name": "ViT-L-14", "pretrained": "openai", "files": None},
               "copy": {"name": "/home/me/weights/sscd_disc_mixup.torchscript.pt", "files": {"a": "ab" * 32}},
               "precision": "32-true"},
        text={"detector": {"name": "rapidocr a.onnx", "version": "3", "sha256": "cd" * 32}},
    ))  # fmt: skip
    assert [(model.role, model.name, model.licence) for model in found] == [
        ("image-text encoder", "ViT-L-14 · openai", "MIT"),
        ("copy descriptor", "sscd_disc_mixup.torchscript.pt", "MIT"),
        ("text detector", "rapidocr a.onnx · 3", "Apache 2.0"),
    ]
    assert found[1].checksum == "ab" * 6 and found[2].checksum == "cd" * 6


def test_models__of_every_stage_that_has_some_but_inputs_are_none() -> None:
    model = {"name": "hf:some/model", "revision": "1" * 40}
    stages = records(
        concepts={"generate": model, "words": ["a"]},
        search={"tables": {"part-0": [1, 2]}, "encoder": model},
        leakage={"tests": {"food": "ab"}},
    )
    found = models(stages)
    assert [model.role for model in found] == ["writer of concepts", "encoder of the search"]
    assert found[0].checksum == "1" * 12


@pytest.mark.parametrize(("own", "stand_in"), [(None, True), ("mine.pt", False)])
def test_models__no_branch_beside_a_stand_in_is_one(own: str | None, stand_in: bool) -> None:
    stages = records(embed={"image_text": {"name": "a", "stand_in": True}}, ood={"no_branch": {"no.pt": "ab" * 32}})
    stages["ood"]["settings"] = {"no_branch": own}
    assert [model.stand_in for model in models(stages)] == [True, stand_in]


def test_models__of_stages_that_the_selection_does_not_read_are_left_out() -> None:
    stages = records(embed={"copy": {"name": "a"}}, text={"detector": {"name": "b"}})
    assert [model.name for model in models(stages, {"ood"})] == ["a"]
