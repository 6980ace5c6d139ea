"""What the prototypes say of the data sets: assignments, counts, a JSON file, pictures and a page."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.decoding import RefusedImage
from datamodules.files import write_json
from datamodules.image_source import JoinedSources
from datamodules.labelled import LIMITS
from datamodules.sources import names_of
from datamodules.store import StoreError
from pas_train.analysis.naming import short_names
from pas_train.protosim.assigning import Assignments, assign, test_crop
from pas_train.protosim.pictures import TILES, Example, Strip, draw_strips, draw_use
from pas_train.protosim.report import write_report
from pas_train.protosim.usage import (
    Part,
    Usage,
    count_usage,
    images_behind,
    kinds,
    log_chance,
    random_splits,
    summary,
)
from pas_train.ranks import meeting_place


@dataclass(frozen=True)
class Settings:
    """How prototypes are told apart.

    Args:
        purity: shares of a prototype's images, each image counted as a share of its set, from which it is a set's own.
        splits: random splits of all images that the real one is held against.
        shown: exclusive prototypes of each set with pictures.
        seed: of the random splits.
    """

    purity: tuple[float, ...] = (0.99, 0.95, 0.9)
    splits: int = 20
    shown: int = 12
    seed: int = 0


def compare_trained(module: Any, data: Any, folder: Path) -> None:
    """At the end of a training, on all ranks: writes the comparison of the data sets that it was trained on."""
    if not isinstance(data.rows, JoinedSources) or len(data.rows.parts) < 2:
        if module.trainer.is_global_zero:
            print("protosim    data.source is one data set: nothing to compare", flush=True)
        return
    device = module.trainer.strategy.root_device
    module.to(device)
    compare(module, data.rows, short_names(names_of(data.source)), folder, data._worker_count(), device)
    module.cpu()


def compare(
    module: Any, source: JoinedSources, names: Sequence[str], folder: Path, workers: int, device: torch.device,
    settings: Settings | None = None,
) -> None:  # fmt: skip
    """Writes assignments/, protosim.json, pictures and index.html; all ranks call it together."""
    settings = settings or Settings()
    meet = meeting_place()
    zero = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    was_training = module.training
    module.eval()
    identity = {"model": identity_of(module), "sources": source.fingerprint(), "image_size": module.image_size}
    store = Assignments(folder / "assignments", len(source), identity)
    if zero:
        store.begin()
        print(
            f"protosim    {len(source):,} images are assigned to {len(module.student.prototypes):,} prototypes",
            flush=True,
        )
    todo = meet.told(store.missing() if zero else [])  # one look for all: a fast rank's first part would race another
    meet.together(lambda: assign(module, source, LIMITS, store, todo, workers, device))

    def tell() -> None:
        for line in write_comparison(
            store, source, names, len(module.student.prototypes), module.image_size, folder, settings
        ):
            print(f"protosim    {line}", flush=True)

    meet.together(tell if zero else lambda: None)
    module.train(was_training)


def identity_of(module: Any) -> str:
    """Hash of what assigns: the transformer and the analysed prototypes."""
    head = module.teacher if module.analysed == "teacher" else module.student
    digest = hashlib.sha256()
    for name, value in [*module.vit.state_dict().items(), ("prototypes", head.prototypes)]:
        digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_comparison(
    store: Assignments, source: JoinedSources, names: Sequence[str], prototypes: int, image_size: int, folder: Path,
    settings: Settings,
) -> Iterator[str]:  # fmt: skip
    """Counts, and writes everything but the assignments; yields what it found, in lines."""
    sets = len(names)
    of_row = source.part_of_rows()

    def parts() -> Iterator[Part]:
        for rows, assigned in store:
            yield of_row[rows], assigned

    usage = count_usage(parts(), prototypes, sets)
    if not (usage.sizes > 0).all():
        empty = names[int(np.argmin(usage.sizes))]
        raise ValueError(f"data.source: no image of {empty} can be read, so there is nothing to compare")
    kind = kinds(usage.images, usage.sizes)
    result = _figures(parts, usage, kind, names, settings)
    unreadable = np.bincount(of_row, minlength=sets) - usage.sizes
    sources = [
        {"name": name, "images": int(size), "unreadable": int(missing)}
        for name, size, missing in zip(names, usage.sizes, unreadable, strict=True)
    ]
    listed = _exclusive(usage, kind, names)
    pictures = []
    for place, name in enumerate(names):
        mine = [one for one in listed if one["set"] == name][: settings.shown]
        strips = _strips(store, source, of_row, place, mine, image_size)
        path = folder / f"exclusive-{place + 1}.png"
        path.unlink(missing_ok=True)
        if strips:
            draw_strips(path, strips, place)
            pictures.append((name, path, len(strips)))
    if sets == 2:
        draw_use(folder / "use.png", usage.images, usage.sizes, names, kind)
    written = {
        "version": 1, "sets": sources, "prototypes": prototypes, "settings": asdict(settings), **store.record,
        **result, "exclusive_prototypes": listed,
    }  # fmt: skip
    write_json(folder / "protosim.json", json.loads(json.dumps(written)))
    write_report(folder, written, pictures)
    found = result["all_tokens"]
    own = [
        f"{one['prototypes']:,} only of {name} ({one['images']:,} images)" for name, one in found["exclusive"].items()
    ]
    yield f"{prototypes:,} prototypes: {found['shared']:,} shared, {', '.join(own)}, {found['unused']:,} unused"
    chance = [f"{one['mean']:.1f} of {name}" for name, one in result["random_split"]["exclusive"].items()]
    yield f"by chance   {' and '.join(chance)}, where the same images are split at random"
    yield f"written     {folder / 'index.html'}"


def _figures(parts: Any, usage: Usage, kind: np.ndarray, names: Sequence[str], settings: Settings) -> dict[str, Any]:
    """The counts by rule: all tokens, the class token alone, lower purities, random splits."""
    sets = len(names)
    heads = kinds(usage.class_tokens, usage.sizes)
    figures: dict[str, Any] = {
        "all_tokens": summary(kind, names, images_behind(parts(), kind, sets)),
        "class_token": summary(heads, names, images_behind(parts(), heads, sets, class_only=True)),
        "purity": {},
    }
    for purity in settings.purity:
        purer = kinds(usage.images, usage.sizes, purity)
        figures["purity"][str(purity)] = summary(purer, names, images_behind(parts(), purer, sets))
    drawn = [
        np.bincount(split[split >= 0], minlength=sets)
        for split in (
            kinds(images, usage.sizes)
            for images in random_splits(parts(), len(usage.images), usage.sizes, settings.splits, settings.seed)
        )
    ]
    counts = np.stack(drawn) if drawn else np.zeros((1, sets), int)
    figures["random_split"] = {
        "splits": settings.splits,
        "exclusive": {
            name: {"mean": float(one.mean()), "low": int(one.min()), "high": int(one.max())}
            for name, one in zip(names, counts.T, strict=True)
        },
    }
    # What hardly any patch, but the class tokens of images have: prototypes of whole images.
    patches = usage.tokens.sum(axis=1) - usage.class_tokens.sum(axis=1)
    figures["whole_image_prototypes"] = int(((usage.class_tokens.sum(axis=1) > 0) & (patches == 0)).sum())
    return figures


def _exclusive(usage: Usage, kind: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """The exclusive prototypes, those of most images first."""
    total = int(usage.sizes.sum())
    listed = []
    for prototype in np.flatnonzero(kind >= 0).tolist():
        place = int(kind[prototype])
        images = int(usage.images[prototype, place])
        listed.append(
            {
                "prototype": prototype, "set": names[place], "images": images,
                "tokens": int(usage.tokens[prototype, place]),
                "class_tokens": int(usage.class_tokens[prototype, place]),
                "log10_chance": round(log_chance(images, int(usage.sizes[place]), total), 2),
            }
        )  # fmt: skip
    return sorted(listed, key=lambda one: (-one["images"], one["prototype"]))


def _strips(
    store: Assignments, source: JoinedSources, of_row: np.ndarray, place: int, listed: list[dict[str, Any]], size: int
) -> list[Strip]:
    """The images of each listed prototype in which it has the most tokens; adds their names to the list."""
    best: dict[int, list[tuple[int, int, np.ndarray]]] = {one["prototype"]: [] for one in listed}
    if not best:
        return []
    for rows, assigned in store:
        for prototype, held in best.items():
            counts = (assigned == prototype).sum(axis=1)
            for i in np.argsort(-counts, kind="stable")[:TILES]:
                if counts[i]:
                    held.append((int(counts[i]), int(rows[i]), assigned[i] == prototype))
            held.sort(key=lambda one: (-one[0], one[1]))
            del held[TILES:]
    strips = []
    for one in listed:
        examples, one["examples"] = [], []
        for _, row, has in best[one["prototype"]]:
            one["examples"].append(source.describe(row))
            side = round((len(has) - 1) ** 0.5)
            try:
                pixels = test_crop(source.pixels(row, LIMITS), size)
            except (RefusedImage, StoreError, OSError):  # since it was assigned
                continue
            examples.append(Example(pixels, has[1:].reshape(side, side), bool(has[0])))
        strips.append(Strip(one["prototype"], one["images"], one["tokens"], examples))
    return strips


def load_protosim(checkpoint: str) -> Any:
    """The trained module of a checkpoint of `fit --config protosim.yaml`; needs no other file.

    Raises: FileNotFoundError or ValueError naming --protosim.
    """
    from pas_train.checkpoints import read_checkpoint
    from pas_train.protosim.module import ProtoSim

    try:
        content = read_checkpoint(checkpoint, "of ProtoSim")
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace("--ckpt_path", "--protosim")) from error
    settings = content.get("hyper_parameters") or {}
    if not {"prototypes", "hard_from"} <= set(settings):
        raise ValueError(f"--protosim: {checkpoint} is no checkpoint of `fit --config protosim.yaml`")
    own = {key: value for key, value in settings.items() if not key.startswith("_")}  # LightningCLI adds its own
    module = ProtoSim(**{**own, "weights": None, "heads": None})
    module.load_state_dict(content["state_dict"])
    return module.eval()
