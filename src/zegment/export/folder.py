"""A trained model to a folder with an ONNX graph in place of weights, checked before it appears.

Letters: B images, K classes, D embedding, H W pixels.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.checkpoint import load_trained
from zegment.checkpoint_files import (
    CONFIG,
    DIGESTS,
    FILES,
    GRAPH,
    ONNX,
    VOCABULARY,
    WEIGHTS,
    read_json,
    save_checkpoint,
)
from zegment.clip_loading import silent
from zegment.data.classes import natural_name
from zegment.errors import CheckpointError, ConfigError
from zegment.export.graph import GraphFacts, import_onnxruntime, open_session
from zegment.export.tracing import check_size, clean, score_function, to_onnx, trace
from zegment.files import atomic_folder, refuse_foreign_content, sha256_of
from zegment.leftovers import remove_leftovers
from zegment.models.base import SegmentationModel
from zegment.models.exported import ExportedModel
from zegment.trained import Trained
from zegment.vocabulary import TEMPLATES, Vocabulary

TOLERANCE = 1e-3
"""Largest difference between logits of a file and of the model that it was made from."""

OLDEST_TORCH = "2.7"
"""Whose exporter writes graphs of any size from programs of `torch.export`."""

CHECKS = (((5, 9), 1), ((13, 4), 7))
"""Cells of the images, and numbers of classes, that a file is compared at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written.

    Attributes:
        folder: The exported model.
        facts: What its file says about itself.
        size: Bytes of the file.
        difference: Largest difference of logits from those of the model that it was made from, on
            random images.
    """

    folder: Path
    facts: GraphFacts
    size: int
    difference: float


def export(
    model: str | Path | Trained,
    out: str | Path,
    *,
    classes: Vocabulary | Path | Sequence[str] | str | None = None,
    quantise: bool = False,
    replace: bool = False,
) -> Export:
    """Write a model as a folder that onnxruntime can run, and Zegment loads by its path.

    The folder is that of a checkpoint, with ``model.onnx`` in place of weights.
    It appears only after the file gave the logits of the model at several sizes.

    Args:
        model: A trained model, or what `zegment.checkpoint.load_trained` takes.
        out: The folder to write.
        classes: Makes this vocabulary a part of the graph, which then takes images alone; None
            leaves text embeddings an input, so that any words can be asked for.
        quantise: Whether weights become 8-bit integers. The file is smaller, and its logits are
            others: measure what they cost on data of your own.
        replace: Whether a folder with content gives way.

    Raises:
        ConfigError: If a package is missing, or this PyTorch cannot export the model.
        ModelNotFoundError: If nothing answers to the name.
        VocabularyError: If the classes cannot be encoded.
        UnsupportedModelError: If the model does not fit into a file.
        CheckpointError: If the file does not give the logits of the model.
        OutputError: If the folder has content, foreign content even where it may be replaced, or
            cannot be written.
    """
    _require_packages()
    if replace:
        refuse_foreign_content(out, FILES, made_by="an export")
    remove_leftovers(Path(out).absolute().parent)
    with atomic_folder(out, replace=replace) as unfinished:
        trained = model if isinstance(model, Trained) else load_trained(str(model), device="cpu")
        if isinstance(trained.model, ExportedModel):
            raise ConfigError("this model is exported already; give the one that it was made from")
        # On the processor, whatever the model computes on, and never the caller's own.
        eager = copy.deepcopy(trained.model).cpu().eval()
        vocabulary, frozen = _vocabulary(trained, classes)
        facts = _facts(eager, trained, vocabulary if frozen is not None else None, quantise)
        check_size(eager)
        path = unfinished / ONNX
        made = to_onnx(trace(eager, embed_dim=facts.embed_dim, frozen=frozen), facts)
        path.write_bytes(made.SerializeToString(deterministic=True))
        if quantise:
            _quantise(path, facts)
        exported = ExportedModel(*open_session(path, torch.device("cpu")), frozen=frozen)
        difference = _difference(eager, exported, frozen)
        _write_rest(unfinished, trained, exported, vocabulary)
        _seal(unfinished)
        size = path.stat().st_size
    return Export(folder=Path(out), facts=facts, size=size, difference=difference)


def _require_packages() -> None:
    """Check that everything an export needs is installed.

    Raises:
        ConfigError: If anything is not.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ConfigError(f'an export needs {", ".join(missing)}: pip install "zegment[onnx]"')
    if torch.__version__ < OLDEST_TORCH:  # compared as versions: 2.15 comes after 2.7
        raise ConfigError(
            f"an export needs PyTorch {OLDEST_TORCH} or later, and this is {torch.__version__}: "
            f'pip install "torch>={OLDEST_TORCH}" "zegment[onnx]"'
        )


