"""What a configuration will take, before anything runs: images, model calls, hours and disk. Imports no torch."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.known_weights import width
from curation.sharing import as_base, from_base
from curation.stage import Context

if TYPE_CHECKING:
    from curation.pipeline import Curation


@dataclass(frozen=True)
class Rates:
    """What is assumed where nothing was measured. Speeds are of one GPU of the A100 / H100 class, or of one machine.

    They are round figures to tell hours from weeks, not measurements of ours; `--measure true` replaces those whose
    models are on this machine.

    Args:
        concepts: Concepts that the language model finds (paper: 5,014 for food).
        draws: Draws of the generation until it stops.
        expansions_per_concept: How often a concept is asked about (1 with only_new).
        checks_per_concept: Concepts that are checked, per concept that stays.
        distinct: Share of the search's results left when an image that several concepts find counts once.
        fetched: Share of addresses that still give an image.
        readable: Share of images that can be used.
        unique: Share of images that are left after leaks and copies.
        answers_per_s: Answers of a local language model, per GPU.
        endpoint_s: Seconds that an endpoint takes for one answer.
        generated_per_s: Images of the generator, per GPU (Stable Diffusion 2.1, 50 steps).
        fetched_per_s: Images that one machine downloads.
        decoded_per_s: Images that one machine decodes (16 cores).
        embedded_per_s: Images through all encoders, per GPU.
        read_per_s: Images searched for text by RapidOCR, per machine (16 cores).
        read_on_gpu_per_s: Images searched for text by FAST, per GPU.
        compared_tflops: Speed of the comparisons of embeddings, per GPU, in 10^12 operations a second.
        trained_per_s: Images in pretraining (two views, forward and backward), per GPU, ViT-B/16.
        fetched_kb: Size of a fetched image.
        generated_kb: Size of a generated image.
    """

    concepts: int = 5000
    draws: int = 12
    expansions_per_concept: float = 2.0
    checks_per_concept: float = 1.3
    distinct: float = 0.6
    fetched: float = 0.65
    readable: float = 0.98
    unique: float = 0.8
    answers_per_s: float = 1.0
    endpoint_s: float = 4.0
    generated_per_s: float = 0.6
    fetched_per_s: float = 250.0
    decoded_per_s: float = 3000.0
    embedded_per_s: float = 700.0
    read_per_s: float = 80.0
    read_on_gpu_per_s: float = 800.0
    compared_tflops: float = 30.0
    trained_per_s: float = 900.0
    fetched_kb: float = 60.0
    generated_kb: float = 120.0


@dataclass(frozen=True)
class Line:
    """One step of a plan.

    count: images, answers or whatever `unit` says. calls: of language models or services. gpu_hours: of one GPU;
    machine_hours: of one machine without GPU. disk_gb: what the step leaves. used: names of the rates behind it.
    """

    stage: str
    count: int
    unit: str
    calls: int = 0
    gpu_hours: float = 0.0
    machine_hours: float = 0.0
    disk_gb: float = 0.0
    used: tuple[str, ...] = ()


def plan_curation(curation: "Curation", context: Context, rates: Rates) -> list[Line]:
    """A line for every step that the configuration has, in order; the last one's count is what selection can keep.

    What a base workspace has costs nothing.
    """
    shared = from_base(context)
    return [
        dataclasses.replace(line, unit=f"{line.unit}, of the base", calls=0, gpu_hours=0.0, machine_hours=0.0,
                            disk_gb=0.0, used=()) if line.stage in shared else line
        for line in _Plan(curation, context, rates).lines()
    ]  # fmt: skip


class _Plan:
    """Counts that flow from step to step."""

    def __init__(self, curation: "Curation", context: Context, rates: Rates) -> None:
        self.curation, self.context, self.rates = curation, context, rates
        embed = curation.embed
        image = width(embed.image_text, 768)
        self.copy_dim = width(embed.copy, 512)
        self.text_dim = image if embed.clipn is None else width(embed.clipn, 512)
        self.dims = self.copy_dim + image + (0 if embed.clipn is None else self.text_dim)  # of what is stored

    def lines(self) -> Iterator[Line]:
        concepts, line = self._concepts()
        yield line
        images = self._pool()
        if images:
            yield Line("pool", images, "images in place")
        curation, rates = self.curation, self.rates
        if curation.captions is not None:
            count = concepts * curation.captions.per_concept
            yield self._asked("captions", curation.captions.model, count, "captions", count)
            if curation.synthesis is not None:
                made = count * curation.synthesis.images_per_caption
                images += made
                yield Line("synthesis", made, "images", 0, made / rates.generated_per_s / 3600, 0,
                           made * rates.generated_kb / 1e6, ("generated_per_s", "generated_kb"))  # fmt: skip
        if curation.search is not None:
            found = int(concepts * curation.search.k * rates.distinct)
            calls = concepts if curation.search.service else 0
            yield Line("search", found, "addresses", calls, used=("distinct",))
            fetched = int(found * rates.fetched)
            images += fetched
            yield Line("fetch", fetched, "images", 0, 0, found / rates.fetched_per_s / 3600,
                       fetched * rates.fetched_kb / 1e6, ("fetched", "fetched_per_s", "fetched_kb"))  # fmt: skip
        yield from self._scored(images, concepts)

    def _concepts(self) -> tuple[int, Line]:
        settings, rates = self.curation.concepts, self.rates
        context = as_base(self.context) if "concepts" in from_base(self.context) else self.context
        record = context.workspace.stage_record("concepts")
        if record is not None:
            count = len(settings.bank(context))
            return count, Line("concepts", count, "concepts, found before")
        if settings.discover is None:
            count = len(settings.given())
            return count, Line("concepts", count, "concepts, given")
        count = min(rates.concepts, settings.discover.max_concepts)
        again = 1.0 if settings.discover.only_new else rates.expansions_per_concept
        calls = rates.draws + int(count * (again + rates.checks_per_concept))
        known = ("concepts",) if rates.concepts < settings.discover.max_concepts else ()  # else the limit decides
        used = (*known, "draws", "expansions_per_concept", "checks_per_concept")
        line = self._asked("concepts", settings.discover.generator, count, "concepts", min(
            calls, settings.discover.max_calls))  # fmt: skip
        return count, dataclasses.replace(line, used=(*used, *line.used))

    def _asked(self, stage: str, model: Any, count: int, unit: str, calls: int) -> Line:
        """Answers of a language model: GPU hours here, or hours of waiting for an endpoint."""
        disk = calls * 2e-6
        if model.endpoint is None:
            return Line(stage, count, unit, calls, calls / self.rates.answers_per_s / 3600, 0, disk, ("answers_per_s",))
        hours = calls * self.rates.endpoint_s / model.concurrency / 3600
        return Line(stage, count, unit, calls, 0, hours, disk, ("endpoint_s",))

    def _pool(self) -> int:
        """Images of the pool: from the index where there is one, else counted by name and by the tables of shards."""
        if self.curation.scenes is not None:
            return self.curation.scenes.images
        return count_images(self.context.pool) if self.context.pool is not None else 0

    def _scored(self, images: int, concepts: int) -> Iterator[Line]:
        rates, curation = self.rates, self.curation
        yield Line("ingest", images, "images", 0, 0, images / rates.decoded_per_s / 3600, images * 3e-7,
                   ("decoded_per_s",))  # fmt: skip
        left = int(images * rates.readable)
        yield Line("embed", left, "images", 0, left / rates.embedded_per_s / 3600, 0, left * 2 * self.dims / 1e9,
                   ("readable", "embedded_per_s"))  # fmt: skip
        if curation.retrieve is not None and curation.retrieve.k is not None and curation.search is None:
            left = min(left, int(concepts * curation.retrieve.k * rates.distinct))
            yield Line("retrieve", left, "images", used=("distinct",))
        if curation.duplicates is not None:
            hours = left * left / 2 * 2 * self.copy_dim / (rates.compared_tflops * 1e12) / 3600
            left = int(left * rates.unique)
            yield Line("duplicates", left, "images left", 0, hours, used=("compared_tflops", "unique"))
        if curation.text is not None:
            yield self._read(left)
        hours = left * concepts * 2 * 2 * self.text_dim / (rates.compared_tflops * 1e12) / 3600
        yield Line("ood", left, "images", 0, hours, used=("compared_tflops",))
        kept = min(left, curation.select.target_size or left)
        if curation.select.share is not None:
            kept = max(1, int(kept * curation.select.share))
        yield Line("select", kept, "images at most")

    def _read(self, images: int) -> Line:
        """The search for written words: on the GPU by FAST, else on the cores."""
        assert self.curation.text is not None
        if self.curation.text.detector.kind == "fast":
            hours = images / self.rates.read_on_gpu_per_s / 3600
            return Line("text", images, "images", 0, hours, used=("read_on_gpu_per_s",))
        return Line("text", images, "images", 0, 0, images / self.rates.read_per_s / 3600, used=("read_per_s",))


def count_images(pool: Path) -> int:
    """Images of a pool, about: loose files by name; a shard by the table beside it, else by its size (60 kB each)."""
    import pyarrow.parquet as pq

    from datamodules.indexing import IMAGE_ENDINGS, ending, walk_files

    folder, names = (pool.parent, [pool.name]) if pool.is_file() else (pool, list(walk_files(pool)))
    count = 0
    for name in names:
        if ending(name) in IMAGE_ENDINGS:
            count += 1
        elif ending(name) == "tar":
            table = (folder / name).with_suffix(".parquet")
            known = pq.read_metadata(table).num_rows if table.exists() else (folder / name).stat().st_size // 60_000
            count += known
    return count


def total(lines: list[Line]) -> Line:
    """The sums of a plan."""
    sums = {
        name: sum(getattr(line, name) for line in lines) for name in ("calls", "gpu_hours", "machine_hours", "disk_gb")
    }
    return Line("total", 0, "", **sums)
