"""Published weights, each in the layout of the library that writes it, and a method that starts from them."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock
from transformers import AutoModel, PretrainedConfig

from pas_train.heads import moco_v3_predictor, moco_v3_projector
from pas_train.methods import MoCoV3
from pas_train.methods.base import PretrainingMethod
from pas_train.weights import (
    load_start,
)

VIT = {"backbone": "test_vit", "backbone_options": {"depth": 2}}  # 64 wide, 2 heads, 16 px patches
RESNET = {"backbone": "resnet18", "backbone_options": {"layers": [1, 1, 1, 1]}}
HEADS = {"projector_hidden": 32, "projector_dim": 16}
IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def method(weights: object = None, image_size: int = 64, **settings: Any) -> MoCoV3:
    return MoCoV3(**{**VIT, **HEADS, "image_size": image_size, "weights": weights and str(weights), **settings})


def started(weights: object, **settings: Any) -> MoCoV3:
    model = method(weights, **settings)
    load_start(model)
    return model


@torch.no_grad()
def features(backbone: nn.Module, images: Tensor = IMAGES) -> Tensor:
    return backbone.eval()(images)


def assert_same(model: PretrainingMethod, expected: Tensor) -> None:
    assert torch.allclose(features(model.backbone), expected, atol=1e-5) and expected.std() > 0.01


def shaken(module: nn.Module) -> nn.Module:
    """With other values than any initialisation has, running statistics included."""
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return module.eval()


def official(folder: Path, vit: bool = True, **more: Any) -> tuple[Path, nn.Module]:
    """A checkpoint as MoCo v3's main_moco.py saves it, and its query encoder."""
    encoders = []
    for _ in range(2):
        encoder: Any = (
            timm.create_model(str(VIT["backbone"]), img_size=64, num_classes=0, depth=2) if vit else tv_resnet()
        )
        head = moco_v3_projector(64 if vit else 512, 32, 16, vit)
        setattr(encoder, "head" if vit else "fc", head)
        encoders.append(shaken(encoder))
    parts = {
        "base_encoder": encoders[0], "momentum_encoder": encoders[1], "predictor": moco_v3_predictor(32, 16, vit)
    }  # fmt: skip
    state = {f"module.{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    optimizer = torch.optim.AdamW(encoders[0].parameters())
    content = {"epoch": 300, "arch": "vit_base", "state_dict": state, "optimizer": optimizer.state_dict(), "scaler": {}}
    torch.save({**content, **more}, folder / "vit-b-300ep.pth.tar")
    return folder / "vit-b-300ep.pth.tar", encoders[0]


def tv_resnet() -> ResNet:
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)


def save_transformers(folder: Path, config: PretrainedConfig) -> Any:
    model: Any = shaken(AutoModel.from_config(config))
    model.save_pretrained(folder)
    return model


def own(path: Path, model: PretrainingMethod) -> Path:
    content = {"state_dict": model.state_dict(), "global_step": 3}
    torch.save({**content, "hyper_parameters": dict(model.hparams)}, path)
    return path


def in_hub_cache(folder: Path, repository: str, file: str, content: Path) -> None:
    """As the hub's library keeps a downloaded file."""
    base = folder / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text("0" * 40)
    (base / "snapshots" / ("0" * 40)).mkdir(parents=True)
    content.rename(base / "snapshots" / ("0" * 40) / file)
