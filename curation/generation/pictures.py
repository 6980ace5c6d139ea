"""Real pictures of the concepts, one folder for each, that generated images begin with."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from curation.generation.plan import Picture, folder_name
from curation.repositories import checksums
from datamodules.decoding import ImageLimits, RefusedImage, decode_rgb
from datamodules.labelled import read_labelled


class SeedPictures:
    """The pictures below a folder. by_folder: name of a concept's folder -> (path below the folder, SHA-256) of each.

    key: the yaml key that errors name. Raises FileNotFoundError or ValueError where the folder holds no such pictures.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        if not folder.is_dir():
            raise FileNotFoundError(f"{key}: {folder} is no folder; give one that holds a folder of pictures a concept")
        found = read_labelled(folder, key)
        pictures = list(checksums(folder, found.paths).items())
        self.by_folder: dict[str, list[Picture]] = {}
        for label, picture in zip(found.labels.tolist(), pictures, strict=True):
            self.by_folder.setdefault(found.classes[label], []).append(picture)

    def of_concepts(self, concepts: Iterable[str], say: Callable[[str], None]) -> dict[str, list[Picture]]:
        """Concept -> its pictures; concepts without a folder are told, and left out. Raises ValueError if all are."""
        folders = {folder_name(name): pictures for name, pictures in self.by_folder.items()}
        found = {concept: folders[folder_name(concept)] for concept in concepts if folder_name(concept) in folders}
        without = [concept for concept in concepts if concept not in found]
        if not found:
            raise ValueError(
                f"{self.key}: no folder in {self.folder} is named like a concept; the concepts are "
                f"{', '.join(without[:5])}, ..., the folders {', '.join(list(self.by_folder)[:5])}, ..."
            )
        if without:
            say(
                f"synthesis  {len(without)} concepts have no folder of pictures, so no images are made of them: "
                f"{', '.join(without[:5])}{', ...' if len(without) > 5 else ''}"
            )
        return found

    def load(self, path: str, height: int, width: int) -> np.ndarray | str:
        """uint8 [height, width, 3], resized and cropped in the middle; or why the picture cannot be used."""
        try:
            pixels = decode_rgb((self.folder / path).read_bytes(), ImageLimits())
        except (RefusedImage, OSError) as error:
            return f"its picture {path} cannot be used ({error})"
        return np.array(ImageOps.fit(Image.fromarray(pixels), (width, height), Image.Resampling.BICUBIC))
