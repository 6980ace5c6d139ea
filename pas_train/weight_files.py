"""Reading published weights: files, folders and repositories of transformers and timm, timm's own by name."""

import argparse
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pas_train.weight_layouts import Published, attention_heads, convert, from_transformers, some

START_KEY = "model.weights"
TIMM, HUB = "timm", "hf:"

_MOCO = "https://dl.fbaipublicfiles.com/moco-v3"
# Published files that recipes name, and where they come from.
SOURCES = {
    f"{name}.pth.tar": f"{_MOCO}/{name}/{name}.pth.tar"
    for name in ("vit-s-300ep", "vit-b-300ep", "r-50-100ep", "r-50-300ep", "r-50-1000ep")
}
TORCHVISION = "https://download.pytorch.org/models"

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch's files began before its version 1.6


def read_weights(text: str, key: str, backbone: str) -> tuple[Published, str]:
    """(weights, what to call them) of a value of `model.weights`.

    key: the setting, for errors. backbone: of the model section.
    Raises: ValueError or FileNotFoundError.
    """
    if of_timm(text):
        return _read_timm(text.removeprefix(TIMM).removeprefix(":"), key, backbone)
    if text.startswith(HUB):
        return _read_hub(text.removeprefix(HUB), key), text.removeprefix(HUB)
    path = find_file(text, key)
    if path.is_dir():
        return _read_hub(str(path), key), path.name
    try:
        return convert(read_tensors(path)), path.name
    except (ValueError, OSError) as error:
        raise ValueError(f"{key}: {path}: {error}") from error


def look_for(text: str, backbone: str) -> tuple[bool, str]:
    """(whether the weights of `model.weights` are here, where they are or will be fetched from); downloads nothing.

    Raises: ValueError or FileNotFoundError, as `read_weights` does, where they cannot be had at all.
    """
    if not of_timm(text) and not text.startswith(HUB):
        return True, str(find_file(text, START_KEY))
    from huggingface_hub import try_to_load_from_cache

    if of_timm(text):
        repository = timm_repository(timm_name(text.removeprefix(TIMM).removeprefix(":"), START_KEY, backbone))
    else:
        repository = text.removeprefix(HUB)
        if Path(repository).expanduser().is_dir():
            return True, repository
    found = try_to_load_from_cache(repository, "model.safetensors")
    if isinstance(found, str):
        return True, found
    return False, f"{repository} will be fetched from the Hugging Face hub when the training starts"


def of_timm(text: str) -> bool:
    """Whether a value names timm's own weights."""
    return text == TIMM or text.startswith(f"{TIMM}:")


def source_of(name: str) -> str | None:
    """Where a published file of this name is to be had."""
    if re.fullmatch(r"(wide_)?resnex?t\w+-[0-9a-f]{8}\.pth", name):
        return f"{TORCHVISION}/{name}"
    return SOURCES.get(name)


def find_file(text: str, key: str) -> Path:
    """The file or folder of a path, or of a file that torch has downloaded before."""
    path = Path(text).expanduser()
    for candidate in (path, Path(torch.hub.get_dir(), "checkpoints", path.name)):
        if candidate.exists():
            return candidate
    where = source_of(path.name)
    hint = f" Download it from {where}." if where else ""
    if key == START_KEY:
        hint += (
            " Weights are a file (official MoCo v3, a .ckpt of a training, torchvision, timm), a folder that "
            "transformers saved, timm, timm:TAG or hf:NAME; null starts from random ones"
        )
    elif where is None:
        hint = " Checkpoints lie in WORKSPACE/training/RUN/checkpoints"
    raise FileNotFoundError(f"{key}: {text} does not exist.{hint}")


def read_tensors(path: Path) -> Any:
    """The content of a file of tensors, without running code that it may hold."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        archive = zipfile.is_zipfile(path)
        if archive:
            with zipfile.ZipFile(path) as parts:
                wrong = parts.testzip()
            if wrong is not None:
                raise OSError(f"the checksum of {wrong} is wrong")
        # What nobody takes, such as an optimiser's state, stays on the disk. DINO's and MAE's files hold arguments.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # what reading raises depends on the damage
        said = str(error).split("\n")[0]
        said = "torch does not know its format" if said.startswith("Weights only load failed") else said
        if "Unsupported global" in str(error):
            raise ValueError(
                "it holds more than tensors and numbers, and reading that could run code: give weights as "
                ".safetensors, or save its state dict alone"
            ) from error
        raise ValueError(
            f"it cannot be read ({said}); it is damaged or another kind of file: give weights as .safetensors, .pth or "
            ".ckpt"
        ) from error


def timm_name(tag: str, key: str, backbone: str) -> str:
    """A backbone's name in timm, with the tag of its weights where one is given. Raises ValueError for unknown tags."""
    import timm

    base, _, own = backbone.partition(".")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{base}.*")]
    choices = f"its tags are {', '.join(sorted(tags))}" if tags else "timm has none: give another model.backbone"
    if not base or not tags or (tag or own or tags[0]) not in tags:
        raise ValueError(
            f"{key}: timm has no weights {tag or own or ''} of {base or 'a model without model.backbone'}; {choices}"
        )
    return f"{base}.{tag or own}" if tag or own else base


