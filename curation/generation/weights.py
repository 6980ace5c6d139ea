"""The files of a diffusers pipeline: where they are, whether they are whole, what identifies them. Imports no torch."""

import json
from pathlib import Path
from typing import Any

from curation.repositories import check_model, checksums, lacking_weights, local_folder, revision_of, whole_folder

INDEX = "model_index.json"
ENDINGS = {".json", ".safetensors", ".bin", ".txt", ".model"}


def identify(model: str, revision: str | None) -> dict[str, Any]:
    """Checksums of a local folder, or name and commit of a repository (the revision as given if it is not cached)."""
    folder = local_folder(model)
    if folder is not None:
        files = sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS and path.is_file())
        return {"files": checksums(folder, files)}
    return {"name": model, "revision": revision_of(model, revision, INDEX)}


def check_weights(model: str, revision: str | None, key: str) -> None:
    """Raises FileNotFoundError, naming `key` and the remedy, where a pipeline cannot be had; loads nothing.

    A repository that is not in the cache yet is looked up at its host: seconds, also without a network.
    """
    check_model(model, revision, key, _lack, INDEX)


def fetch(model: str, revision: str | None, key: str) -> Path:
    """The folder of a pipeline's files, which are downloaded into Hugging Face's cache if need be."""
    folder = whole_folder(model, revision, _lack, INDEX)
    if folder is not None:
        return folder
    check_weights(model, revision, key)
    revision = revision_of(model, revision, INDEX)
    from diffusers import DiffusionPipeline

    found = Path(DiffusionPipeline.download(model, revision=revision))
    wrong = _lack(found)
    if wrong:
        raise FileNotFoundError(f"{key}.model is {model!r}, but the repository {wrong}; take another one, or a folder")
    return found


def components(folder: Path) -> list[str]:
    """Names of the pipeline's parts: sub-folders of models, tokenizers and the scheduler."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return [name for name, kind in index.items() if isinstance(kind, list) and len(kind) == 2 and None not in kind]


def variant(folder: Path) -> str | None:
    """The variant, such as fp16, of a folder that has some of its weights in no other; else None."""
    for name in components(folder):
        weights = [path.name for kind in ("safetensors", "bin") for path in sorted((folder / name).glob(f"*.{kind}"))]
        variants = {part for file in weights for part in file.split(".")[1:-1]}
        if weights and variants and all("." in file.rpartition(".")[0] for file in weights):
            return sorted(variants)[0].partition("-")[0]
    return None


def _lack(folder: Path) -> str | None:
    """What a pipeline's folder lacks, in words that go on after its name; None where it is whole."""
    if not (folder / INDEX).is_file():
        return f"has no {INDEX}"
    try:
        names = components(folder)
    except ValueError as error:
        return f"has a damaged {INDEX} ({error})"
    for name in names:
        part = folder / name
        if not part.is_dir() or not any(part.iterdir()):
            return f"lacks its part {name}"
        wrong = lacking_weights(part) if (part / "config.json").is_file() else None
        if wrong:
            return f"has a part that is not whole: {name} {wrong}"
    return None
