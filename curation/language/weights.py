"""The files of a local model: where they are, whether they are whole, what identifies them. Imports no torch."""

import json
from pathlib import Path
from typing import Any

from curation.repositories import check_model, checksums, lacking_weights, local_folder, revision_of, whole_folder

TEMPLATES = ("tokenizer_config.json", "chat_template.jinja", "chat_template.json")  # where a chat template may stand
# What transformers reads; not the same weights in other libraries' formats.
WANTED = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "*.bin"]
UNWANTED = ["original/*", "onnx/*", "openvino/*", "consolidated*", "training_args.bin"]


def identify(model: str, revision: str | None) -> dict[str, Any]:
    """Checksums of a local folder, or the commit of a repository in the cache (else the revision as given)."""
    folder = local_folder(model)
    if folder is not None:
        return {"files": checksums(folder, sorted(path for path in folder.iterdir() if path.is_file()))}
    return {"revision": revision_of(model, revision)}


def check_weights(model: str, revision: str | None, key: str) -> None:
    """Raises FileNotFoundError or ValueError, naming `key` and the remedy, where a model cannot be had or used.

    A repository that is not in the cache yet is looked up at its host: seconds, also without a network.
    """
    place = check_model(model, revision, key, _lack, others=TEMPLATES)
    if place and not _has_chat_template(place):
        raise ValueError(
            f"{key}.model is {model!r}, which has no chat template: it was not trained to answer instructions; use its "
            f"instruct or chat variant, or put a chat_template.jinja into {place}"
        )


def fetch(model: str, revision: str | None, key: str) -> Path:
    """The folder of a model's files, which are downloaded into Hugging Face's cache if need be."""
    folder = whole_folder(model, revision, _lack)
    if folder is not None:
        return folder
    check_weights(model, revision, key)
    revision = revision_of(model, revision)
    from huggingface_hub import list_repo_files, snapshot_download

    safe = any(name.endswith(".safetensors") for name in list_repo_files(model, revision=revision))
    unwanted = [*UNWANTED, "*.bin"] if safe else UNWANTED
    return Path(snapshot_download(model, revision=revision, allow_patterns=WANTED, ignore_patterns=unwanted))


def _lack(folder: Path) -> str | None:
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
