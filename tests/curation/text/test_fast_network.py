from pathlib import Path

import pytest
import torch
from torch import nn

from curation.text.fast_network import FASTTiny, RepConv, load_fast_tiny

# As fast_tiny.config of the published repository lists them: input and output channels, kernel, stride.
CONFIG = {
    "backbone.stage1": [(64, 64, 3, 3, 1), (64, 64, 3, 3, 2), (64, 64, 3, 3, 1)],
    "backbone.stage2": [(64, 128, 3, 3, 2), (128, 128, 1, 3, 1), (128, 128, 3, 3, 1), (128, 128, 3, 1, 1)],
    "backbone.stage3": [(128, 256, 3, 3, 2), (256, 256, 3, 3, 1), (256, 256, 3, 1, 1), (256, 256, 1, 3, 1)],
    "backbone.stage4": [(256, 512, 3, 3, 2), (512, 512, 3, 1, 1), (512, 512, 1, 3, 1), (512, 512, 3, 3, 1)],
    "neck.reduce_layer": [(64, 128, 3, 3, 1), (128, 128, 3, 3, 1), (256, 128, 3, 3, 1), (512, 128, 3, 3, 1)],
    "det_head.conv": [(512, 128, 3, 3, 1)],
}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return published_weights()


def published_weights() -> dict[str, torch.Tensor]:
    """Random values under the names, and in the shapes, of a published checkpoint."""
    torch.manual_seed(0)
    weights: dict[str, torch.Tensor] = {}

    def conv(name: str, *shape: int) -> None:
        weights[f"module.{name}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5

    def norm(name: str, channels: int) -> None:
        weights[f"module.{name}.weight"] = torch.rand(channels) + 0.5
        weights[f"module.{name}.bias"] = torch.randn(channels) * 0.2
        weights[f"module.{name}.running_mean"] = torch.randn(channels) * 0.3
        weights[f"module.{name}.running_var"] = torch.rand(channels) + 0.5
        weights[f"module.{name}.num_batches_tracked"] = torch.tensor(7)

    conv("backbone.first_conv.conv", 64, 3, 3, 3)
    norm("backbone.first_conv.bn", 64)
    for group, blocks in CONFIG.items():
        for number, (before, after, high, wide, stride) in enumerate(blocks):
            name = {"n": f"{group}{number + 1}", "d": group}.get(group[0], f"{group}.{number}")
            branches = {"main": (high, wide)}
            if wide != 1:
                branches["ver"] = (high, 1)
            if high != 1:
                branches["hor"] = (1, wide)
            for branch, kernel in branches.items():
                conv(f"{name}.{branch}_conv", after, before, *kernel)
                norm(f"{name}.{branch}_bn", after)
            if before == after and stride == 1:
                norm(f"{name}.rbr_identity", before)
    conv("det_head.final.conv", 5, 128, 1, 1)
    return weights


def save(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    torch.save({"epoch": 29, "iter": 0, "state_dict": {}, "optimizer": {"lr": 1e-3}, "ema": weights}, path)
    return path


def unfused(weights: dict[str, torch.Tensor]) -> FASTTiny:
    network = FASTTiny()
    network.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    return network.eval()


def test_load_fast_tiny__takes_every_published_weight_and_fuses_them(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    network = load_fast_tiny(save(tmp_path / "fast.pth", weights))
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        expected, fused = unfused(weights)(x), network(x)
    assert expected.shape == (2, 5, 24, 16) and expected.std() > 0.01
    torch.testing.assert_close(fused, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert round(sum(value.numel() for value in network.parameters()) / 1e6, 1) == 8.5  # the README's table


@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (3, 1)])
@pytest.mark.parametrize(("after", "stride"), [(6, 1), (6, 2), (8, 1)])
def test_rep_conv__is_the_sum_of_its_branches(kernel: tuple[int, int], after: int, stride: int) -> None:
    torch.manual_seed(1)
    block, x = RepConv(6, after, kernel, stride), torch.randn(3, 6, 9, 12)
    block(x), block.eval()  # the first fills the running statistics
    high, wide = kernel
    total = block.main_bn(
        nn.functional.conv2d(x, block.main_conv.weight, stride=stride, padding=(high // 2, wide // 2))
    )
    if wide > 1:
        total += block.ver_bn(nn.functional.conv2d(x, block.ver_conv.weight, stride=stride, padding=(high // 2, 0)))
    if high > 1:
        total += block.hor_bn(nn.functional.conv2d(x, block.hor_conv.weight, stride=stride, padding=(0, wide // 2)))
    if after == 6 and stride == 1:
        total += block.rbr_identity(x)
    torch.testing.assert_close(block(x), total.relu())
    block.fuse()
    torch.testing.assert_close(block(x), total.relu(), atol=1e-5, rtol=1e-4)


def test_load_fast_tiny__lists_what_is_missing_or_left_over(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    weights = dict(weights)
    del weights["module.neck.reduce_layer2.ver_bn.bias"]
    weights["module.det_head.emb.weight"] = torch.zeros(1)
    weights["module.det_head.final.conv.weight"] = torch.zeros(4, 128, 1, 1)
    with pytest.raises(
        ValueError,
        match=r"1 missing: neck\.reduce_layer2\.ver_bn\.bias; 1 left over: det_head\.emb\.weight; "
        r"1 of another shape: det_head\.final\.conv\.weight \(4, 128, 1, 1\) instead of \(5, 128, 1, 1\)",
    ):
        load_fast_tiny(save(tmp_path / "fast.pth", weights))


def test_load_fast_tiny__another_file_is_named(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"^curation\.text\.detector\.model: .*other\.pth .* dictionary of model, where"
    ):
        load_fast_tiny(tmp_path / "other.pth")
    (tmp_path / "page.pth").write_text("<!doctype html>")
    with pytest.raises(ValueError, match=r"page\.pth cannot be read as a checkpoint"):
        load_fast_tiny(tmp_path / "page.pth")
