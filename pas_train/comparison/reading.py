"""Results of trainings and evaluations: found in files and folders, or in Weights & Biases."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from datamodules.files import read_json
from pas_train.results import FILE, read_results

FIGURES = ".evaluation.json"
WANDB = "wandb:"
# Of a workspace, where results lie; its other folders may hold millions of files.
WORKSPACE, WITH_RESULTS = "workspace.json", ("training", "evaluation")
PASSED_OVER = ("wandb", "features", "embeddings")
# Trainer keys that change what a training learns, rather than where and how fast it runs.
LEARNT = ("max_epochs", "max_steps", "max_time", "precision", "accumulate_grad_batches", "gradient_clip_val",
          "gradient_clip_algorithm", "sync_batchnorm", "limit_train_batches", "overfit_batches")  # fmt: skip
BESIDE = (
    "num_workers",
    "source",
    "cache_folder",
    "knn_bank",
    "knn_queries",
    "prefetch_factor",
    "photometry",
    "compile",
    "channels_last",
)
SHOWN = 6  # of a list of files in a message


@dataclass
class Result:
    """One results.json.

    place: its file, or the run's address in W&B. modified: when, in seconds; of two about the same the newer counts.
    config: the training's model, data and trainer sections, if they are known.
    """

    place: str
    content: dict[str, Any]
    modified: float
    config: dict[str, Any] | None = None

    @property
    def run(self) -> str:
        """Name of the training, or of the published weights."""
        return str(self.content.get("run") or Path(self.place).parent.name)

    @property
    def training(self) -> dict[str, Any]:
        """The entry `training`; empty for published weights."""
        return self.content.get("training") or {}

    @cached_property
    def recipe(self) -> dict[str, Any] | None:
        """All settings by which a training learns, flat: {"model.temperature": 0.2}; without seeds and images."""
        return None if self.config is None else recipe_of(self.config)

    @cached_property
    def arguments(self) -> set[str]:
        """Names of all settings of model and data that the program knew: {"model.temperature"}."""
        known = self.config or {}
        return {f"{part}.{name}" for part in ("model", "data") for name in _arguments(known.get(part))}

    @cached_property
    def seeds(self) -> tuple[Any, ...]:
        """All seeds of the training."""
        known = flat({key: (self.config or {}).get(key) for key in ("model", "data", "seed_everything")})
        own = (value for key, value in sorted(known.items()) if "seed" in key.rsplit(".", 1)[-1])
        return (self.training.get("seed"), *own)

    @property
    def watched(self) -> tuple[str, str] | None:
        """Bank and queries of the online k-NN accuracy, where they are known."""
        data = _arguments((self.config or {}).get("data"))
        return (str(data["knn_bank"]), str(data.get("knn_queries"))) if data.get("knn_bank") else None


def flat(value: Any, before: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"a": {"b": 1}} is {"a.b": 1}."""
    if not isinstance(value, dict):
        return {before: value}
    return {key: one for name, part in value.items() for key, one in flat(part, f"{before}.{name}".strip(".")).items()}


def recipe_of(config: dict[str, Any]) -> dict[str, Any]:
    """What a training learns by, of its configuration, flat."""
    model, data = dict(_arguments(config.get("model"))), dict(_arguments(config.get("data")))
    for key in BESIDE:
        data.pop(key, None)
        model.pop(key, None)
    trainer = {key: (config.get("trainer") or {}).get(key) for key in LEARNT}
    every = flat({"model": model, "data": data, "trainer": {k: v for k, v in trainer.items() if v is not None}})
    return {key: value for key, value in every.items() if key.rsplit(".", 1)[-1] != "seed"}


def _arguments(section: Any) -> dict[str, Any]:
    return ((section or {}).get("init_args") or section or {}) if isinstance(section, dict) else {}


