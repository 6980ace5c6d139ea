"""Embeddings of every image: one decode feeds every encoder that a later stage needs."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from curation.copy_descriptors import CopyDescriptor, Resize
from curation.encoders import NO_BRANCH, ImageTextEncoder
from curation.image_encoder import ImageEncoder, Prepare
from curation.images import ImageReader
from curation.known_weights import find_file
from curation.packaged import resolve
from curation.prediction import Loop, Output, predict_rows
from curation.stage import Context, Stage, identify_files, runtime
from curation.stages.ingest import Ingest
from curation.stages.rows import alive

YAML = {"image": "image_text"}  # stored array -> yaml key, where they differ


@dataclass(frozen=True)
class ImageText:
    """An image-text encoder.

    Args:
        model: open_clip architecture (ViT-L-14), or a folder with open_clip_config.json and weights.
        pretrained: open_clip's name of the weights (openai), or a weight file; null for a folder.
        stand_in: Marks a model that only takes the real one's place; the report says so.
    """

    model: str = "ViT-L-14"
    pretrained: str | None = "openai"
    stand_in: bool = False

    def no_branch(self) -> Path | None:
        """The file of the `no` tower beside a folder's weights, where there is one."""
        path = Path(resolve(self.model).removeprefix("local-dir:")) / NO_BRANCH
        return path if path.is_file() else None

    def load(self, no_branch: str | None = None, key: str = "curation.embed.image_text") -> ImageTextEncoder:
        """The encoder, frozen. key: the yaml key of this model, for errors."""
        model = resolve(self.model)
        return ImageTextEncoder.load(model, self.pretrained, resolve(no_branch) if no_branch else None, key)

    def identity(self) -> dict[str, Any]:
        """Name and checksums, without loading the model."""
        files = identify_files(resolve(self.model)) or identify_files(self.pretrained)
        if files is not None:  # embeds no image: what it decides is another stage's
            files.pop(NO_BRANCH, None)
        mark = {"stand_in": True} if self.stand_in else {}
        return {"name": self.model, "pretrained": self.pretrained, "files": files, **mark}


@dataclass(frozen=True)
class Copy:
    """A copy descriptor.

    Args:
        model: A published SSCD model by name (sscd_disc_mixup, looked for in the current folder and in torch's cache),
            a TorchScript file, `timm:NAME`, or an open_clip architecture or folder.
        image_size: In pixels; null takes SSCD's 320 for a square and 288 for the short side. TorchScript files only.
        resize: square (images are skewed to a square) or short (the short side is set and the shape kept: slower, as
            images of different shapes cannot be batched). TorchScript files only.
        pretrained: open_clip's name of the weights, or a weight file of an open_clip or timm model; null for all else.
        stand_in: Marks a model that only takes the real one's place; the report says so.
    """

    model: str = "sscd_disc_mixup"
    image_size: int | None = None
    resize: Resize = "square"
    pretrained: str | None = None
    stand_in: bool = False

    def load(self) -> CopyDescriptor:
        """The descriptor, frozen."""
        return CopyDescriptor.load(resolve(self.model), self.image_size, self.resize, self.pretrained)

    def identity(self) -> dict[str, Any]:
        """Name and checksum, without loading the model."""
        path = resolve(self.model)
        mark = {"stand_in": True} if self.stand_in else {}
        pretrained = {} if self.pretrained is None else {"pretrained": self.pretrained}
        files = identify_files(self.pretrained) or identify_files(find_file(path) or path)
        return {"name": self.model, **pretrained, "files": files, **mark}


