"""Models by the name of a Hugging Face repository or a local folder: found, whole, identified. Imports no torch."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from curation.packaged import resolve
from datamodules.files import sha256_file

# Large files of a larger folder are identified by parts of them: hashing 90 GB at each start would take minutes.
HASHED_BYTES = 2_000_000_000
SMALL_BYTES = 50_000_000
SAMPLES, SAMPLE_BYTES = 64, 65_536

# What a model's folder lacks, in words that go on after its name; None where it is whole.
Lack = Callable[[Path], str | None]


def local_folder(model: str) -> Path | None:
    """The folder that `model` names, or None where it is a repository's name."""
    folder = Path(resolve(model)).expanduser()
    return folder if folder.is_dir() else None


def is_repository(model: str) -> bool:
    """Whether a name can be a repository's: NAME or OWNER/NAME."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) is not None and not model.startswith(".")


def cached_folder(model: str, revision: str | None, file: str = "config.json") -> Path | None:
    """The snapshot of a repository in Hugging Face's cache, named by its commit, that has `file`; may lack others."""
    if not is_repository(model):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, file, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def revision_of(model: str, revision: str | None, file: str = "config.json") -> str | None:
    """The commit of a repository in the cache, though its branch may have moved; else the revision as given."""
    cached = cached_folder(model, revision, file)
    return cached.name if cached else revision


def whole_folder(model: str, revision: str | None, lack: Lack, file: str = "config.json") -> Path | None:
    """A model's folder, its own or in the cache, that lacks nothing."""
    folder = local_folder(model) or cached_folder(model, revision, file)
    return folder if folder is not None and not lack(folder) else None


def check_model(
    model: str, revision: str | None, key: str, lack: Lack, file: str = "config.json", others: Iterable[str] = ()
) -> Path | None:
    """Raises FileNotFoundError, naming `key` and the remedy, where a model cannot be had; loads nothing.

    A repository that is not whole in the cache is looked up at its host: seconds, also without a network. Returns the
    model's folder, which may lack what is still to be downloaded. file, others: as of `look_up`.
    """
    folder = local_folder(model)
    if folder is None and not is_repository(model):
        raise FileNotFoundError(f"{key}.model is {model!r}, which is neither a folder nor the name of a repository")
    place = folder or cached_folder(model, revision, file)
    wrong = lack(place) if place else "is not in the cache"
    if wrong and folder is not None:
        raise FileNotFoundError(f"{key}.model is {model!r}, but {folder} {wrong}; copy the model's folder anew")
    if wrong and place:
        wrong = f"is not whole in the cache: {place} {wrong}"
    if wrong:
        look_up(model, revision, key, wrong, file, others)
    return place or cached_folder(model, revision, file)


def look_up(
    model: str, revision: str | None, key: str, wrong: str, file: str = "config.json", others: Iterable[str] = ()
) -> None:
    """Asks a repository's host for it and caches its small `file`, so that its commit is known from now on.

    Raises FileNotFoundError that names `key`, what is `wrong` with it in words that go on after "which", and the
    remedy, where the repository cannot be had: in seconds, also without a network. others: small files that are cached
    too, where the repository has them.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    at = f" at revision {revision!r}" if revision else ""
    try:
        # Ends at once without a network; a download would try for half a minute.
        found = [entry.rfilename for entry in HfApi().model_info(model, revision=revision, timeout=10).siblings or []]
        for name in [file, *(name for name in others if name in found)]:
            hf_hub_download(model, name, revision=revision)
    except GatedRepoError:
        remedy = "its terms must be accepted on its page first; then log in with `hf auth login`"
    except RepositoryNotFoundError:
        remedy = "there is no such repository, or it needs a login with `hf auth login`"
    except RevisionNotFoundError:
        remedy = f"{key}.revision names no branch, tag or commit of it"
    except Exception as error:  # of a connection: requests', httpx's or httpx2's, as the version of the hub's client is
        option = f" --revision {revision}" if revision else ""
        said = (str(error).splitlines() or [type(error).__name__])[0]
        offline = "offline mode" in said  # HF_HUB_OFFLINE, or `doctor`
        why = "nothing is downloaded in offline mode" if offline else f"its host cannot be reached ({said})"
        remedy = (
            f"and {why}; run `hf download {model}{option}` where there is a network and copy the cache (HF_HOME), or "
            f"name a local folder in {key}.model"
        )
    else:
        return
    raise FileNotFoundError(f"{key}.model is {model!r}{at}, which {wrong}; {remedy}")


def lacking_weights(folder: Path) -> str | None:
    """What a folder of weights lacks, in words that go on after its name; None where all of its files are whole."""
    for kind in ("safetensors", "bin"):
        for index in sorted(folder.glob(f"*.{kind}.index*.json")):
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
    tensors, start = _head(path)
    return tensors is not None and size == start + max((entry["data_offsets"][1] for entry in tensors), default=0)


def _head(path: Path) -> tuple[list[dict] | None, int]:
    """What a .safetensors file says of its tensors, None where its head is damaged, and where their data begin."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if path.stat().st_size < 8 + length:
            return None, 0
        try:
            tensors = json.loads(file.read(length))
        except ValueError:
            return None, 0
    return [{"name": name, **entry} for name, entry in tensors.items() if name != "__metadata__"], 8 + length


def stored_numbers(path: Path) -> int:
    """How many parameters a whole .safetensors file holds (places of tokens, which libraries make anew, left out)."""
    total = 0
    for entry in _head(path)[0] or []:
        if not entry["name"].endswith("position_ids"):
            count = 1
            for side in entry["shape"]:
                count *= side
            total += count
    return total


def checksums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Path relative to `folder` -> SHA-256 of each file; of parts of the large files where they are 2 GB or more."""
    stats = [(path, path.stat()) for path in files]
    found = _checksums(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))
    return {path.relative_to(folder).as_posix(): checksum for path, checksum in found}


@functools.lru_cache(maxsize=16)
def _checksums(files: tuple[tuple[Path, int, int], ...]) -> tuple[tuple[Path, str], ...]:
    whole = sum(size for _, size, _ in files) < HASHED_BYTES
    return tuple(
        (path, sha256_file(path) if whole or size < SMALL_BYTES else _sampled(path, size)) for path, size, _ in files
    )


def _sampled(path: Path, size: int) -> str:
    """SHA-256 of a large file's size and of evenly spaced parts, which another training of the model changes."""
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for number in range(SAMPLES):
            digest.update(os.pread(file.fileno(), SAMPLE_BYTES, number * (size - SAMPLE_BYTES) // (SAMPLES - 1)))
    return f"sampled:{digest.hexdigest()}"
