"""Pretraining methods, one LightningModule a file; a yaml names them by `class_path`."""

from pas_train.methods.mocov3 import MoCoV3
from pas_train.methods.nnclr import NNCLR

__all__ = ["NNCLR", "MoCoV3"]