def _vocabulary(
    trained: Trained, classes: Vocabulary | Path | Sequence[str] | str | None
) -> tuple[Vocabulary | None, Tensor | None]:
    """Return the vocabulary of the folder, and its embeddings (K, D) if the graph is to hold them.

    Raises:
        VocabularyError: If the classes cannot be encoded.
    """
    known = trained.vocabulary
    if classes is None:
        return known, None
    templates = TEMPLATES["single"] if known is None else known.templates
    vocabulary = Vocabulary.of(classes, templates=templates)
    return vocabulary, vocabulary.embed(trained.text_tower).detach().cpu().float().clone()


def _facts(
    model: SegmentationModel, trained: Trained, frozen: Vocabulary | None, quantise: bool
) -> GraphFacts:
    """Return what the file will say about itself."""
    known = frozen or trained.vocabulary
    rows = trained.text_tower(["image"]) if known is None else known.embed(trained.text_tower)
    names = () if frozen is None else tuple(frozen.class_names[k] for k in frozen.owners())
    return GraphFacts(
        mean=tuple(round(x, 8) for x in model.mean.tolist()),
        std=tuple(round(x, 8) for x in model.std.tolist()),
        patch_size=model.patch_size,
        embed_dim=rows.shape[1],
        scores=score_function(model),
        precision="int8" if quantise else "float32",
        class_names=names,
    )


def _quantise(path: Path, facts: GraphFacts) -> None:
    """Turn the weights of a file into 8-bit integers, in place.

    Source:
        onnxruntime's dynamic quantisation: activations are brought to 8 bits by their own range
        while the graph runs, so that no images are needed to choose it.
    """
    import onnx  # noqa: PLC0415 - an optional package

    import_onnxruntime()  # before any part of it
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    quantised = path.with_name(f"quantised-{path.name}")
    with silent():
        quantize_dynamic(path, quantised, weight_type=QuantType.QUInt8)
    made = onnx.load(quantised)
    clean(made, facts)
    quantised.unlink()
    path.write_bytes(made.SerializeToString(deterministic=True))


@torch.inference_mode()
def _difference(eager: SegmentationModel, exported: ExportedModel, frozen: Tensor | None) -> float:
    """Return the largest difference of logits on random images of several sizes.

    Raises:
        CheckpointError: If it is more than rounding, or anything is not finite.
    """
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for (rows, columns), classes in CHECKS:
        size = (rows * eager.patch_size, columns * eager.patch_size)
        image = torch.randn(2, 3, *size, generator=generator)
        texts = torch.randn(classes, exported.facts.embed_dim, generator=generator)
        texts = F.normalize(texts, dim=1) if frozen is None else frozen[-classes:]
        ours, theirs = eager(image, texts), exported(image, texts)
        difference = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else torch.inf
        # A NaN is no number to compare with, so the condition says what is allowed.
        allowed = TOLERANCE if exported.facts.precision == "float32" else torch.finfo().max
        if not difference <= allowed:
            raise CheckpointError(
                f"the exported graph differs from the model by {difference:g} on images of "
                f"{size[0]} × {size[1]} pixels with {len(texts)} classes, and {allowed:g} is "
                "allowed; nothing was written: take other versions of torch and onnxscript"
            )
        largest = max(largest, difference)
    return largest


def _write_rest(
    folder: Path, trained: Trained, exported: ExportedModel, vocabulary: Vocabulary | None
) -> None:
    """Write the files of a checkpoint that are not its weights, with all text embeddings."""
    had_masks = {natural_name(name) for name in trained.seen}
    names = () if vocabulary is None else vocabulary.class_names
    described = replace(
        trained,
        model=exported,  # without a CLIP, so that the checkpoint brings its embeddings along
        own_tower=None,
        vocabulary=vocabulary,
        seen=tuple(name for name in names if natural_name(name) in had_masks),
    )
    checkpoint = folder / "checkpoint"
    save_checkpoint(checkpoint, described)
    (checkpoint / WEIGHTS).unlink()
    if vocabulary is not None:
        _write_vocabulary(checkpoint / VOCABULARY, vocabulary)
    for file in checkpoint.iterdir():
        file.rename(folder / file.name)
    checkpoint.rmdir()


def _seal(folder: Path) -> None:
    """Note which graph belongs to the folder, so that another one in its place is noticed."""
    header = read_json(folder / CONFIG) | {GRAPH: sha256_of(folder / ONNX)}
    del header[DIGESTS][WEIGHTS]  # the graph has taken their place
    text = json.dumps(header, indent=2, ensure_ascii=False) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def _write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Add to the vocabulary of a checkpoint what classes of a training never have."""
    table = read_json(path)
    if vocabulary.synonyms:
        table |= {"synonyms": vocabulary.synonyms, "combine": vocabulary.combine}
    if vocabulary.colours:
        table |= {"colours": vocabulary.colours}
    text = json.dumps(table, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
