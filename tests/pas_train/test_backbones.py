import math

import pytest
import torch
import torchvision

from pas_train.backbones import build_backbone, has_batch_norm, is_transformer, sincos_position_embedding

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}


def test_build_backbone__transformer_of_the_paper() -> None:
    vit = build_backbone("vit_tiny_patch16_224", image_size=32, options=TINY)
    assert is_transformer(vit) and not has_batch_norm(vit)
    assert vit(torch.zeros(2, 3, 32, 32)).shape == (2, 32)
    assert torch.equal(vit.pos_embed, sincos_position_embedding(32, 4))
    frozen = {name for name, p in vit.named_parameters() if not p.requires_grad}
    assert frozen == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert vit.blocks[0].norm1.eps == 1e-6


@pytest.mark.parametrize(
    ("name", "options", "width", "size"),
    [
        ("vit_tiny_patch16_224", None, 192, 5_524_416),
        ("vit_small_patch16_224", {"num_heads": 12}, 384, 21_665_664),
        ("vit_base_patch16_224", None, 768, 85_798_656),
        ("vit_large_patch16_224", None, 1024, 303_301_632),
        ("resnet18", None, 512, 11_176_512),
        ("resnet34", None, 512, 21_284_672),
        ("resnet50", None, 2048, 23_508_032),
        ("resnet101", None, 2048, 42_500_160),
    ],
)
def test_build_backbone__papers_sizes_by_name(name: str, options: dict | None, width: int, size: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, options=options)
    assert (backbone.num_features, sum(p.numel() for p in backbone.parameters())) == (width, size)
    if is_transformer(backbone):
        assert backbone.blocks[0].attn.num_heads == (options or {}).get("num_heads", width // 64)


def test_build_backbone__resnet_is_torchvisions_with_zero_init_residual() -> None:
    ours = build_backbone("resnet18").eval()
    theirs = torchvision.models.resnet18(zero_init_residual=True)
    theirs.fc = torch.nn.Identity()
    for name, weight in theirs.state_dict().items():
        own = ours.state_dict()[name]
        if weight.ndim <= 1:
            assert torch.equal(own, weight)
        else:  # drawn from the same distribution
            assert own.std().item() == pytest.approx(weight.std().item(), rel=0.1)
            assert abs(own.mean().item()) < 5 * own.std().item() / own.numel() ** 0.5
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs.eval()(images))


def test_build_backbone__initial_weights_of_the_paper() -> None:
    vit = build_backbone("vit_tiny_patch16_224", image_size=32, options=TINY)
    qkv, fc1 = vit.blocks[0].attn.qkv.weight, vit.blocks[0].mlp.fc1.weight
    bounds = {
        "qkv": (qkv, math.sqrt(6 / (32 + 32))),
        "linear": (fc1, math.sqrt(6 / (32 + 128))),
        "patches": (vit.patch_embed.proj.weight, math.sqrt(6 / (3 * 8 * 8 + 32))),
    }
    for weight, bound in bounds.values():
        assert 0.97 * bound < weight.abs().max() <= bound
        assert weight.detach().std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert all(p.abs().max() == 0 for name, p in vit.named_parameters() if name.endswith("bias"))
    assert vit.cls_token.abs().max() < 1e-5


def test_build_backbone__paper_options_can_be_off() -> None:
    vit = build_backbone("vit_tiny_patch16_224", 32, False, False, False, options=TINY)
    assert all(p.requires_grad for p in vit.parameters())
    assert not torch.equal(vit.pos_embed, sincos_position_embedding(32, 4))


def test_build_backbone__small_images_keep_resolution() -> None:
    images = torch.zeros(2, 3, 32, 32)
    usual = build_backbone("resnet10t", options={"channels": (8, 8, 8, 8)})
    resnet = build_backbone("resnet18", small_images=True, options={"channels": (8, 8, 16, 16)})
    assert resnet(images).shape == (2, 16)
    assert resnet.forward_features(images).shape[-2:] == (4, 4)
    assert usual.forward_features(images).shape[-2:] == (1, 1)
    assert has_batch_norm(resnet) and not is_transformer(resnet)
    assert resnet.layer1[0].bn2.weight.abs().max() == 0  # zero_init_residual


def test_build_backbone__unknown_name_gets_suggestions() -> None:
    with pytest.raises(ValueError, match=r"model\.backbone: timm has no model 'resnet81'.*close matches: .*resnet"):
        build_backbone("resnet81")


def test_build_backbone__image_size_that_does_not_fit_names_the_key() -> None:
    with pytest.raises(ValueError, match=r"model\.image_size.*do not divide 30"):
        build_backbone("vit_tiny_patch16_224", image_size=30)


def test_build_backbone__options_that_timm_refuses_name_the_key() -> None:
    with pytest.raises(ValueError, match=r"model\.backbone.*num_heats"):
        build_backbone("vit_tiny_patch16_224", options={"num_heats": 3})


def test_build_backbone__small_images_refused_for_transformers() -> None:
    with pytest.raises(ValueError, match=r"model\.small_images"):
        build_backbone("vit_tiny_patch16_224", image_size=32, small_images=True)


def test_sincos_position_embedding__width_must_be_divisible() -> None:
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_position_embedding(30, 2)
