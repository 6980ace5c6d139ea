"""Projection and prediction heads: MoCo v3's (its official code: linears without bias) and NNCLR's."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Head(nn.Sequential):
    """Layers that take the rows of several views at once, as if one view after the other went through them."""

    def forward(self, rows: Tensor, views: int = 1) -> Tensor:
        """The outputs of rows [views * B, D], view after view; each view is a batch of its own for BatchNorm.

        Linears see all rows together: a small batch costs them as much as a large one, and their gradients need not
        be added up.
        """
        for layer in self:
            if views > 1 and isinstance(layer, _BatchNorm):
                rows = torch.cat([layer(view) for view in rows.chunk(views)])
            else:
                rows = layer(rows)
        return rows


def mlp(sizes: list[int], last_norm: bool) -> Head:
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
    return Head(*layers)


def moco_v3_projector(width: int, hidden: int, dim: int, transformer: bool) -> Head:
    """Three linears for a vision transformer, two for a ResNet; the last BatchNorm has no affine."""
    return mlp([width, hidden, hidden, dim] if transformer else [width, hidden, dim], last_norm=True)


def moco_v3_predictor(hidden: int, dim: int, transformer: bool) -> Head:
    """Two linears; a last BatchNorm (without affine) only for vision transformers."""
    return mlp([dim, hidden, dim], last_norm=transformer)


def nnclr_projector(width: int, hidden: int, dim: int) -> nn.Module:
    """Three linears without bias, each followed by BatchNorm with affine; ReLU but after the last (paper, section 4).

    lightly's head is exactly this, hidden biases left out where BatchNorm takes them off again.
    """
    from lightly.models.modules.heads import NNCLRProjectionHead

    return NNCLRProjectionHead(width, hidden, dim)


def nnclr_predictor(hidden: int, dim: int) -> nn.Module:
    """Two linears, BatchNorm and ReLU between them; the last has a bias and no BatchNorm. lightly's head is exact."""
    from lightly.models.modules.heads import NNCLRPredictionHead

    return NNCLRPredictionHead(dim, hidden, dim)