def unfinished(places: Sequence[str]) -> list[str]:
    """What sweeps among the places still lack; for the reader."""
    notes = []
    for place in places:
        runs = (read_json(Path(place) / "runs.json") or {}).get("runs") or [] if Path(place).is_dir() else []
        done = sum(run.get("state") == "finished" for run in runs)
        if done < len(runs):
            notes.append(f"{done} of {len(runs)} runs of the sweep in {place} are finished.")
    return notes


def read_all(places: Sequence[str]) -> list[Result]:
    """The results of all places, each file once: run folders, files, workspaces, sweeps, or wandb:ENTITY/PROJECT.

    Raises FileNotFoundError where a place holds none, ValueError for results of another version, each file named.
    """
    found: dict[str, Result] = {}
    for place in places:
        if place.startswith(WANDB):
            from pas_train.comparison.wandb_results import read_project

            found |= {result.place: result for result in read_project(place.removeprefix(WANDB))}
            continue
        files = find_files(Path(place))
        if not files:
            raise FileNotFoundError(
                f"{place}: no {FILE} and no *{FIGURES} in it; `fit` writes them at its end, `evaluate` for a "
                f"checkpoint{_unfinished(Path(place))}"
            )
        found |= _read(files, found)
    # A sweep keeps copies of the results of its runs: each counts once.
    alike = {json.dumps(result.content, sort_keys=True): result for result in reversed(found.values())}
    return list(reversed(alike.values()))


def _read(files: Sequence[Path], known: dict[str, Result]) -> dict[str, Result]:
    results, wrong = {}, []
    for path in files:
        name = str(path.resolve())
        if name in known:
            continue
        try:
            results[name] = Result(str(path), read_results(path), path.stat().st_mtime, _config(path))
        except json.JSONDecodeError as error:
            wrong.append(f"{path} is damaged ({error}); evaluate again")
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        more = [f"- and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        raise ValueError("\n".join(["results that cannot be compared:", *(f"- {one}" for one in wrong[:SHOWN]), *more]))
    return results


def find_files(place: Path) -> list[Path]:
    """The files of results of a run, a file, a workspace, a sweep, or any folder above them, in a fixed order.

    Raises FileNotFoundError where there is no such place.
    """
    if not place.exists():
        raise FileNotFoundError(
            f"{place} does not exist; give the folder of a run, a {FILE}, a workspace, the folder of a sweep, or "
            f"{WANDB}ENTITY/PROJECT"
        )
    if place.is_file():
        return [place]
    found: dict[Path, None] = {}
    for folder, below, names in os.walk(place):
        here = Path(folder)
        wanted = [name for name in below if not name.startswith(".") and name not in PASSED_OVER]
        below[:] = sorted(set(wanted) & set(WITH_RESULTS) if WORKSPACE in names else wanted)
        found |= {here / name: None for name in sorted(names) if name == FILE or name.endswith(FIGURES)}
    return list(found)


def _unfinished(place: Path) -> str:
    """What to say where trainings have begun, but none is judged."""
    begun = [path.parent.name for path in sorted(place.glob("training/*/config.yaml"))]
    begun += [place.name] if (place / "config.yaml").exists() else []
    return f" (begun, but not finished: {', '.join(begun[:SHOWN])})" if begun else ""


def _config(path: Path) -> dict[str, Any] | None:
    """The training's sections of the config.yaml of the run that a file of results lies in."""
    for folder in (path.parent, path.parent.parent):
        try:
            text = (folder / "config.yaml").read_text()
        except OSError:
            continue
        return _sections(text)
    return None


def _sections(text: str) -> dict[str, Any] | None:
    """Only these sections are parsed: of 200 runs that is the longest part of reading them."""
    kept, keep = [], False
    for line in text.splitlines(keepends=True):
        if line[:1].isalpha():
            keep = line.partition(":")[0] in ("model", "data", "trainer", "seed_everything")
        if keep:
            kept.append(line)
    try:
        config = yaml.load("".join(kept), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return None
    return config if isinstance(config, dict) and config.get("model") else None
