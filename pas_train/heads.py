"""Projection and prediction heads of MoCo v3 (builder.py of the official code; spec: linears without bias)."""

from torch import nn


def mlp(sizes: list[int], last_norm: bool) -> nn.Sequential:
    """Linear layers of the given widths, BatchNorm and ReLU between them; `last_norm` adds BatchNorm without affine.

    sizes: input, hidden..., output. No linear has a bias.
    """
    layers: list[nn.Module] = []
    for index, (width_in, width_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers.append(nn.Linear(width_in, width_out, bias=False))
        if index < len(sizes) - 2:
            layers += [nn.BatchNorm1d(width_out), nn.ReLU(inplace=True)]
        elif last_norm:
            layers.append(nn.BatchNorm1d(width_out, affine=False))
    return nn.Sequential(*layers)


def moco_v3_projector(width: int, hidden: int, dim: int, transformer: bool) -> nn.Sequential:
    """Three linears for a vision transformer, two for a ResNet; the last BatchNorm has no affine."""
    return mlp([width, hidden, hidden, dim] if transformer else [width, hidden, dim], last_norm=True)


def moco_v3_predictor(hidden: int, dim: int, transformer: bool) -> nn.Sequential:
    """Two linears; a last BatchNorm (without affine) only for vision transformers."""
    return mlp([dim, hidden, dim], last_norm=transformer)
