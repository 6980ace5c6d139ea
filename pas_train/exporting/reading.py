"""What `export --ckpt_path` names, as a backbone: trainings, official MoCo v3, timm, torchvision, transformers."""

from pas_train.exporting.source import Source


def read_source(text: str, backbone: str | None = None, image_size: int | None = None) -> Source:
    """TODO."""
    raise NotImplementedError
