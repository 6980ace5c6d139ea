"""What makes a backbone no plain one is told by its modules."""

from typing import Any

import pytest
import timm
import torch

from pas_train.exporting.structure import misfit, resnet_extras, vit_extras


def made(name: str, **options: Any) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("test_vit", {}), ("vit_tiny_patch16_224", {"depth": 2, "embed_dim": 36}), ("test_vit", {"qkv_bias": False})],
)
def test_vit_extras__plain_ones_have_none(name: str, options: dict[str, Any]) -> None:
    assert vit_extras(made(name, **options)) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reg_tokens": 4}, "4 register tokens"),
        ({"class_token": False, "global_pool": "avg"}, "no class token"),
        ({"pos_embed": ""}, "no position embedding"),
        ({"no_embed_class": True}, "a position embedding of the patches alone"),
        ({"pre_norm": True}, "a norm before its blocks"),
        ({"final_norm": False}, "no last norm"),
        ({"fc_norm": True}, "its last norm after the pooling"),
        ({"global_pool": "avg", "fc_norm": False}, "the pooling 'avg'"),
        ({"init_values": 1e-5}, "layer scale"),
        ({"qk_norm": True}, "norms of its queries and keys"),
        ({"proj_bias": False}, "no biases in its projections"),
        ({"act_layer": "quick_gelu"}, "a feed-forward network of another kind"),
        ({"norm_layer": "rmsnorm"}, "norms of another kind"),
    ],
)
def test_vit_extras__each_is_named(options: dict[str, Any], said: str) -> None:
    (found,) = [one for one in vit_extras(timm.create_model("test_vit", num_classes=0, **options)) if said in one]
    assert found


def test_vit_extras__another_design_and_other_blocks() -> None:
    assert vit_extras(made("deit_tiny_distilled_patch16_224")) == ["another design (VisionTransformerDistilled)"]
    assert "blocks of another kind" in str(vit_extras(made("vit_base_patch16_rpn_224")))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_resnet_extras__plain_ones_have_none(name: str) -> None:
    assert resnet_extras(made(name)) == []


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet10t", {}, ["a stem of small convolutions", "average pooling in its shortcuts"]),
        ("seresnet50", {}, ["squeeze-and-excitation or other attention"]),
        ("resnetaa50", {}, ["no max-pooling after its stem, or another", "anti-aliased strides"]),
        ("resnet50_gn", {}, ["norms other than batch norms"]),
        ("resnet18", {"act_layer": "silu"}, ["activations other than ReLU"]),
        ("resnet18", {"global_pool": "max"}, ["the pooling 'max'"]),
        ("resnet50", {"output_stride": 16}, ["dilated stages"]),
        ("test_vit", {}, ["another design (VisionTransformer)"]),
    ],
)
def test_resnet_extras__each_is_named(name: str, options: dict[str, Any], said: list[str]) -> None:
    assert resnet_extras(made(name, **options)) == said


def test_misfit__names_what_differs() -> None:
    small, large = made("resnet18"), made("resnet18", channels=[32, 64, 128, 256])
    assert misfit(small, dict(small.state_dict())) == []
    assert "layer1.0.conv1.weight" in misfit(small, dict(large.state_dict()))[0]
    without = {name: value for name, value in small.state_dict().items() if not name.startswith("layer4.")}
    assert misfit(small, without, aside="layer4.") == [] and misfit(small, without) != []
