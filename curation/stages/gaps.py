"""The second round: more concepts where the first one's images are few after the curation."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.concepts.bank import Entry
from curation.concepts.discovery import Discovery
from curation.concepts.names import merge_key
from curation.ledger import read_ledger
from curation.stage import Context, Stage
from curation.stages.concepts import GAPS, Concepts

KEY = "curation.gaps"


@dataclass(frozen=True)
class Gaps(Stage):
    """Asks the generator for other names and particular kinds of concepts of which few images were kept.

    What it finds, checked, joins the bank, and the curation runs once more. It is asked once: only other settings of
    the concepts, or deleting concepts/gaps.json, ask again. No label of an evaluation set plays a part.

    Args:
        min_images: A concept with fewer kept images is asked about.
        max_concepts: Most concepts asked about, the poorest first.
    """

    name: ClassVar[str] = "gaps"
    min_images: int = 50
    max_concepts: int = 1000

    def identity(self, context: Context) -> dict[str, Any]:
        """The first round; not the selection, which the second round itself changes."""
        return {"first_round": _concepts(context).first_round(context)}

    def check(self, context: Context) -> None:
        """The models that find concepts must be at hand."""
        for name in ("min_images", "max_concepts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{KEY}.{name} is {getattr(self, name)}; use a number from 1 up")
        if _concepts(context).discover is None:
            raise ValueError(
                f"{KEY} asks the models of curation.concepts.discover, which is null; give it a generator, or set "
                f"{KEY} to null"
            )
        _concepts(context).check_models(context)

    def intact(self, context: Context) -> bool:
        """concepts/gaps.json; deleting it asks again."""
        return _concepts(context).gaps_record(context) is not None

    def run(self, context: Context) -> dict[str, Any]:
        """Writes concepts/gaps.json."""
        concepts, session = _concepts(context), context.session
        record = session.on_zero(lambda: concepts.gaps_record(context))
        if record is not None:  # a kill came after it was written: what was asked since then is the second round's
            return _result([Entry(**entry) for entry in record["entries"]], len(record["gaps"]))
        poor = session.on_zero(lambda: self._find(context))
        files = concepts.files(context)
        known = session.on_zero(lambda: [*files.entries(), *files.taken_out()])
        found: list[Entry] = []
        facts: dict[str, Any] = {"gaps": [{"concept": name, "images": count} for name, count in poor]}
        if poor:
            with concepts.interview(context) as discovery:
                found = _ask(discovery, known, [concept for concept, _ in poor])
            facts["unparsed"] = discovery.unparsed
        session.on_zero(lambda: concepts.write_gaps(context, found, facts))
        return _result(found, len(poor))

    def _find(self, context: Context) -> list[tuple[str, int]]:
        ledger = read_ledger(context.workspace)
        poor = find_gaps(ledger, _concepts(context).bank(context), self.min_images)
        if len(poor) > self.max_concepts:
            context.say(f"{self.name:<10} asks about the poorest {self.max_concepts} of {len(poor)} concepts")
        return poor[: self.max_concepts]


def find_gaps(ledger: pa.Table, bank: list[str], min_images: int) -> list[tuple[str, int]]:
    """(concept, kept images) of the concepts with fewer than `min_images`, the poorest first.

    An image counts for all concepts that found it; without a retrieval, for the one that it resembles most.
    """
    if "keep" not in ledger.column_names:
        raise ValueError(f"{KEY} counts the images that were kept, but nothing was selected yet; run `curate` first")
    kept = ledger.filter(pc.fill_null(ledger["keep"], False))
    names = pc.list_flatten(kept["concepts"]) if "concepts" in kept.column_names else kept["concept"]
    places = pc.index_in(names, value_set=pa.array(bank, names.type)).drop_null().to_numpy()
    counts = np.bincount(places, minlength=len(bank))
    order = np.argsort(counts, kind="stable")
    return [(bank[place], int(counts[place])) for place in order if counts[place] < min_images]


def _ask(discovery: Discovery, known: list[Entry], concepts: list[str]) -> list[Entry]:
    # A refused concept is known too: it does not come back under another origin.
    discovery.entries = {merge_key(entry.concept): entry for entry in known if not entry.general}
    return discovery.ask_gaps(concepts)


def _result(found: list[Entry], asked: int) -> dict[str, Any]:
    valid = sum(entry.valid for entry in found)
    summary = (
        f"{asked} concepts have few images; {valid} new ones found, {len(found) - valid} refused "
        f"(in concepts/{GAPS}; asked once)"
    )
    return {"rows": len(found), "summary": summary, "asked": asked, "valid": valid}


def _concepts(context: Context) -> Concepts:
    concepts = context.stages["concepts"]
    assert isinstance(concepts, Concepts)
    return concepts
