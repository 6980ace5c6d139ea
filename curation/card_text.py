"""The sentences of a data set's card: where its images come from, what was left out, and what it is not."""

from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.markdown import markdown_table, plain
from curation.workspace import Workspace
from datamodules.files import read_json

Records = dict[str, dict[str, Any]]
METHODS = {
    "pareto": "Pareto fronts of the out-of-domain scores, the furthest from the domain first",
    "random": "removed at random, by a seed",
    "clip_score": "the least similar to their closest concept removed first",
    "one_score": "the highest of one score removed first",
    "balanced_clusters": "the most frequent kinds thinned, by clusters of clusters",
    "semantic_deduplication": "the most similar within their cluster removed first",
}

KNEES = {1: "knee", 2: "two knees", 3: "three knees"}


def _settings(records: Records, stage: str) -> dict[str, Any]:
    return records.get(stage, {}).get("settings") or {}


def origin(space: Workspace, records: Records) -> list[str]:
    """Where the concepts and the images come from."""
    lines = []
    bank = space.stage_folder("concepts") / "bank.parquet"
    if "concepts" in records and bank.exists():
        table = pq.read_table(bank, columns=["general", "valid", "origin"])
        valid = table.filter(pc.and_(table["valid"], pc.invert(table["general"])))
        counts = sorted((row["values"], row["counts"]) for row in pc.value_counts(valid["origin"]).to_pylist())
        told = ", ".join(f"{number:,} {plain(name)}" for name, number in counts)
        lines.append(f"The domain is described by {valid.num_rows:,} concepts ({told}).")
    sources = {
        "scenes": "Images were drawn by a program, with a known answer.",
        "search": "Real images were searched in published tables, an index or a service, by the concepts.",
        "fetch": "Real images were downloaded from the addresses that each row keeps (`url`).",
        "captions": "A language model described scenes that show a concept.",
        "synthesis": "Synthetic images were generated from them; each row names its model, seed and caption.",
    }
    lines += [text for stage, text in sources.items() if stage in records]
    if not {"scenes", "search", "fetch", "synthesis"} & set(records):
        lines.append("Images were taken from a pool at hand, where they lie.")
    return lines


def filters(records: Records, selection: dict[str, Any]) -> list[tuple[str, str]]:
    """(drop_reason, rule) of every step that can leave an image out, in order; the selection is left to its own."""
    limits = _settings(records, "ingest").get("limits") or {}
    refused = "no decodable image"
    if limits:
        refused += (
            f", a side below {limits.get('min_side_px')} px, more than {limits.get('max_pixels', 0):,} pixels, longer "
            f"than {limits.get('max_aspect')} times its width (or the other way), or of one flat colour"
        )
    rules = [("unreadable", refused)]
    if "identical" in records:
        rules.append(("identical", "same bytes (SHA-256) as another file, of which one stays"))
    if "retrieve" in records:
        k = _settings(records, "retrieve").get("k")
        rules.append(("not_retrieved", "found by no concept" + (f" among its {k} nearest images" if k else "")))
    if "leakage" in records:
        rules.append(("leak", f"{leak_rule(_settings(records, 'leakage'))} to a test image"))
    if "duplicates" in records:
        own = _settings(records, "duplicates")
        near = f", among the {own['k']} nearest" if own.get("k") else ""
        kept = {"largest": "the largest stays", "real_first": "a real one stays before a synthetic one"}
        stays = kept.get(own.get("keep", ""), "one, drawn by the seed, stays")
        rules.append(("duplicate", f"groups linked by a cosine above {own.get('threshold')}{near}; {stays}"))
    sources = selection.get("sources") or []
    if len(sources) == 1:
        rules.append(("source", f"not {sources[0]}: the data set takes {sources[0]} images alone"))
    return [*rules, ("selection", selected(selection))]


def selected(selection: dict[str, Any]) -> str:
    """How the images that were left were cut to the data set.

    selection: the settings of the select stage, or those of selection.json, which a data set of its own may have.
    """
    method = selection.get("method") or {}
    settings = method if isinstance(method, dict) else {"kind": method}
    kind = str(settings.get("kind") or "pareto").lower()
    text = METHODS.get(kind, f"removed in the order of the method {kind}")
    if settings.get("score"):
        text += f" ({settings['score']})"
    scores = settings.get("scores") or selection.get("scores") or []
    few = kind == "pareto" and 0 < len(scores) < 3
    if few:
        text += f", of {' and '.join(scores)} alone"
    size = selection.get("size") or selection.get("target_size")
    if size:
        text += f", down to {size:,} images"
    elif kind == "pareto":
        text += f", up to the {'largest of the ' if len(scores) != 1 else ''}{KNEES[len(scores) if few else 3]}"
    elif settings.get("threshold") is not None:
        text += f", with the threshold {settings['threshold']}"
    if selection.get("share"):
        text += f"; of what that leaves, the {100 * selection['share']:g} % that would be removed last"
    quotas = {**selection, **(selection.get("quotas") or {})}
    if quotas.get("per_concept_max"):
        text += f"; at most {quotas['per_concept_max']:,} images of a concept"
    if quotas.get("synthetic_share") is not None:
        text += f"; at most {100 * quotas['synthetic_share']:.0f} % synthetic"
    return text


def leak_rule(settings: dict[str, Any]) -> str:
    """What is held against which threshold."""
    normalised = settings.get("score_normalisation")
    if normalised:
        return f"normalised similarity of the copy descriptors above {normalised.get('threshold')}"
    return f"cosine of the copy descriptors above {settings.get('threshold')}"


def leakage(space: Workspace, records: Records) -> str:
    """The certificate: against which test sets the images were screened, and how."""
    if "leakage" not in records:
        return "**Not screened.** No evaluation set was compared with these images; accuracies on any may be too high."
    result = records["leakage"].get("result") or {}
    rule = leak_rule(_settings(records, "leakage"))
    certificate = read_json(space.stage_folder("leakage") / "certificate.json") or {}
    text = f"Every readable image was compared with every test image below. Left out: those with a {rule}."
    if _settings(records, "leakage").get("whole_groups"):
        text += " The near-copies of what leaks were dropped with it."
    sets = [
        (plain(one["name"]), f"`{one['sha256'][:16]}`", f"{one['images']:,}", f"{one['unreadable']:,}",
         f"{one['removed']:,}")
        for one in certificate.get("tests", [])
    ]  # fmt: skip
    if sets:
        return f"{text}\n\n" + markdown_table(
            ("Test set", "SHA-256 of its images", "Images", "Unreadable", "Removed for it"), sets, 3
        )
    names = ", ".join(plain(str(name).rstrip("/").rpartition("/")[2]) for name in result.get("tests", []))
    return f"{text} Test sets: {names}, {result.get('test_images', 0):,} images."


def limits(records: Records, stand_ins: list[str]) -> list[str]:
    """What a user must not expect."""
    lines = [
        "No person looked at the images: words, faces, unsafe or offensive pictures may be among them.",
        "Concepts are what retrieved an image or what it is closest to; they are not labels.",
        "The images belong to their owners; a row's `licence` and `url` say what is known of it.",
    ]
    if stand_ins:
        lines.insert(
            0, f"**Made with stand-in models** ({', '.join(stand_ins)}): it shows that every step works, no more."
        )
    if "leakage" in records:
        lines.append("The leakage gate sees copies and near-copies; another photo of the same object passes it.")
    if "synthesis" in records:
        lines.append("Synthetic images carry the biases and the mistakes of their generator and of its captions.")
    return lines
