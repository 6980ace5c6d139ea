"""Pretraining methods, one LightningModule a file; a yaml names them by `class_path`."""

from pas_train.methods.mocov3 import MoCoV3

__all__ = ["MoCoV3"]
