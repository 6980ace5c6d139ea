"""The birds of iNaturalist 2021 (Van Horn et al., 2021): 1,486 species."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.datasets.downloads import Archive
from datamodules.datasets.known_set import KnownSet, Listing, folders_in, images_below, unique_names

BASE = "https://ml-inat-competition-datasets.s3.amazonaws.com/2021"
# The smallest of the annotations: it names all species.
NAMES = Archive(f"{BASE}/val.json.tar.gz", "4d761e0f6a86cc63e8f7afc91f6a8f0b", "val.json")
IMAGES = {
    "train": Archive(f"{BASE}/train.tar.gz", "e0526d53c7f7b2e3167b2b43bb2690ed", "train"),
    "train_mini": Archive(f"{BASE}/train_mini.tar.gz", "db6ed8330e634445efc8fec83ae81442", "train_mini"),
    "val": Archive(f"{BASE}/val.tar.gz", "f6f6e0e242e3d4c9569ba56400938afc", "val"),
}


def read(folder: Path, split: str) -> Listing:
    """`SPLIT/NNNNN_Animalia_Chordata_Aves_.../IMAGE`, of which those with Aves are the birds.

    Names are the common ones of val.json, train_mini.json or train.json, the first that is there; else, and where a
    species has none, the scientific ones of the folders. The test images' labels were never published.
    """
    species = [name for name in folders_in(folder / split) if _is_bird(name)]
    if not species:
        raise ValueError(f"{folder / split} has no folder of birds, such as 03111_Animalia_Chordata_Aves_...")
    below = [images_below(folder / split, name) for name in species]
    files = [f"{split}/{file}" for own in below for file in own]
    labels = np.repeat(np.arange(len(species)), [len(own) for own in below]).astype(np.int64)
    common = _common_names(folder)
    names = [common.get(name) or " ".join(name.split("_")[-2:]) for name in species]
    return Listing(folder, files, labels, unique_names(names, [" ".join(name.split("_")[-2:]) for name in species]))


def _is_bird(name: str) -> bool:
    parts = name.split("_")
    return len(parts) > 4 and parts[3] == "Aves"


def _common_names(folder: Path) -> dict[str, str]:
    """Folder of a species -> its common name."""
    path = next((folder / f"{n}.json" for n in ("val", "train_mini", "train") if (folder / f"{n}.json").exists()), None)
    if path is None:
        return {}
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["categories"]
        return {entry["image_dir_name"]: str(entry.get("common_name") or "") for entry in entries}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is none of iNaturalist's annotations ({error!r}); fetch it again") from None


SET = KnownSet(
    "inat-2021-birds",
    "iNat-2021's birds",
    "inat-2021",
    ("train", "train_mini", "val"),
    {"train": 414_847, "train_mini": 74_300, "val": 14_860},
    "train",
    "val",
    1_486,
    (
        "train/03111_Animalia_Chordata_Aves_Accipitriformes_Accipitridae_Accipiter_badius/IMAGE.jpg, val/... likewise",
        "val.json (for common names; may be left out)",
    ),
    f"Add download=true to fetch a split with its names (train 224 GB, train_mini 42 GB, val 8 GB), or unpack {BASE}/"
    "train.tar.gz, val.tar.gz and val.json.tar.gz yourself.",
    read,
    {split: (NAMES, archive) for split, archive in IMAGES.items()},
)
