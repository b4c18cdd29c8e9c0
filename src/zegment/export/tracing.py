"""A model to a graph without Python: torch.export with free sizes, and from there to ONNX.

Letters: B images, K classes, D embedding, H W pixels, h w feature grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zegment.clip_loading import silent
from zegment.errors import ConfigError, UnsupportedModelError
from zegment.export.graph import IMAGE, LOGITS, SCORES, TEXT_EMBEDDINGS, GraphFacts
from zegment.models.base import SegmentationModel
from zegment.wording import first_line

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

EXAMPLE_GRID = (20, 24)
"""Cells of the image that is traced; large enough for the coarsest stage of an encoder to have
more than one, because one cell is traced as if it were always one."""

LARGEST_FILE = 2_000_000_000
"""Bytes of weights that fit into a file; the format ends at 2 GiB."""

FAILURES = (ImportError, RuntimeError, TypeError, ValueError, NotImplementedError)
"""What PyTorch's exporters raise; ImportError where onnxscript is too old for it."""

AXES = {
    IMAGE: ("batch", None, "height", "width"),
    TEXT_EMBEDDINGS: ("classes", None),
    LOGITS: ("batch", "classes", "grid_height", "grid_width"),
}
"""What the free sizes of inputs and output are called in a file."""


class FrozenVocabulary(nn.Module):
    """A model together with the text embeddings it is always asked about.

    Args:
        model: The model.
        text_embeddings: Unit rows, float (K, D).
    """

    text_embeddings: Tensor

    def __init__(self, model: SegmentationModel, text_embeddings: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("text_embeddings", text_embeddings)

    def forward(self, image: Tensor) -> Tensor:
        """Return class logits, float (B, K, h, w), of normalised images, float (B, 3, H, W)."""
        logits: Tensor = self.model(image, self.text_embeddings)
        return logits


def trace(
    model: SegmentationModel, *, embed_dim: int, frozen: Tensor | None = None
) -> ExportedProgram:
    """Return a model as a program of `torch.export`, with free batch, height, width and classes.

    It takes normalised images, float (B, 3, H, W), and unit text embeddings, float (K, D), and
    gives logits, float (B, K, h, w). The coarsest feature map must have two cells along each side
    or more; a file made from the program has no such limit.

    Args:
        model: In evaluation mode, on the processor.
        embed_dim: D.
        frozen: Unit text embeddings, float (K, D), to make a part of the graph, which then takes
            images alone.

    Raises:
        ConfigError: If this PyTorch cannot trace it.
    """
    from torch.export import Dim, export  # noqa: PLC0415 - takes a while to import

    patch, (height, width) = model.patch_size, EXAMPLE_GRID
    image = torch.zeros(2, 3, height * patch, width * patch)
    rows, columns = Dim("rows", min=1), Dim("columns", min=1)
    free: dict[str, dict[int, object]] = {
        IMAGE: {0: Dim("batch", min=1), 2: patch * rows, 3: patch * columns}
    }
    inputs: tuple[Tensor, ...] = (image,)
    traced: nn.Module = model
    if frozen is None:
        inputs = (image, torch.zeros(3, embed_dim))
        free[TEXT_EMBEDDINGS] = {0: Dim("classes", min=1)}
    else:
        traced = FrozenVocabulary(model, frozen)
    try:
        with torch.no_grad(), silent():
            return export(traced.eval(), inputs, dynamic_shapes=free, strict=False)
    except FAILURES as error:
        raise _cannot(error) from error


def to_onnx(program: ExportedProgram, facts: GraphFacts) -> ModelProto:
    """Return a traced program as an ONNX model that names its axes and holds the facts.

    Same program, same bytes: what the exporter adds about this machine is taken out.

    Raises:
        ConfigError: If this PyTorch cannot write it.
    """
    inputs = [IMAGE] if facts.frozen else [IMAGE, TEXT_EMBEDDINGS]
    try:
        with silent():
            made = torch.onnx.export(
                program, dynamo=True, input_names=inputs, output_names=[LOGITS], verbose=False
            )
    except FAILURES as error:
        raise _cannot(error) from error
    assert made is not None  # noqa: S101 - it is with dynamo=True
    model: ModelProto = made.model_proto
    clean(model, facts)
    return model


def clean(model: ModelProto, facts: GraphFacts) -> None:
    """Write the facts and names of the axes into a model, and take out all else that is not graph.

    Args:
        model: Changed in place.
        facts: What it is to say about itself.
    """
    del model.metadata_props[:]
    for key, value in facts.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    graph = model.graph
    graph.name, model.producer_name = "zegment", "zegment"
    model.producer_version = model.doc_string = graph.doc_string = ""
    # Sizes of intermediate maps carry the tracer's numbering; runtimes infer them again.
    del graph.value_info[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for value in (*graph.input, *graph.output):
        shape = value.type.tensor_type.shape
        for axis, name in zip(shape.dim, AXES[value.name], strict=True):
            # The number of classes is none to be named where the vocabulary is frozen.
            if name is not None and not (name == "classes" and axis.HasField("dim_value")):
                axis.dim_param = name


def score_function(model: SegmentationModel) -> str:
    """Return the name in `SCORES` of what a model makes of its logits.

    Raises:
        UnsupportedModelError: If it is none of them.
    """
    logits = torch.linspace(-3, 3, 24).reshape(1, 4, 2, 3)
    for name, function in SCORES.items():
        if torch.allclose(model.scores(logits), function(logits)):
            return name
    raise UnsupportedModelError(
        f"{type(model).__name__} makes scores in a way that exported files cannot say; there are "
        f"{', '.join(SCORES)}"
    )


def check_size(model: SegmentationModel) -> None:
    """Refuse a model that does not fit into one file.

    Raises:
        UnsupportedModelError: If its weights are too many.
    """
    size = sum(p.numel() * 4 for p in (*model.parameters(), *model.buffers()))
    if size > LARGEST_FILE:
        raise UnsupportedModelError(
            f"the model has {size / 1e9:.3g} GB of weights, and an ONNX file holds at most "
            f"{LARGEST_FILE / 1e9:g}; export a smaller model, such as a student"
        )


def _cannot(error: Exception) -> ConfigError:
    """Return an error that tells why tracing failed."""
    return ConfigError(
        f"PyTorch {torch.__version__} cannot export this model ({first_line(error)}); "
        "take PyTorch 2.7 or later, with the packages that belong to it: pip install --upgrade "
        "torch onnxscript"
    )
