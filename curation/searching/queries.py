"""What is searched for: the embeddings of the concepts' names, or of seed pictures in their place."""

from pathlib import Path

import numpy as np
import torch

from curation.concepts.names import merge_key
from curation.encoders import ImageTextEncoder, embed_words
from datamodules.decoding import ImageLimits, RefusedImage, decode_rgb
from datamodules.labelled import read_labelled


def check_queries(templates: list[str], seeds: str | None, key: str) -> None:
    """Raises ValueError or FileNotFoundError, naming `key`.templates or `key`.seeds, where they cannot be searched."""
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise ValueError(f"{key}.templates: {wrong or templates} must have one {{}} each")
    if seeds is not None and not Path(seeds).is_dir():
        raise FileNotFoundError(f"{key}.seeds: {seeds} is no folder of folders of pictures")


def embed_queries(
    encoder: ImageTextEncoder, bank: list[str], templates: list[str], seeds: str | None, limits: ImageLimits, key: str
) -> tuple[np.ndarray, int]:
    """Unit float32 [concepts, D], and for how many of the concepts it is that of their seed pictures.

    seeds: folder of folders of pictures, named as concepts. limits: of its pictures. key: the stage's, which errors
    name with `.seeds`.
    """
    queries = embed_words(encoder, bank, templates)
    if seeds is None:
        return queries, 0
    folders = seed_folders(Path(seeds), bank, f"{key}.seeds")
    for place, concept in enumerate(bank):
        if concept in folders:
            queries[place] = _mean_picture(encoder, concept, folders[concept], limits, f"{key}.seeds")
    return queries, len(folders)


def seed_folders(folder: Path, bank: list[str], key: str) -> dict[str, list[Path]]:
    """Concept -> its seed pictures, from a folder of folders named as concepts (any spelling of them).

    Raises ValueError naming folders that are no concept of the bank.
    """
    seeds = read_labelled(folder, key=key)
    concepts = {merge_key(concept): concept for concept in bank}
    unknown = [name for name in seeds.classes if merge_key(name) not in concepts]
    if unknown:
        raise ValueError(
            f"{key}: {folder} has folders that are no concept of the bank: {', '.join(unknown[:8])}; rename them, or "
            "add the concepts to curation.concepts.words"
        )
    found: dict[str, list[Path]] = {}
    for path, label in zip(seeds.paths, seeds.labels, strict=True):
        found.setdefault(concepts[merge_key(seeds.classes[label])], []).append(path)
    return found


@torch.inference_mode()
def _mean_picture(
    encoder: ImageTextEncoder, concept: str, paths: list[Path], limits: ImageLimits, key: str
) -> np.ndarray:
    """Unit float32 [D], the direction of the mean of the pictures' embeddings; those that cannot be decoded left out.

    Raises ValueError where none can be decoded.
    """
    embeddings = []
    for path in paths:
        try:
            image = encoder.prepare(decode_rgb(path.read_bytes(), limits))
        except (RefusedImage, OSError):
            continue
        embeddings.append(encoder.embed_images(torch.from_numpy(image)[None]))
    if not embeddings:
        raise ValueError(f"{key}: none of the {len(paths)} pictures of {concept!r} can be decoded; replace them")
    return torch.nn.functional.normalize(torch.cat(embeddings).mean(dim=0), dim=0).float().cpu().numpy()
