"""The files of a local model: where they are, whether they are whole, what identifies them. Imports no torch."""

import json
from pathlib import Path
from typing import Any

from curation.repositories import cached_folder, checksums, is_repository, lacking_weights, local_folder, look_up

TEMPLATES = ("tokenizer_config.json", "chat_template.jinja", "chat_template.json")  # where a chat template may stand
# What transformers reads; not the same weights in other libraries' formats.
WANTED = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "*.bin"]
UNWANTED = ["original/*", "onnx/*", "openvino/*", "consolidated*", "training_args.bin"]


def identify(model: str, revision: str | None) -> dict[str, Any]:
    """Checksums of a local folder, or the commit of a repository in the cache (else the revision as given)."""
    folder = local_folder(model)
    if folder is not None:
        return {"files": checksums(folder, sorted(path for path in folder.iterdir() if path.is_file()))}
    cached = cached_folder(model, revision)
    return {"revision": cached.name if cached else revision}


def check_weights(model: str, revision: str | None, key: str) -> None:
    """Raises FileNotFoundError or ValueError, naming `key` and the remedy, where a model cannot be had or used.

    A repository that is not in the cache yet is looked up at its host: seconds, also without a network.
    """
    folder = local_folder(model)
    if folder is None and not is_repository(model):
        raise FileNotFoundError(f"{key}.model is {model!r}, which is neither a folder nor the name of a repository")
    cached = None if folder else cached_folder(model, revision)
    place = folder or cached
    wrong = _wrong(place) if place else "is not in the cache"
    if wrong and cached:
        wrong = f"is not whole in the cache: {cached} {wrong}"
    if wrong and folder is not None:
        raise FileNotFoundError(f"{key}.model is {model!r}, but {folder} {wrong}; copy the model's folder anew")
    if wrong:
        look_up(model, revision, key, wrong, others=TEMPLATES)
    place = place or cached_folder(model, revision)
    if place and not _has_chat_template(place):
        raise ValueError(
            f"{key}.model is {model!r}, which has no chat template: it was not trained to answer instructions; use its "
            f"instruct or chat variant, or put a chat_template.jinja into {place}"
        )


def fetch(model: str, revision: str | None, key: str) -> Path:
    """The folder of a model's files, which are downloaded into Hugging Face's cache if need be."""
    folder = local_folder(model) or cached_folder(model, revision)
    if folder is not None and not _wrong(folder):
        return folder
    check_weights(model, revision, key)
    cached = cached_folder(model, revision)
    revision = cached.name if cached else revision  # the commit that was looked up, though the branch may have moved
    from huggingface_hub import list_repo_files, snapshot_download

    safe = any(name.endswith(".safetensors") for name in list_repo_files(model, revision=revision))
    unwanted = [*UNWANTED, "*.bin"] if safe else UNWANTED
    return Path(snapshot_download(model, revision=revision, allow_patterns=WANTED, ignore_patterns=unwanted))


def _wrong(folder: Path) -> str | None:
    """What a model's folder lacks, in words that go on after its name; None where it is whole."""
    if not (folder / "config.json").is_file():
        return "has no config.json"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        return "has no tokenizer (tokenizer.json or tokenizer.model)"
    return lacking_weights(folder)


def _has_chat_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in TEMPLATES[1:]):
        return True
    config = folder / TEMPLATES[0]
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))
