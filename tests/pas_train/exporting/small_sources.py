"""Small backbones with weights that no initialisation gives, as sources of exports."""

import dataclasses
from typing import Any

import timm

from pas_train.backbones import _use_small_stem
from pas_train.exporting.metadata import of_backbone
from pas_train.exporting.source import Source
from tests.pas_train.published import shaken

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def vit(size: int = 48, **options: Any) -> Source:
    """Patches of 16 px: 3 x 3 of them at 48 px."""
    return source("test_vit", size, **{"depth": 2, "img_size": size, **options})


def resnet(name: str = "resnet18", size: int = 64, small_images: bool = False, **options: Any) -> Source:
    return source(name, size, small_images, **{"layers": [1, 1, 1, 1], **options})


def source(name: str, size: int, small_images: bool = False, **options: Any) -> Source:
    backbone = timm.create_model(name, num_classes=0, **options)
    if small_images:
        _use_small_stem(backbone)
    made = Source(shaken(backbone), name, size, MEAN, STD, options, small_images, "small")
    return dataclasses.replace(made, metadata={**of_backbone(made), "method": "MoCoV3", "licence": "none"})