class Embedder(LightningModule):
    """Unit embeddings of one batch from every encoder; those that prepare pictures alike share them."""

    def __init__(self, encoders: dict[str, ImageEncoder]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        first = {encoder.prepare: name for name, encoder in reversed(encoders.items())}
        self.pictures = {name: first[encoder.prepare] for name, encoder in encoders.items()}

    def prepare(self) -> dict[str, Prepare]:
        """Name in the batch -> what makes its pictures in the loader's workers."""
        return {name: cast(ImageEncoder, self.encoders[name]).prepare for name in dict.fromkeys(self.pictures.values())}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Name -> float32 [N, D]."""
        return {
            name: cast(ImageEncoder, encoder).embed_images(batch[self.pictures[name]])
            for name, encoder in self.encoders.items()
        }


@dataclass(frozen=True)
class Embed(Stage):
    """Embeds the readable images for retrieval, for CLIPN's scores and for the search of copies.

    Args:
        image_text: Encoder of the retrieval, and of the out-of-domain scores unless `clipn` is given.
        copy: Descriptor of the search of near-duplicates and leaks.
        clipn: Encoder of the out-of-domain scores, where it is not `image_text` (paper: CLIPN's ViT-B/16).
        chunk_rows: Rows per output file.
        batch_size: Images per batch.
        num_workers: Loader processes per rank; the free cores when null.
    """

    name: ClassVar[str] = "embed"
    reads: ClassVar[tuple[str, ...]] = ("ingest", "identical")
    image_text: ImageText = field(default_factory=ImageText)
    copy: Copy = field(default_factory=Copy)
    clipn: ImageText | None = None
    chunk_rows: int = 1024
    batch_size: int = runtime(64)
    num_workers: int | None = runtime(None)

    def identity(self, context: Context) -> dict[str, Any]:
        """Checksums of the weights, and the precision."""
        models = {"image_text": self.image_text.identity(), "copy": self.copy.identity()}
        if self.clipn is not None:
            models["clipn"] = self.clipn.identity()
        return {**models, "precision": context.session.precision}

    def check(self, context: Context) -> None:
        """Loads the models: all missing weights are told at once, before the first image is read."""
        missing = []
        for load in self._loaders().values():
            try:
                load()
            except (ValueError, OSError) as error:
                missing.append(error)
        if missing:
            raise type(missing[0])(". Also, ".join(str(error) for error in missing))

    def encoders(self) -> dict[str, ImageEncoder]:
        """Name of the stored array -> encoder."""
        return {name: load() for name, load in self._loaders().items()}

    def _loaders(self) -> dict[str, Callable[[], ImageEncoder]]:
        loaders: dict[str, Callable[[], ImageEncoder]] = {"image": self.image_text.load, "copy": self.copy.load}
        if self.clipn is not None:
            loaders["clipn"] = functools.partial(self.clipn.load, key="curation.embed.clipn")
        return loaders

    def run(self, context: Context) -> dict[str, Any]:
        """Writes part-*.image.npy, part-*.copy.npy and, with `clipn`, part-*.clipn.npy, float16."""
        rows = alive(context)
        reader = image_reader(context)
        embed_rows(context, self.encoders(), reader, rows, "embed", context.workspace.stage_folder(self.name),
                   context.workspace.index["key"].combine_chunks(),
                   Loop(self.chunk_rows, self.batch_size, self.num_workers))  # fmt: skip
        return {"rows": len(rows), "summary": f"{len(rows)} images"}


def image_reader(context: Context) -> ImageReader:
    """Reader of the pool with the limits that ingest used."""
    ingest = context.stages["ingest"]
    assert isinstance(ingest, Ingest)
    return ImageReader(context.workspace.index, context.workspace.roots, ingest.limits)


def embed_rows(
    context: Context, encoders: dict[str, ImageEncoder], reader: ImageReader, rows: np.ndarray, title: str, folder: Any,
    keys: Any, loop: Loop,
) -> None:  # fmt: skip
    """The prediction loop of the encoders over rows of an index."""
    module = Embedder(encoders)
    prepare = module.prepare()
    for make in prepare.values():
        make(np.zeros((32, 32, 3), np.uint8))  # compiles here, once, what every worker would compile for itself

    def load(row: int) -> dict[str, Any]:
        image = reader.rgb(row)
        return {name: make(image) for name, make in prepare.items()}

    def finish(rows: np.ndarray, outputs: dict[str, Any]) -> Output:
        widths = {name: encoder.dim for name, encoder in encoders.items()}
        if not outputs:
            return {}, {name: np.empty((0, width), np.float16) for name, width in widths.items()}
        for name, encoder in encoders.items():
            finite = np.isfinite(outputs[name]).all(axis=1)
            if not finite.all():
                raise ValueError(_not_finite(context, title, name, encoder, keys, rows[~finite]))
        return {}, {name: outputs[name].astype(np.float16) for name in encoders}

    predict_rows(context.session, module, title=title, folder=folder, keys=keys, rows=rows, load=load, finish=finish,
                 loop=loop)  # fmt: skip


def _not_finite(context: Context, title: str, name: str, encoder: ImageEncoder, keys: Any, rows: np.ndarray) -> str:
    """Which images a model gave NaN or infinity for, and what to do."""
    precision = context.session.precision
    half = f"run again with curation.precision: 32-true (it is {precision}). If that is no help, "
    more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
    return (
        f"{title}: {keys[int(rows[0])]} (row {rows[0]}){more} has an embedding that is not finite, from "
        f"curation.embed.{YAML.get(name, name)}.model {encoder.identity['name']}; "
        f"{'' if precision == '32-true' else half}"
        "its weights are damaged: get them again, or take the image out of the pool"
    )
