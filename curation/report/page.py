"""One self-contained HTML file from a workspace, finished or not."""

from importlib import resources
from pathlib import Path
from typing import Any

from curation.card_text import selected
from curation.ledger import STAGES
from curation.provenance import models, selected_from
from curation.report import concepts, figures, galleries, groups, tables
from curation.report import leaks as leakage
from curation.report.view import EARLY, ReportSettings, View
from datamodules.files import atomic


def write_report(workspace: Path, out: Path | None = None, settings: ReportSettings | None = None) -> Path:
    """Writes report/index.html of a workspace (or `out`) and returns its path.

    The file needs nothing beside it: styles, pictures and drawings are inside. Stages that have not run yet are named
    as such. The same workspace gives the same bytes. Raises FileNotFoundError where the workspace has no image index.
    """
    view = View(Path(workspace), settings or ReportSettings())
    path = Path(out) if out is not None else view.space.report
    page = render(content(view))
    with atomic(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", "replace"))
    return path


def content(view: View) -> dict[str, Any]:
    """All that the template shows."""
    rows = tables.funnel_rows(view)
    settings, reads = selected_from(view.space)
    used = models(view.records, reads)
    done = {stage: view.state(stage) == "done" for stage in STAGES}
    runs = tables.training_runs(view.space.root)
    certificate = leakage.certificate(view)
    leaks, close = galleries.leaks(view) if done["leakage"] else ([], [])
    return {
        "domain": view.owner.get("domain") or view.space.root.name,
        "pool": view.owner.get("pool"),
        "funnel": rows,
        "others": tables.data_sets(view, rows[0]),
        "synthetic": any(row["synthetic"] for row in rows),
        "models": used,
        "stand_ins": [model for model in used if model.stand_in],
        "stages": tables.stages(view),
        "state": {stage: view.state(stage) for stage in done},
        "result": (view.records.get("select") or {}).get("result"),
        "settings": {stage: record.get("settings") or {} for stage, record in view.records.items()},
        "count": {reason: int(view.dropped(reason).sum()) for reason in (*EARLY, "source", "selection", "quota")},
        "rule": selected(settings) if settings else "",
        "method": (settings.get("method") or {}).get("kind") or "pareto",
        "scores": len(settings.get("scores") or tables.SCORE_NAMES),
        "with_text": int((view.numbers("text_area") > 0).sum()),
        "origins": concepts.origins(view),
        "per_concept": concepts.images_per_concept(view),
        "coverage": concepts.coverage(view),
        "kept": galleries.kept(view),
        "unreadable": galleries.unreadable(view) if done["ingest"] else [],
        "not_retrieved": galleries.not_retrieved(view) if done["retrieve"] else [],
        "certificate": certificate,
        "removals": figures.removals(certificate) if certificate else None,
        "leaks": leaks,
        "close": close,
        "groups": groups.duplicate_groups(view) if done["duplicates"] else None,
        "text": galleries.text(view) if done["text"] else [],
        "fronts": galleries.fronts(view) if done["select"] else [],
        "knees": figures.knee_curves(view) if done["select"] else None,
        "histograms": figures.histograms(view),
        "by_source": figures.histograms_by_source(view),
        "answer": tables.answer(view),
        "backbones": tables.backbones(runs),
        "runs": [
            {"run": run, "curve": figures.training_curves(run) if number < view.settings.runs else None}
            for number, run in enumerate(runs)
        ],
    }


def render(values: dict[str, Any]) -> str:
    """The template filled in; every value is escaped."""
    import jinja2

    source = resources.files("curation.report").joinpath("template.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["of"] = lambda number, noun: f"{number:,} {noun}{'' if number == 1 else 's'}"
    return environment.from_string(source).render(values)
