"""results.json: what a training was and how its backbone is judged. Read by `compare` and the report; imports no torch.

    version     2
    run         name of the training, or of the published weights
    data        source and identity, as checkpoints remember them; of a training also `name`, `images`, `synthetic`
                (numbers) and `curated` (whether it was made here)
    training    null for published weights, else `method`, `backbone`, `seed`, `epochs`, `steps`, `batch_size`,
                `image_size`, `images_seen`, `forward_passes` (of single views through an encoder, momentum encoder
                included) and `curve`, the online k-NN accuracy: [{"images_seen": int, "top1": share}, ...]
    labels      `domain`, `group` and `tags` of the run
    screening   data set -> `screened`, `images`, `unscreened`, `why` (pas_train.evaluation.screening)
    backbones   backbone -> `title`, `kind` (trained | start | untrained | pixels | published), `architecture`,
                `identity` (of its weights)
    protocols   data set -> `train`, `test` (fingerprints), `train_images`, `test_images`, `classes`, `image_size`,
                `precision` (of the extraction of features), and `figures`: name -> the settings behind it
    evaluation  data set -> backbone -> name -> figures. Of classification `top1`, `top5`, `mean_per_class`, `interval`
                (95 %, of top1 over the test images), or a `score`; of `segmentation` `miou`, `macc`, `accuracy` (of
                pixels); of `detection` `map`, `map50`, `map75` (COCO's). Of several seeds also `seeds`: of each the
                top1, miou or map. All but scores are shares in [0, 1]
    settings    the yaml's `evaluation`

A backbone is `trained`, `start`, `untrained` and `pixels`, or the name of a published one as in evaluation.baselines.
What `evaluate --ckpt_path` was given is `trained` also where it is published weights; its kind is `published` then.
"""

from pathlib import Path
from typing import Any

from datamodules.files import read_json

VERSION = 2
FILE = "results.json"
# Of figures on masks and boxes what is shown, and how papers write it: figure -> entry -> title. The first says most.
MEASURES = {
    "segmentation": {"miou": "mIoU", "macc": "mAcc"},
    "detection": {"map": "mAP", "map50": "AP50", "map75": "AP75"},
}


def results_of(
    run: str, data: dict[str, Any], evaluation: dict[str, Any], training: dict[str, Any] | None = None,
    labels: dict[str, Any] | None = None, screening: dict[str, Any] | None = None,
    backbones: dict[str, Any] | None = None, protocols: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The content of a results.json."""
    return {
        "version": VERSION, "run": run, "data": data, "training": training, "labels": labels or {},
        "screening": screening or {}, "backbones": backbones or {}, "protocols": protocols or {},
        "evaluation": evaluation, "settings": settings or {},
    }  # fmt: skip


def joined(results: dict[str, Any], earlier: Any) -> dict[str, Any]:
    """Results with those that an earlier evaluation of the same weights has besides.

    earlier: content of a file, or None. Of a data set that was judged on other images or in another size nothing stays.
    """
    if not isinstance(earlier, dict) or earlier.get("version") != VERSION:
        return results
    backbones = results["backbones"]
    same = [key for key, told in (earlier.get("backbones") or {}).items()
            if key in backbones and told.get("identity") == backbones[key].get("identity")]  # fmt: skip
    for data_set, protocol in (earlier.get("protocols") or {}).items() if same else ():
        own = results["protocols"].setdefault(data_set, {**protocol, "figures": {}})
        if {**protocol, "figures": None} != {**own, "figures": None}:
            continue
        more = {name: told for name, told in protocol["figures"].items() if name not in own["figures"]}
        own["figures"] = {**own["figures"], **more}
        if data_set not in results["evaluation"]:
            results["evaluation"][data_set] = {}
            results["screening"] |= {k: v for k, v in (earlier.get("screening") or {}).items() if k == data_set}
        for key in same:
            figures = (earlier["evaluation"].get(data_set) or {}).get(key) or {}
            kept = {name: told for name, told in figures.items() if name in more}
            if kept:
                results["evaluation"][data_set][key] = results["evaluation"][data_set].get(key, {}) | kept
    return results


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results.json, or of the figures that `evaluate` wrote.

    Raises FileNotFoundError, or ValueError for a file of another version or that is none.
    """
    results = read_json(path)
    if results is None:
        raise FileNotFoundError(f"{path} does not exist; `fit` writes it at its end, `evaluate` for a checkpoint")
    return checked(results, str(path))


def checked(results: Any, place: str) -> dict[str, Any]:
    """The same results. place: where they were read. Raises ValueError where they are of another version, or none."""
    if not isinstance(results, dict) or "evaluation" not in results:
        raise ValueError(f"{place} holds no results of an evaluation")
    version = results.get("version", 1)
    if version != VERSION:
        remedy = "evaluate again with `fit` or `evaluate`" if version < VERSION else "update this program"
        raise ValueError(f"{place} is of version {version}, this program reads version {VERSION}: {remedy}")
    return results
