import pytest
import torch
from timm.layers import Attention
from torch import nn
from torch.utils.data import DataLoader

from pas_train.methods import MoCoV3
from pas_train.speed import compile_options
from tests.pas_train.methods.small_training import RESNET, VIT, batches, train

SMALL = {"image_size": 16, "projector_hidden": 24, "projector_dim": 8, "base_lr": 0.02, "warmup_epochs": 1}


class Losses(MoCoV3):
    """Keeps the loss of each step."""

    def training_step(self, batch: dict, batch_idx: int) -> dict:
        output = super().training_step(batch, batch_idx)
        self.losses = [*getattr(self, "losses", []), output["loss"].item()]
        return output


def test_compile__gives_the_same_losses_and_names_and_leaves_validations_alone() -> None:
    def labelled(count: int) -> DataLoader:
        images = torch.zeros(count, 3, 16, 16, dtype=torch.uint8)
        return DataLoader(
            [{"image": images, "label": torch.zeros(count), "index": torch.arange(count)}], batch_size=None
        )

    plain, compiled = Losses(**VIT, **SMALL), Losses(**VIT, **SMALL, compile="eager")  # dynamo, no compiler
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for module in (plain, compiled):
        train(module, batches(3), [labelled(5), labelled(3)])
    # The query encoder, and the key encoder without gradients; no other sizes.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert compiled.losses == pytest.approx(plain.losses, abs=1e-5) and len(plain.losses) == 6
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(("compile", "options"), [(False, None), (True, {}), ("max-autotune", {"mode": "max-autotune"}),
                                                  ("aot_eager", {"backend": "aot_eager"})])  # fmt: skip
def test_compile__takes_modes_and_backends(compile: bool | str, options: dict | None) -> None:
    assert compile_options(compile) == options


def test_compile__unknown_choice_is_named() -> None:
    with pytest.raises(ValueError, match=r"model\.compile: 'fast' is not known; choices: .*max-autotune.*inductor"):
        MoCoV3(**VIT, **SMALL, compile="fast")


def test_channels_last__gives_the_same_losses_from_another_order_of_memory() -> None:
    plain, last = Losses(**RESNET, **SMALL), Losses(**RESNET, **SMALL, channels_last=True)
    seen: list[bool] = []
    last.backbone.conv1.register_forward_hook(
        lambda layer, inputs, out: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    for module in (plain, last):
        train(module, batches(3))
    assert last.losses == pytest.approx(plain.losses, abs=1e-5)
    assert all(seen) and len(seen) == 12  # each view by itself
    weight = next(module.weight for module in last.momentum_backbone.modules() if isinstance(module, nn.Conv2d))
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_backbones__use_torchs_fused_attention() -> None:
    attentions = [module for module in MoCoV3(**VIT, **SMALL).backbone.modules() if isinstance(module, Attention)]
    assert attentions and all(module.fused_attn for module in attentions)
