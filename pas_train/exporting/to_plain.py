"""`export --to plain`: a state dict in timm's names, as torch.save writes it."""

from pathlib import Path

from pas_train.checkpoint_io import save_whole
from pas_train.exporting.source import Source
from pas_train.exporting.target import Target


class Plain(Target):
    """backbone.pth: name -> tensor and nothing else; what the names belong to is in metadata.json."""

    name = "plain"
    title = "timm"
    library = "timm"
    install = "pip install timm"
    loader = "plain"

    def check(self, source: Source) -> None:
        """Takes every backbone."""

    def write(self, source: Source, folder: Path) -> None:
        """Writes backbone.pth."""
        save_whole({name: value.clone() for name, value in source.state.items()}, folder / "backbone.pth")
