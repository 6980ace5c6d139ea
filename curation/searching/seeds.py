"""Queries made of pictures: the seed pictures of a concept instead of its name."""

from pathlib import Path

import numpy as np
import torch

from curation.concepts.names import merge_key
from curation.encoders import ImageTextEncoder
from datamodules.decoding import ImageLimits, RefusedImage, decode_rgb
from datamodules.labelled import read_labelled

KEY = "curation.search.seeds"


def seed_folders(folder: Path, bank: list[str]) -> dict[str, list[Path]]:
    """Concept -> its seed pictures, from a folder of folders named as concepts (any spelling of them).

    Raises ValueError naming folders that are no concept of the bank.
    """
    seeds = read_labelled(folder, key=KEY)
    concepts = {merge_key(concept): concept for concept in bank}
    unknown = [name for name in seeds.classes if merge_key(name) not in concepts]
    if unknown:
        raise ValueError(
            f"{KEY}: {folder} has folders that are no concept of the bank: {', '.join(unknown[:8])}; rename them, or "
            "add the concepts to curation.concepts.words"
        )
    found: dict[str, list[Path]] = {}
    for path, label in zip(seeds.paths, seeds.labels, strict=True):
        found.setdefault(concepts[merge_key(seeds.classes[label])], []).append(path)
    return found


@torch.inference_mode()
def embed_seeds(encoder: ImageTextEncoder, seeds: dict[str, list[Path]], limits: ImageLimits) -> dict[str, np.ndarray]:
    """Concept -> unit float32 [D], the direction of the mean of its pictures' embeddings.

    A picture that cannot be decoded is left out; raises ValueError for a concept that has no other.
    """
    queries = {}
    for concept, paths in seeds.items():
        images = []
        for path in paths:
            try:
                images.append(encoder.prepare(decode_rgb(path.read_bytes(), limits)))
            except (RefusedImage, OSError):
                continue
        if not images:
            raise ValueError(f"{KEY}: none of the {len(paths)} pictures of {concept!r} can be decoded; replace them")
        mean = torch.cat([encoder.embed_images(torch.from_numpy(image)[None]) for image in images]).mean(dim=0)
        queries[concept] = torch.nn.functional.normalize(mean, dim=0).float().cpu().numpy()
    return queries
