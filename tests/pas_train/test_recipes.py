"""The packaged recipes of the methods: parsed as `fit` does, every number against the papers' tables."""

from typing import Any

import pytest
import yaml

from pas_train.__main__ import main

JITTER = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grey": 0.2, "flip": 0.5}
COMMON = {**JITTER, "crop_max": 1.0, "aspect_min": 3 / 4, "aspect_max": 4 / 3, "solarize_threshold": 128}
COMMON |= {"blur_sigma_min": 0.1, "blur_sigma_max": 2.0}
FIRST, SECOND = {"blur": 1.0, "solarize": 0.0}, {"blur": 0.1, "solarize": 0.2}

MOCO_VIT = {
    "optimizer": "adamw", "base_lr": 1.5e-4, "weight_decay": 0.1, "warmup_epochs": 40, "base_momentum": 0.99,
    "temperature": 0.2, "projector_hidden": 4096, "projector_dim": 256, "fixed_position": True,
    "frozen_patches": True, "paper_init": True,
}  # fmt: skip
MOCO_RESNET = {
    "backbone": "resnet50", "optimizer": "lars", "base_lr": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10,
    "base_momentum": 0.99, "temperature": 1.0, "projector_hidden": 4096, "projector_dim": 256,
}  # fmt: skip
NEAREST = {
    "backbone": "resnet50", "optimizer": "lars", "base_lr": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10,
    "temperature": 0.1, "support_size": 98304, "support_views": "first", "symmetric_columns": True,
    "projector_hidden": 2048, "projector_dim": 256, "predictor_hidden": 4096,
}  # fmt: skip
# name: epochs, smallest crop, settings of the method
RECIPES: dict[str, tuple[int, float, dict[str, Any]]] = {
    "mocov3_vitb16_300ep": (300, 0.08, {**MOCO_VIT, "backbone": "vit_base_patch16_224", "backbone_options": None}),
    "mocov3_vits16_300ep": (
        300, 0.08, {**MOCO_VIT, "backbone": "vit_small_patch16_224", "backbone_options": {"num_heads": 12}},
    ),
    "mocov3_rn50_100ep": (100, 0.2, {**MOCO_RESNET, "base_lr": 0.6}),
    "mocov3_rn50_300ep": (300, 0.2, MOCO_RESNET),
    "mocov3_rn50_1000ep": (1000, 0.2, {**MOCO_RESNET, "weight_decay": 1.5e-6, "base_momentum": 0.996}),
    "nnclr_rn50_500ep": (500, 0.08, NEAREST),
    "nnclr_rn50_1000ep": (1000, 0.08, NEAREST),
    "nnclr_rn18_500ep": (500, 0.08, {**NEAREST, "backbone": "resnet18"}),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_recipe__has_the_numbers_of_the_paper(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    epochs, crop_min, settings = RECIPES[name]
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", f"{name}.yaml", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert config["model"]["class_path"].endswith("MoCoV3" if name.startswith("moco") else "NNCLR")
    assert config["trainer"]["max_epochs"] == epochs
    assert {key: model[key] for key in settings} == settings
    assert (data["batch_size"], data["image_size"], model["image_size"]) == (4096, 224, 224)
    for view, own in (("view1", FIRST), ("view2", SECOND)):
        assert data[view] == pytest.approx({**COMMON, "crop_min": crop_min, **own})
