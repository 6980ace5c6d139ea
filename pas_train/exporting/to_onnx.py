"""`export --to onnx`: a graph that onnxruntime and other servers run."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pas_train.exporting.metadata import as_text
from pas_train.exporting.source import Source
from pas_train.exporting.target import Target

FILE = "backbone.onnx"
OPSET = 18  # what torch's exporter writes without converting; onnxruntime reads it since its version 1.14
ONE_FILE = 2_000_000_000  # bytes of weights; protobuf, which holds the graph, ends at 2 GiB
BATCHES = (1, 3, 8)


class Onnx(Target):
    """backbone.onnx, opset 18: `images`, float32 [batch, 3, S, S], normalised -> `embedding`, float32 [batch, D].

    The batch is free, the side of the images fixed. The metadata is in the model's metadata_props. Weights above 2 GB
    are in backbone.onnx.data beside it.
    """

    name = "onnx"
    title = "onnxruntime"
    library = "onnxruntime"
    writers = ("onnx", "onnxscript")
    install = "pip install 'pas-train[export]'"
    loader = "onnx"

    def check(self, source: Source) -> None:
        """Takes every backbone."""

    def write(self, source: Source, folder: Path) -> None:
        """Writes the graph, has onnx check it, and runs it with several batches where onnxruntime is installed."""
        import onnx

        program = _program(source)
        model = program.model
        for one in (*model.graph.all_nodes(), *_values(model.graph), model.graph, model):
            one.metadata_props.clear()  # notes of the exporter, which name folders of this machine
            one.doc_string = None
        model.metadata_props.update(as_text(source.metadata))
        large = sum(value.nbytes for value in source.state.values()) > ONE_FILE
        program.save(folder / FILE, external_data=large)
        onnx.checker.check_model(folder / FILE, full_check=True)
        if self.installed():
            check_batches(source, folder)


def _program(source: Source) -> Any:
    """Torch's export of a backbone. Raises ValueError where torch cannot write it."""
    images = torch.zeros(2, 3, source.image_size, source.image_size)
    try:
        with _quiet():
            return torch.onnx.export(
                source.backbone,
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=["embedding"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        said = str(error.__cause__ or error).strip().split("\n")[0]
        raise ValueError(
            f"--to onnx: torch cannot write {source.architecture} as a graph ({said}): take --to torchscript"
        ) from error


def _values(graph: Any) -> Iterator[Any]:
    """Everything that has a name in a graph."""
    yield from (*graph.inputs, *graph.initializers.values())
    for node in graph.all_nodes():
        yield from node.outputs


@torch.no_grad()
def check_batches(source: Source, folder: Path) -> None:
    """Raises ValueError where a batch of another size than the exporter saw computes something else."""
    from pas_train.exporting.loaders import onnx as loader

    model = loader.load(folder)
    for size in BATCHES:
        images = torch.randn(
            size, 3, source.image_size, source.image_size, generator=torch.Generator().manual_seed(size)
        )
        expected = source.backbone(images)
        found = torch.from_numpy(loader.features(model, images)["embedding"])
        difference, scale = (expected - found).abs().max(), expected.abs().max()
        if found.shape != expected.shape or not difference <= Onnx.tolerance * scale:
            raise ValueError(
                f"--to onnx: a batch of {size} computes something else: the greatest difference is "
                f"{difference:.3g} (of {scale:.3g})"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither warnings nor notes of the exporter in the block."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
