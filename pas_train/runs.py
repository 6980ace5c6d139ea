"""The folder of one training run: named by method, data set and settings, so that the same command goes on with it."""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datamodules.files import atomic, fingerprint, read_json, sha256_file, write_json
from datamodules.sources import Sources, names_of, source_items
from pas_train.results import FILE, VERSION, results_of

# Trainer keys that change where and how fast a run goes, not what it learns.
RUNTIME = ("accelerator", "devices", "num_nodes", "logger", "callbacks", "enable_progress_bar", "log_every_n_steps",
           "enable_model_summary", "default_root_dir", "profiler", "strategy", "enable_checkpointing",
           "check_val_every_n_epoch", "val_check_interval", "num_sanity_val_steps", "benchmark")  # fmt: skip
# Likewise of the data module; which images they are is in the identity.
SPEED = ("num_workers", "source", "cache_folder")
# Of the evaluation, what changes how fast figures come and not what they are.
PACE = ("batch_size", "num_workers", "features_folder")
MANIFEST = "manifest.parquet"


def identity_of(source: Sources | None) -> str:
    """Identity of the data sets of a training: a manifest by its bytes, any other by its name; weights count."""
    if source is None:
        return "None"
    items = source_items(source)
    identities = [sha256_file(Path(item.source)) if Path(item.source).is_file() else item.source for item in items]
    if len(items) == 1 and items[0].synthetic is None:
        return identities[0]
    told = zip(identities, items, strict=True)
    return fingerprint([[identity, item.weight, item.synthetic] for identity, item in told])


def described(source: Sources | None) -> Any:
    """The setting as plain values."""
    if source is None or isinstance(source, str):
        return str(source)
    return [item if isinstance(item, str) else asdict(item) for item in source]


class Run:
    """training/<run>: config.yaml, checkpoints/, metrics.csv, results.json."""

    def __init__(self, workspace: Path, config: dict[str, Any], source: Sources | None) -> None:
        settings: dict[str, Any] = copy.deepcopy(
            {key: config.get(key) for key in ("model", "data", "trainer", "seed_everything")}
        )
        for key in RUNTIME:
            settings["trainer"].pop(key, None)
        arguments = settings["data"].get("init_args", settings["data"])
        for key in SPEED:
            arguments.pop(key, None)
        self.source = source
        identity = identity_of(source)
        method = str(settings["model"].get("class_path", "model")).rsplit(".", 1)[-1].lower()
        sets = dict.fromkeys(Path(name).parent.name for name in names_of(source) if Path(name).name == MANIFEST)
        data = "-".join(sets) if 0 < len(sets) < 3 else "mixed" if sets else "data"
        self.name = f"{method}-{data}-{fingerprint([settings, identity])[:8]}"
        self.folder = workspace / "training" / self.name
        self.data_identity = identity
        self.origin: dict[str, Any] = {}  # what its checkpoints remember of its images

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def untrained(self) -> Path:
        """The backbone's weights before the first step."""
        return self.checkpoints / "untrained.pt"

    @property
    def last(self) -> Path | None:
        """The newest good checkpoint, if there is one."""
        from pas_train.checkpoints import newest_good

        return newest_good(self.checkpoints)

    @property
    def trained(self) -> bool:
        """Whether training has ended as configured."""
        return (self.folder / "trained.json").exists()

    def mark_trained(self, steps: int, epochs: int) -> None:
        """Records the end of training."""
        write_json(self.folder / "trained.json", {"steps": steps, "epochs": epochs})

    @property
    def length(self) -> tuple[int, int | None]:
        """Steps and epochs of the training; 0 and None where it has not ended."""
        told = read_json(self.folder / "trained.json") or {}
        return int(told.get("steps", 0)), told.get("epochs")

    @property
    def results(self) -> dict[str, Any] | None:
        """results.json, if the evaluation is done."""
        return read_json(self.folder / FILE)

    def judged(self, settings: Any) -> bool:
        """Whether results.json, in today's format, is of these settings of the evaluation."""
        results = self.results
        return (
            results is not None
            and results.get("version") == VERSION
            and _asked(results) == _asked({"settings": settings})
        )

    def write_results(self, evaluation: dict[str, Any], **parts: Any) -> dict[str, Any]:
        """Writes results.json; parts: its other entries (pas_train.results)."""
        data = {"source": described(self.source), "identity": self.data_identity, **parts.pop("data", {})}
        results = results_of(self.name, data, evaluation, **parts)
        write_json(self.folder / FILE, results)
        return results

    def save_config(self, text: str) -> None:
        """Writes config.yaml: the whole configuration with every default, ready for --config."""
        with atomic(self.folder / "config.yaml") as temporary:
            temporary.write_text(text)


def _asked(results: dict[str, Any]) -> str:
    """Fingerprint of the settings that figures depend on."""
    return fingerprint({key: value for key, value in (results.get("settings") or {}).items() if key not in PACE})
