import copy

import pytest
import timm
import torch
import transformers
from torch import nn

from pas_train.backbones import build_backbone
from pas_train.evaluation.dense.pyramid import FeaturePyramid, maps_of
from pas_train.evaluation.hub_backbones import HubBackbone

VIT = {"embed_dim": 24, "depth": 5, "num_heads": 2}
RESNET = {"channels": (4, 8, 8, 16), "layers": (1, 1, 1, 1)}
ODD = (2, 3, 75, 131)  # pixels that no stride divides
SIZES = [(19, 33), (10, 17), (5, 9), (3, 5)]  # upwards rounded quarters, eighths, ...
SMALL = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}


def resnet(**more: object) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("resnet18", 32, options=RESNET, **more)


def vit(patch: int = 16, **more: object) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("vit_tiny_patch16_224", 4 * patch, options=VIT | {"patch_size": patch} | more)


def dinov2() -> nn.Module:
    config = transformers.Dinov2Config(**SMALL, image_size=56, patch_size=14)
    return HubBackbone(transformers.Dinov2Model(config))


def hub_resnet() -> nn.Module:
    config = transformers.ResNetConfig(hidden_sizes=[4, 8, 8, 16], depths=[1, 1, 1, 1], embedding_size=4)
    return HubBackbone(transformers.ResNetModel(config))


@pytest.mark.parametrize(
    ("backbone", "blocks", "last"),
    [
        (resnet, [4, 8, 8, 16], [4, 8, 8, 16]),
        (lambda: resnet(small_images=True), [8, 16, 16, 16], [8, 16, 16, 16]),
        (hub_resnet, [4, 8, 8, 16], [4, 8, 8, 16]),
        (vit, [24] * 4, [256] * 4),
        (lambda: vit(8, depth=2), [24] * 4, [256] * 4),
        (lambda: vit(14, reg_tokens=2), [24] * 4, [256] * 4),
        (lambda: vit(32), [24] * 4, [256] * 4),
        (dinov2, [24] * 4, [256] * 4),
    ],
)
def test_maps__have_strides_4_to_32_of_images_of_any_size(backbone, blocks, last) -> None:
    for levels, channels in (("blocks", blocks), ("last", last)):
        pyramid = FeaturePyramid(backbone(), levels)
        maps = pyramid(torch.rand(ODD))
        assert pyramid.channels == channels
        assert [tuple(one.shape) for one in maps] == [
            (2, wide, *size) for wide, size in zip(channels, SIZES, strict=True)
        ]


def test_stages__are_those_of_timm() -> None:
    backbone, images = resnet(), torch.rand(2, 3, 64, 96)
    theirs = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4), **RESNET)
    missing = theirs.load_state_dict(backbone.state_dict(), strict=False)
    assert not missing.missing_keys
    torch.testing.assert_close(FeaturePyramid(backbone).eval()(images), theirs.eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(64, 64), (80, 112)])
def test_blocks__are_those_of_timm_with_positions_resampled(size: tuple[int, int]) -> None:
    backbone, images = vit(), torch.rand(2, 3, *size)
    options = {**VIT, "img_size": 64, "num_classes": 0, "dynamic_img_size": True}
    theirs = timm.create_model("vit_tiny_patch16_224", **options).eval()
    theirs.load_state_dict(backbone.state_dict())
    pyramid = FeaturePyramid(backbone).eval()
    for neck in pyramid.necks:
        neck.before = neck.after = nn.Identity()
    final, blocks = theirs.forward_intermediates(images, indices=[1, 2, 3, 4])
    blocks[-1] = final[:, 1:].transpose(1, 2).reshape(blocks[-1].shape)  # after the last norm
    rows, columns = size[0] // 16, size[1] // 16
    for ours, block, factor in zip(pyramid(images), blocks, (4, 2, 1, 0.5), strict=True):
        expected = nn.functional.interpolate(
            block, (int(-(-rows * factor // 1)), int(-(-columns * factor // 1))), mode="bilinear"
        )
        torch.testing.assert_close(ours, expected)


def test_transformers__the_class_token_is_no_place() -> None:
    torch.manual_seed(0)
    hub = HubBackbone(transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=64))).eval()
    images = torch.rand(2, 3, 64, 64)
    tokens = hub.model(images).last_hidden_state
    last = maps_of(hub, images)[-1]
    torch.testing.assert_close(last[:, :, 1, 2], tokens[:, 1 + 4 + 2])
    assert len(maps_of(hub, images)) == 4


def test_training__reaches_all_that_the_maps_depend_on() -> None:
    frozen = vit()
    before = copy.deepcopy(frozen.state_dict())
    assert not frozen.pos_embed.requires_grad
    for backbone, unused in ((frozen, set()), (dinov2(), {"backbone.model.embeddings.mask_token"})):
        pyramid = FeaturePyramid(backbone, "last")
        sum(one.square().mean() for one in pyramid(torch.rand(ODD))).backward()
        without = {name for name, one in pyramid.named_parameters() if one.grad is None}
        assert without == unused == {name for name, one in pyramid.named_parameters() if not one.requires_grad}
    torch.testing.assert_close(frozen.state_dict(), before, rtol=0, atol=0)
    assert not frozen.pos_embed.requires_grad and not frozen.dynamic_img_size  # it is a copy that is trained


def test_copy__is_a_pyramid_of_its_own() -> None:
    pyramid, images = FeaturePyramid(resnet()).eval(), torch.rand(1, 3, 64, 64)
    twin = copy.deepcopy(pyramid)
    nn.init.zeros_(pyramid.backbone.conv1.weight)
    assert not torch.equal(pyramid(images)[0], twin(images)[0])


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        (lambda: nn.Linear(2, 2), r"Linear gives no feature maps"),
        (lambda: timm.create_model("mixer_s32_224", num_classes=0), r"MlpMixer takes images of one size alone \(Input"),
        (lambda: timm.create_model("convnext_atto", patch_size=8, depths=(1, 1, 1, 1)), r"no feature map of stride 4"),
    ],
)
def test_backbone__without_maps_is_refused(backbone, said: str) -> None:
    with pytest.raises(ValueError, match=rf"{said}.* Leave out this backbone, or evaluation\.segmentation"):
        FeaturePyramid(backbone())
