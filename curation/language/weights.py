"""The files of a local model: where they are, whether they are whole, what identifies them. Imports no torch."""

import functools
import json
import re
from pathlib import Path
from typing import Any

from curation.packaged import resolve
from datamodules.files import sha256_file

# Larger folders are identified by the checksums of their small files and the sizes of the others.
HASHED_BYTES = 2_000_000_000
SMALL_BYTES = 50_000_000
TEMPLATES = ("tokenizer_config.json", "chat_template.jinja", "chat_template.json")  # where a chat template may stand
# What transformers reads; not the same weights in other libraries' formats.
WANTED = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "*.bin"]
UNWANTED = ["original/*", "onnx/*", "openvino/*", "consolidated*", "training_args.bin"]


def identify(model: str, revision: str | None) -> dict[str, Any]:
    """Checksums of a local folder, or the commit of a repository in the cache (else the revision as given)."""
    folder = local_folder(model)
    if folder is not None:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        stats = [(path, path.stat()) for path in files]
        return {"files": dict(_checksums(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)))}
    cached = cached_folder(model, revision)
    return {"revision": cached.name if cached else revision}


@functools.lru_cache(maxsize=16)
def _checksums(files: tuple[tuple[Path, int, int], ...]) -> tuple[tuple[str, str], ...]:
    whole = sum(size for _, size, _ in files) < HASHED_BYTES
    return tuple(
        (path.name, sha256_file(path) if whole or size < SMALL_BYTES else f"{size} bytes") for path, size, _ in files
    )


def local_folder(model: str) -> Path | None:
    """The folder that `model` names, or None where it is a repository's name."""
    folder = Path(resolve(model)).expanduser()
    return folder if folder.is_dir() else None


def cached_folder(model: str, revision: str | None) -> Path | None:
    """The snapshot of a repository in Hugging Face's cache, named by its commit; may lack files."""
    if not _is_repository(model):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _is_repository(model: str) -> bool:
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) is not None and not model.startswith(".")


def check_weights(model: str, revision: str | None, key: str) -> None:
    """Raises FileNotFoundError or ValueError, naming `key` and the remedy, where a model cannot be had or used.

    A repository that is not in the cache yet is looked up at its host: seconds, also without a network.
    """
    folder = local_folder(model)
    if folder is None and not _is_repository(model):
        raise FileNotFoundError(f"{key}.model is {model!r}, which is neither a folder nor the name of a repository")
    cached = None if folder else cached_folder(model, revision)
    place = folder or cached
    wrong = _wrong(place) if place else "is not in the cache"
    if wrong and cached:
        wrong = f"is not whole in the cache: {cached} {wrong}"
    if wrong and folder is not None:
        raise FileNotFoundError(f"{key}.model is {model!r}, but {folder} {wrong}; copy the model's folder anew")
    if wrong:
        _look_up(model, revision, key, wrong)
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


def _look_up(model: str, revision: str | None, key: str, wrong: str) -> None:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    at = f" at revision {revision!r}" if revision else ""
    try:
        # Ends at once without a network; a download would try for half a minute.
        files = [file.rfilename for file in HfApi().model_info(model, revision=revision, timeout=10).siblings or []]
        for name in ["config.json", *(name for name in TEMPLATES if name in files)]:  # the commit is known from now on
            hf_hub_download(model, name, revision=revision)
    except GatedRepoError:
        remedy = "its terms must be accepted on its page first; then log in with `hf auth login`"
    except RepositoryNotFoundError:
        remedy = "there is no such repository, or it needs a login with `hf auth login`"
    except RevisionNotFoundError:
        remedy = f"{key}.revision names no branch, tag or commit of it"
    except Exception as error:  # of a connection: requests', httpx's or httpx2's, as the version of the hub's client is
        option = f" --revision {revision}" if revision else ""
        remedy = (
            f"and its host cannot be reached ({str(error).splitlines()[0]}); run `hf download {model}{option}` where "
            f"there is a network and copy the cache (HF_HOME), or name a local folder in {key}.model"
        )
    else:
        return
    raise FileNotFoundError(f"{key}.model is {model!r}{at}, which {wrong}; {remedy}")


def _wrong(folder: Path) -> str | None:
    """What a model's folder lacks, in words that go on after its name; None where it is whole."""
    if not (folder / "config.json").is_file():
        return "has no config.json"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        return "has no tokenizer (tokenizer.json or tokenizer.model)"
    for kind in ("safetensors", "bin"):
        for index in sorted(folder.glob(f"*.{kind}.index.json")):
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            lacking = [name for name in names if not (folder / name).is_file()]
            if lacking:
                return f"lacks {len(lacking)} of its {len(names)} weight files, such as {lacking[0]}"
        weights = [path for path in sorted(folder.glob(f"*.{kind}")) if path.name != "training_args.bin"]
        broken = [path.name for path in weights if not _is_whole(path)]
        if broken:
            return f"has a file that is damaged or cut short, {broken[0]}"
        if weights:
            return None
    return "has no weights (*.safetensors)"


def _is_whole(path: Path) -> bool:
    """Whether a weight file has the length that its head states; also false for a pointer to a large file."""
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        return size > 1024
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            return False
        try:
            tensors = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


def _has_chat_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in TEMPLATES[1:]):
        return True
    config = folder / TEMPLATES[0]
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))
