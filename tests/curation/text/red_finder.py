"""A real checkpoint of FAST-tiny whose weights are set by hand: it takes what is red for text."""

from pathlib import Path

import torch
from torch import nn

from curation.text.fast_network import FASTTiny


@torch.no_grad()
def save_red_finder(path: Path) -> Path:
    """A training file in the published layout: logit 8 in saturated red, -4 in white, grey and black, sharp edges."""
    network = FASTTiny()
    for parameter in network.parameters():
        parameter.zero_()
    stem = network.backbone.first_conv
    # One channel for red less the mean of green and blue, in units of 0 to 255, from normalised channels.
    for channel, (share, spread) in enumerate(zip((1.0, -0.5, -0.5), (0.229, 0.224, 0.225), strict=True)):
        stem.conv.weight[0, channel, 1, 1] = share * spread
    stem.bn.weight[0], stem.bn.bias[0] = 1, 0.485 - 0.5 * (0.456 + 0.406)
    stem.bn.bias[0] -= 0.5  # red / 255 less 0.5, cut at 0: up to 0.5
    stage1, first = network.backbone.stage1, network.neck["reduce_layer1"]
    for block in (*stage1, first, network.det_head["conv"]):
        block.main_conv.weight[0, 0, 1, 1] = 1
        block.main_bn.weight[0] = 1
    network.det_head["conv"].main_bn.bias[1] = 1
    final = network.det_head["final"]["conv"]
    final.weight[0, :2, 0, 0] = torch.tensor([24.0, -4.0])
    for module in network.modules():  # so that 1 / sqrt(variance + eps) is 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - module.eps)
    torch.save({"epoch": 3, "ema": {f"module.{name}": value for name, value in network.state_dict().items()}}, path)
    return path
