"""The page of a comparison by prototypes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pas_train.analysis.page import Picture, Section, Table, write_page


def write_report(folder: Path, result: dict[str, Any], pictures: Sequence[tuple[str, Path, int]]) -> None:
    """Writes index.html. result: as in protosim.json; pictures: (set, file, prototypes on it)."""
    names = [one["name"] for one in result["sets"]]
    found, chance = result["all_tokens"], result["random_split"]["exclusive"]
    cards = [(f"{found['shared']:,}", "prototypes of all sets")]
    cards += [(f"{found['exclusive'][name]['prototypes']:,}", f"only of {name}") for name in names]
    rules: list[tuple[str, dict[str, Any]]] = [("every token", found), ("class token alone", result["class_token"])]
    rules += [(f"every token, from {100 * float(purity):g} % on", one) for purity, one in result["purity"].items()]
    rows = [
        [rule, one["shared"], *([one["some"]] if "some" in one else []), one["unused"],
         *(value for name in names for value in one["exclusive"][name].values())]
        for rule, one in rules
    ]  # fmt: skip
    heads = ["A prototype is a set's own by", "Shared", *(["Of some"] if "some" in found else []), "Unused"]
    heads += [head for name in names for head in (f"Only {name}", "its images")]
    counts = Section(
        "Prototypes",
        "Each of the patches, and the class token, of every image was given to the closest of "
        f"{result['prototypes']:,} prototypes. A prototype is a set's own if no image of another set has it; further "
        "down, if so large a share of its images is one set's, each image counted as a share of its set.",
        [Table(heads, rows)],
    )
    splits = Section(
        "Against chance",
        f"The same images split at random into sets of the same sizes, {result['random_split']['splits']} times: what "
        "two sets without a difference would show. A smaller set has more of the other's prototypes missing by chance.",
        [
            Table(
                ["Set", "Images", "Unreadable", "Own prototypes", "At random, mean", "least", "most"],
                [
                    [one["name"], one["images"], one["unreadable"], found["exclusive"][one["name"]]["prototypes"],
                     *chance[one["name"]].values()]
                    for one in result["sets"]
                ],
            )
        ],
    )  # fmt: skip
    if (folder / "use.svg").is_file() and len(names) == 2:
        counts.parts.append(
            Picture(folder / "use.svg", "Prototypes by the share of the images of either set", width=480)
        )
    sections = [counts, splits]
    for name, path, shown in pictures:
        note = "Images with the most of each, what belongs to it in full colour; the prototypes of most images first."
        more = found["exclusive"][name]["prototypes"] - shown
        note += f" {more:,} more are in protosim.json." if more > 0 else ""
        sections.append(Section(f"Only in {name}", note, [Picture(path, f"Images of the prototypes of {name} alone")]))
    total = sum(one["images"] for one in result["sets"])
    write_page(
        folder / "index.html", " and ".join(names) if len(names) < 3 else ", ".join(names),
        f"Compared by prototypes (ProtoSim) · {total:,} images", cards, sections,
    )  # fmt: skip