def timm_repository(full: str) -> str:
    """Where timm has the weights of a full name from."""
    import timm

    settings: Any = timm.get_pretrained_cfg(full)
    return str(settings.hf_hub_id)


def _read_timm(tag: str, key: str, backbone: str) -> tuple[Published, str]:
    """The weights that timm has of a backbone. tag: which, or nothing for those that timm prefers."""
    import timm

    full = timm_name(tag, key, backbone)
    try:
        model: Any = timm.create_model(full, pretrained=True, num_classes=0)
    except Exception as error:  # of the hub's library, its network library, or timm
        raise unavailable(key, f"timm's weights of {full}", timm_repository(full), error) from error
    settings = model.pretrained_cfg
    tensors = {f"backbone.{name}": value for name, value in model.state_dict().items()}
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    base = full.partition(".")[0]
    name = f"timm {base}.{settings['tag']}" if settings.get("tag") else f"timm {base}"
    return Published(tensors, "timm's", [], attention_heads(model), mean, std), name


def unavailable(
    key: str, what: str, repository: str, error: Exception, setting: str = f"{START_KEY}: DIR"
) -> FileNotFoundError:
    """The error for weights that cannot be had. setting: how a folder of them is given."""
    said = str(error).split("\n")[0].rstrip(".")
    return FileNotFoundError(
        f"{key}: {what} are not here and cannot be fetched ({said}). Where there is a network, `hf download "
        f"{repository} --local-dir DIR` fetches them; then give the folder: {setting}"
    )


def _read_hub(name: str, key: str) -> Published:
    """Weights of a folder or a repository of the Hugging Face hub: those of transformers, or those of timm."""
    folder = Path(name).expanduser()
    local = folder.is_dir()
    try:
        config_file = folder / "config.json" if local else download(name, "config.json")
        config = json.loads(config_file.read_text())
    except Exception as error:  # of the hub's library, its network library, or a damaged file
        if local:
            said = str(error).split("\n")[0]
            raise ValueError(
                f"{key}: {name} has no config.json that can be read ({said}); give the weights' file"
            ) from error
        raise unavailable(key, f"the weights {HUB}{name}", name, error) from error
    try:
        if "architecture" in config:
            return _of_timm_repository(name, folder if local else None, config)
        return _read_transformers(name, config, local)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and not local:
            raise unavailable(key, f"the weights {HUB}{name}", name, error) from error
        raise ValueError(f"{key}: {name}: {error}") from error


def download(repository: str, file: str) -> Path:
    """A file of a repository of the Hugging Face hub, as it was fetched before or is now."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, file))


def _of_timm_repository(name: str, folder: Path | None, config: Mapping[str, Any]) -> Published:
    file = folder / "model.safetensors" if folder is not None else download(name, "model.safetensors")
    published = convert(read_tensors(file))
    settings = {**config, **config.get("pretrained_cfg", {})}
    for field in ("mean", "std"):
        if settings.get(field):
            setattr(published, field, tuple(settings[field]))
    published.layout = f"timm's {config['architecture']}"
    return published


def _read_transformers(name: str, config: Mapping[str, Any], local: bool) -> Published:
    """A model of transformers, whose library knows the namings of its own older files."""
    from_transformers({}, config)  # refuses other architectures before anything is loaded
    model, unexpected = load_transformers(name, local)
    published = from_transformers(model.state_dict(), config)
    published.left_out += unexpected
    for field, value in read_colours(name, local).items():
        setattr(published, field, value)
    return published


def load_transformers(name: str, local: bool) -> tuple[Any, list[str]]:
    """(a model of transformers, quietly loaded; keys of its files that it has not). Raises ValueError or OSError."""
    from transformers import AutoModel

    try:
        with quiet_transformers():
            model, report = AutoModel.from_pretrained(name, output_loading_info=True, local_files_only=local)
    except (KeyError, ImportError, RuntimeError) as error:
        raise ValueError(f"transformers cannot load it ({str(error).split(chr(10))[0]})") from error
    absent = sorted(one for one in report["missing_keys"] if not one.startswith("pooler."))
    if absent:
        raise ValueError(f"its files lack {len(absent)} tensors ({some(absent)})")
    return model, sorted(report["unexpected_keys"])


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Neither bars nor warnings of transformers in the block."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def read_colours(name: str, local: bool) -> dict[str, tuple[float, ...]]:
    """The `mean` and `std` of the colours that weights of transformers know; empty where nothing is said of them."""
    try:
        colours = Path(name, "preprocessor_config.json") if local else download(name, "preprocessor_config.json")
        text = colours.read_text()
    except OSError:  # not every repository has one
        return {}
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ValueError(f"its preprocessor_config.json cannot be read ({error})") from error
    given = {field: settings.get(f"image_{field}") for field in ("mean", "std")}
    return {field: tuple(value) for field, value in given.items() if value}
