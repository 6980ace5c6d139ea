"""Everything known about one image, as columns and as the story from its concept to its fate. Imports no torch."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.fates import Facts, tell_fate
from curation.ledger import read_ledger
from curation.workspace import Workspace

CONCEPTS_TOLD = 5
LOOKED_AT = 5000  # keys before and after an unknown one


def trace_key(workspace: Path | Workspace, key: str) -> Facts:
    """All columns of one image. Raises ValueError for an unknown key, with keys that look alike."""
    ledger = read_ledger(workspace)
    found = pc.index(ledger["key"], key).as_py()
    if found < 0:
        import difflib

        # Of millions, those that begin alike: comparing with all would take minutes. Keys are sorted.
        place = pc.sum(pc.less(ledger["key"], key)).as_py() or 0
        near = ledger["key"].slice(max(0, place - LOOKED_AT), 2 * LOOKED_AT).to_pylist()
        close = difflib.get_close_matches(key, near, n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f"key {key!r} is not in the workspace, which has {ledger.num_rows} images{hint}")
    return {name: ledger[name][found].as_py() for name in ledger.column_names}


def tell_story(workspace: Path | Workspace, facts: Facts) -> list[tuple[str, str]]:
    """(step, what happened) from the concept to kept or dropped; only steps that saw the image."""
    space = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    fetch = space.stage_record("fetch")
    respected = bool(fetch and fetch["settings"].get("respect_opt_out"))  # then what opted out was not fetched
    steps = [("concept", line) for line in _concepts(space, facts)]
    steps += [("made", _made(facts))] if facts["source"] == "synthetic" else [("found", _found(facts, respected))]
    steps.append(("stored", _stored(space, facts)))
    if facts.get("readable") is not None:
        size = f"{facts['width']} x {facts['height']} px" if facts["readable"] else f"no: {facts['reason']}"
        steps.append(("readable", size))
    steps += tell_fate(space, facts)
    return steps


def _concepts(space: Workspace, facts: Facts) -> list[str]:
    """Where the concepts of an image come from: the bank's rows, most similar first."""
    names = [facts["made_for"]] if facts.get("made_for") else list(facts.get("concepts") or [])
    path = space.stage_folder("concepts") / "bank.parquet"
    if not names or not path.exists():
        return []
    bank = pq.read_table(path)
    lines = []
    for name in names[:CONCEPTS_TOLD]:
        rows = bank.filter(pc.equal(bank["concept"], pa.scalar(name))).to_pylist()
        lines.append(f"{name}: {_origin(rows[0])}" if rows else f"{name}: no longer in the bank")
    more = len(names) - CONCEPTS_TOLD
    return [*lines, f"and {more} more"] if more > 0 else lines


def _origin(row: Facts) -> str:
    words = [str(row["origin"])]
    if row.get("round") is not None:
        words.append(f"in round {row['round']}")
    if row.get("parent"):
        words.append(f"from {row['parent']}")
    if row.get("model"):
        words.append(f"by {row['model']}")
    if row.get("seed") is not None:
        words.append(f"with seed {row['seed']}")
    return " ".join(words)


def _made(facts: Facts) -> str:
    model = "@".join(str(part) for part in (facts["model"], facts["revision"]) if part) or "a generator"
    unsafe = {None: "", True: "; its safety checker says unsafe", False: "; its safety checker has no objection"}
    seed = "" if facts["seed"] is None else f" with seed {facts['seed']}"
    return f"by {model}{seed} from the caption {facts['caption']!r}{unsafe[facts['unsafe']]}"


def _found(facts: Facts, respected: bool) -> str:
    pairs = list(zip(facts.get("concepts") or [], facts.get("similarities") or [], strict=False))
    by = ", ".join(name if value is None else f"{name} ({value:.3f})" for name, value in pairs[:CONCEPTS_TOLD])
    more = f" and {len(pairs) - CONCEPTS_TOLD} more" if len(pairs) > CONCEPTS_TOLD else ""
    licence = facts["licence"] or "unknown"
    asked = "none" if facts["root"] == "fetched" and respected else "not asked"
    opt_out = {None: asked, True: "its owner opted out", False: "none"}[facts["opt_out"]]
    where = f"at {facts['url']}, licence {licence}, opt-out {opt_out}" if facts["url"] else "in the pool"
    return where + (f"; by {by}{more}" if by else "")


def _stored(space: Workspace, facts: Facts) -> str:
    place = f"{space.roots.get(facts['root'], facts['root'])}/{facts['shard']}"
    if facts["size"] is None:
        return f"no image: {facts['status']}" + (f" ({facts['reason']})" if facts["reason"] else "")
    return f"{place}, {facts['size']} bytes at {facts['offset']}"
