"""Reads ZegCLIP's released checkpoints: their layout into our modules, whole files into a model.

Letters: L tower layers, P prompts per layer, C tower width, D embedding, K classes.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.checkpoint import Trained, training_vocabulary
from zegment.clip import ImageTower, TowerShape, fingerprint
from zegment.config import (
    Config,
    DataConfig,
    ModelConfig,
    Setting,
    SplitFiles,
    TextConfig,
    WindowConfig,
    ZegClipConfig,
)
from zegment.config_fields import FieldError
from zegment.errors import CheckpointError, ConfigError, ModelNotFoundError, VocabularyError
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD
from zegment.models.segnext_import import DAMAGE
from zegment.models.zegclip import DeepPrompts, MaskDecoder, ZegCLIP
from zegment.text_loading import load_text_tower
from zegment.text_tower import RememberedText, TextTower
from zegment.vocabulary import Vocabulary

HEAD_WIDTH = 64
"""Width of an attention head in every CLIP of OpenAI."""

RELEASED_STRIDE = 426 / 512
"""Stride of the windows at test time, as a share of their size."""

_UNUSED = re.compile(
    r"text_encoder\.(token_embedding\.weight|positional_embedding|text_projection"
    r"|(ln_final|transformer\.resblocks\.\d+\.(ln_1|ln_2|attn\.out_proj|mlp\.c_fc|mlp\.c_proj))"
    r"\.(weight|bias)|transformer\.resblocks\.\d+\.attn\.in_proj_(weight|bias))"
    r"|decode_head\.decoder_1\.layers\.\d+\.(self_attn\.in_proj_(weight|bias)"
    r"|(self_attn\.out_proj|norm1)\.(weight|bias))"
    r"|decode_head\.loss_decode\.criterion\.empty_weight"
)
"""Parts of released checkpoints that their own forward pass never uses, or that text replaces."""

_EMPTY_WEIGHT = "decode_head.loss_decode.criterion.empty_weight"
_SHALLOW, _DEEP = "backbone.prompt_embeddings", "backbone.deep_prompt_embeddings"
_PROMPTS = {
    "backbone.prompt_proj.weight": "prompts.proj.weight",
    "backbone.prompt_proj.bias": "prompts.proj.bias",
    "backbone.prompt_norm.weight": "prompt_norm.weight",
    "backbone.prompt_norm.bias": "prompt_norm.bias",
    "decode_head.q_proj.weight": "descriptor.proj.weight",
    "decode_head.q_proj.bias": "descriptor.proj.bias",
}
_RELEASED_PROMPTS = {ours: theirs for theirs, ours in _PROMPTS.items()}
_DECODER = "decode_head.decoder_1.layers."
_DECODER_PARTS = {
    "multihead_attn.": "",
    "norm2.": "attention_norm.",
    "norm3.": "feed_forward_norm.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What a released checkpoint does not say of itself.

    Attributes:
        class_names: Names in the order of the labels; None takes those that the file holds.
        unseen: Those of them that had no masks.
        setting: How it was trained.
        text: NumPy file with the text embedding of each class, float (K, D); None lets ``clip``
            embed the names.
        clip: The CLIP whose text tower embeds whatever the file's authors have not embedded.
        templates: The sentences that names are put into, by the name of their set.
        heads: Attention heads of the image tower; None is one for every 64 of its width.
        decoder_heads: Attention heads of the mask decoder; 8 as released.
        short_side: Length that the shorter side of an image is resized to; None is the size that
            the positional embeddings are for, as released.
        window: Side of the windows, None likewise.
        stride: From window to window; None is the released share of the window, 426 of 512.
    """

    class_names: tuple[str, ...] | None = None
    unseen: tuple[str, ...] | None = None
    setting: Setting = "inductive"
    text: Path | None = None
    clip: str = "ViT-B-16/openai"
    templates: str = "single"
    heads: int | None = None
    decoder_heads: int = 8
    short_side: int | None = None
    window: int | None = None
    stride: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What a file holds.

    Attributes:
        state: Weights by their released names.
        class_names: In the order of the labels; None if the file does not name them.
    """

    state: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None


def import_checkpoint(path: Path, options: ImportOptions) -> Trained:
    """Return the model of a released checkpoint, with everything that predictions depend on.

    Args:
        path: The ``.pth`` file, of mmcv or a bare state dict. Nothing in it is executed.
        options: What it does not say.

    Returns:
        A model that is independent of any CLIP's image tower: the positional embeddings of the
        file are resized, so its tower is no CLIP's own.

    Raises:
        ModelNotFoundError: If the file, the embeddings or the CLIP do not exist.
        CheckpointError: If the file is damaged, could run code, or is no ZegCLIP checkpoint.
        CheckpointError: If it was trained for another number of classes, or the embeddings are
            not one row for each.
        ConfigError: If an option is wrong, or one is needed.
        VocabularyError: If the class names cannot be used.
    """
    released = read_released(path)
    model = import_zegclip(
        released.state,
        heads=options.heads,
        decoder_heads=options.decoder_heads,
        source=str(path),
    )
    names = _class_names(path, released, options)
    vocabulary = training_vocabulary(names, options.templates)
    unseen = _unseen(path, options)
    data = _data(names, unseen)
    _check_classes(path, released.state, names, unseen, options.setting)
    supervised = options.setting == "supervised"
    return Trained(
        config=Config(
            setting=options.setting,
            data=data,
            text=TextConfig(templates=options.templates),
            model=ModelConfig(
                kind="zegclip",
                clip=options.clip,
                normalization="imagenet",
                zegclip=_model_config(model, options),
            ),
            windows=_windows(model, options),
        ),
        model=model.eval(),
        text_tower=_text_tower(path, vocabulary, model.tower.shape.embed_dim, options),
        fingerprint=fingerprint(model.tower),
        vocabulary=vocabulary,
        seen=tuple(name for name in names if supervised or name not in unseen),
        own_tower=model.tower,
    )


def read_released(path: Path) -> Released:
    """Return the weights and class names of a checkpoint file, without executing anything in it.

    Args:
        path: A file of mmcv (a table with ``state_dict`` and ``meta``), or a bare state dict; a
            ``module.`` before every name is dropped.

    Raises:
        ModelNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, holds objects that could run code, or no state dict.
    """
    content = _load(path)
    table = content if isinstance(content, dict) else {}
    state, meta = table.get("state_dict", table), table.get("meta")
    if not isinstance(state, dict) or not state:
        raise CheckpointError(
            f"{path} holds no state dict (tensors by name, or those under 'state_dict'); give a "
            "checkpoint of ZegCLIP"
        )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds no state dict: {key!r} is no tensor; give a checkpoint of ZegCLIP"
            )
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    names = meta.get("CLASSES") if isinstance(meta, dict) else None
    named = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return Released(state=state, class_names=tuple(names) if names and named else None)


def import_zegclip(
    state: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    decoder_heads: int = 8,
    source: str = "the checkpoint",
) -> ZegCLIP:
    """Return a ZegCLIP with the weights of a released checkpoint's ``state_dict``.

    Every size is read off the weights.

    Args:
        state: Released key layout: ``backbone.*``, ``decode_head.*``; ``text_encoder.*`` is not
            read, since text embeddings are given to the model.
        heads: Attention heads of the image tower, which shapes do not tell; None is one for
            every 64 of its width, as in OpenAI's CLIPs.
        decoder_heads: Attention heads of the mask decoder.
        source: Where the weights are from, for messages.

    Raises:
        CheckpointError: If a tensor is missing, left over, of another shape, or not finite.
        ConfigError: If the heads do not share the width.
    """
    sizes = _sizes(state, source)
    heads = _checked_heads(heads, sizes, decoder_heads)
    with torch.device("meta"):  # shapes alone
        expected = _released_shapes(_empty(sizes, heads, decoder_heads))
    _check(state, expected, source)
    model = _empty(sizes, heads, decoder_heads)
    model.load_state_dict(rename_zegclip(state), strict=True)
    return model


def rename_zegclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return released weights, or gradients, under our names, without the parts never used.

    Raises:
        CheckpointError: If the prompts are missing, or a key is unknown.
    """
    missing = [key for key in (_SHALLOW, _DEEP) if key not in state]
    if missing:
        raise CheckpointError(f"not a ZegCLIP checkpoint: it has no {missing[0]}")
    own = {"prompts.embeddings": torch.cat([state[_SHALLOW], state[_DEEP]])}
    for key, value in state.items():
        if key not in (_SHALLOW, _DEEP) and not _UNUSED.fullmatch(key):
            own[_our_name(key)] = value
    return own


def _our_name(key: str) -> str:
    if key in _PROMPTS:
        return _PROMPTS[key]
    if key.startswith(_DECODER):
        name = "decoder.layers." + key.removeprefix(_DECODER)
        for theirs, ours in _DECODER_PARTS.items():
            name = name.replace(theirs, ours)
        return name
    if key.startswith("backbone."):
        return "tower." + key.removeprefix("backbone.")
    raise CheckpointError(f"not a ZegCLIP checkpoint: unknown tensor '{key}'")


def _released_name(key: str) -> str:
    """Return what `_our_name` was given for one of our names."""
    if key in _RELEASED_PROMPTS:
        return _RELEASED_PROMPTS[key]
    if key.startswith("tower."):
        return "backbone." + key.removeprefix("tower.")
    number, _, part = key.removeprefix("decoder.layers.").partition(".")
    for theirs, ours in _DECODER_PARTS.items():
        if ours and part.startswith(ours):
            return f"{_DECODER}{number}.{theirs}{part.removeprefix(ours)}"
    own = "multihead_attn." if part.startswith(("q.", "k.", "v.", "proj.")) else ""
    return f"{_DECODER}{number}.{own}{part}"


def _released_shapes(model: ZegCLIP) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a released checkpoint of a model must hold."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    layers, *rest = shapes.pop("prompts.embeddings")
    return {
        _SHALLOW: (1, *rest),
        _DEEP: (layers - 1, *rest),
        **{_released_name(key): shape for key, shape in shapes.items()},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What the weights of a checkpoint tell about it."""

    width: int
    layers: int
    patch_size: int
    grid: int
    embed_dim: int
    hidden: int
    prompts: int
    decoder_layers: int
    prompt_norm: bool


def _sizes(state: Mapping[str, Tensor], source: str) -> _Sizes:
    def shape(key: str, n: int) -> tuple[int, ...]:
        if key not in state:
            raise _another_model(source, f"it has no tensor '{key}'")
        if state[key].ndim != n:
            raise _another_model(
                source, f"its tensor '{key}' has {state[key].ndim} dimensions, expected {n}"
            )
        return tuple(state[key].shape)

    def layers(prefix: str) -> int:
        own = (key.removeprefix(prefix) for key in state if key.startswith(prefix))
        return len({rest.partition(".")[0] for rest in own})

    width, _, patch_size, _ = shape("backbone.conv1.weight", 4)
    positions, _ = shape("backbone.positional_embedding", 2)
    grid = round(max(positions - 1, 1) ** 0.5)
    if positions != grid * grid + 1:
        raise _another_model(
            source,
            f"its tensor 'backbone.positional_embedding' has {positions} rows, expected one and "
            "those of a square",
        )
    blocks = "backbone.transformer.resblocks."
    return _Sizes(
        width=width,
        layers=layers(blocks),
        patch_size=patch_size,
        grid=grid,
        embed_dim=shape("backbone.proj", 2)[1],
        hidden=shape(f"{blocks}0.mlp.c_fc.weight", 2)[0],
        prompts=shape(_SHALLOW, 3)[1],
        decoder_layers=max(layers(_DECODER), 1),
        prompt_norm=any(key.startswith("backbone.prompt_norm.") for key in state),
    )


def _checked_heads(heads: int | None, sizes: _Sizes, decoder_heads: int) -> int:
    """Return the heads of the image tower, after checking that both numbers are possible."""
    if heads is None:
        if sizes.width % HEAD_WIDTH:
            raise ConfigError(
                f"--heads: this image tower is {sizes.width} wide, which is no multiple of "
                f"{HEAD_WIDTH}, so its number of attention heads is not known; give it"
            )
        heads = sizes.width // HEAD_WIDTH
    for option, given, width in (
        ("--heads", heads, sizes.width),
        ("--decoder-heads", decoder_heads, sizes.embed_dim),
    ):
        if given < 1 or width % given:
            raise ConfigError(
                f"{option}: {given} heads cannot share a width of {width}; give the number that "
                "the checkpoint was trained with"
            )
    return heads


def _empty(sizes: _Sizes, heads: int, decoder_heads: int) -> ZegCLIP:
    """Return a model of the given sizes, with whatever weights."""
    shape = TowerShape(
        width=sizes.width,
        layers=sizes.layers,
        heads=heads,
        patch_size=sizes.patch_size,
        grid=(sizes.grid, sizes.grid),
        embed_dim=sizes.embed_dim,
        hidden=sizes.hidden,
    )
    prompts = DeepPrompts(
        layers=sizes.layers,
        tokens=sizes.prompts,
        width=sizes.width,
        patch_size=sizes.patch_size,
    )
    return ZegCLIP(
        ImageTower(shape),
        prompts,
        MaskDecoder(sizes.embed_dim, layers=sizes.decoder_layers, heads=decoder_heads),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        prompt_norm=sizes.prompt_norm,
    )


def _check(
    state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Refuse a tensor that is missing, unknown, misshapen, no numbers, or not finite."""
    for key in expected:
        if key not in state:
            raise _another_model(source, f"it has no tensor '{key}'")
    for key, value in state.items():
        if key not in expected:
            if _UNUSED.fullmatch(key):
                continue
            raise _another_model(source, f"it has an unknown tensor '{key}'")
        if tuple(value.shape) != expected[key]:
            raise _another_model(
                source,
                f"its tensor '{key}' has shape {tuple(value.shape)}, expected {expected[key]}",
            )
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or not value.is_floating_point():
            raise _another_model(source, f"its tensor '{key}' holds no plain floating numbers")
        if not value.isfinite().all():
            raise CheckpointError(
                f"{source} is damaged: tensor '{key}' holds NaN or infinity; download it again"
            )


def _another_model(source: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{source} is no ZegCLIP checkpoint: {problem}; give one in the layout of the released "
        "ZegCLIP files"
    )


def _load(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return what a PyTorch file holds, if it is plain data."""
    if not path.is_file():
        raise ModelNotFoundError(f"no checkpoint at '{path}'; give a .pth file of ZegCLIP")
    try:
        # A file of torch before 1.6 is no archive and cannot be mapped.
        archive = zipfile.is_zipfile(path)
        with path.open("rb") as file:
            if not archive and file.read(2) == b"PK":
                raise CheckpointError(
                    f"cannot read {path}: it was cut short; download or copy it again"
                )
        with _numpy_metadata():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"cannot read {path}: it is no PyTorch file, or holds objects that could run code "
            "when loaded; if you trust it, save its tensors alone: torch.save(torch.load(path, "
            "weights_only=False)['state_dict'], new_path)"
        ) from error
    except DAMAGE as error:
        if isinstance(error, CheckpointError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"cannot read {path}: {reason}; it is no PyTorch file, or damaged: download it again"
        ) from error


def _numpy_metadata() -> AbstractContextManager[object]:
    """Let the reader make NumPy's arrays and numbers, which hold metadata such as a palette.

    These functions build arrays from bytes; an array of objects stays refused.
    """
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        return nullcontext()  # before torch 2.6 such a file is refused
    allowed: list[Any] = [np.ndarray, np.dtype]
    allowed += {type(np.dtype(code)) for code in ("?", "u1", "i1", "i2", "i4", "i8", "f4", "f8")}
    functions = {"_reconstruct": np.empty(0).__reduce__()[0], "scalar": np.int64().__reduce__()[0]}
    # NumPy 2 has renamed the module; files know either name.
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(function, f"{module}.{name}") for name, function in functions.items()]
    return torch.serialization.safe_globals(allowed)


def _class_names(path: Path, released: Released, options: ImportOptions) -> tuple[str, ...]:
    names = options.class_names or released.class_names
    if names is None:
        raise ConfigError(
            f"{path} does not name its classes; give them in the order of its labels: "
            '--classes "cat, sofa", or --class-set'
        )
    return names


def _unseen(path: Path, options: ImportOptions) -> tuple[str, ...]:
    unseen = options.unseen or ()
    if not unseen and options.setting != "supervised":
        raise ConfigError(
            f"{path} does not tell which classes had no masks in training; name them with "
            "--unseen, give --class-set, or --setting supervised if all had masks"
        )
    return unseen


def _data(names: tuple[str, ...], unseen: tuple[str, ...]) -> DataConfig:
    """Return the classes as a data set whose files are not known; evaluation asks for them."""
    try:
        return DataConfig(
            source="folder",
            classes=names,
            unseen=unseen,
            train=SplitFiles(images="train/images", masks="train/masks"),
        )
    except FieldError as error:
        raise ConfigError(f"--{error.key.replace('_', '-')}: {error.reason}") from error


def _check_classes(
    path: Path,
    state: Mapping[str, Tensor],
    names: tuple[str, ...],
    unseen: tuple[str, ...],
    setting: Setting,
) -> None:
    """Hold the classes against the one tensor that counts those of training, if it is there."""
    counted = state.get(_EMPTY_WEIGHT)
    expected = len(names) - len(unseen) if setting == "inductive" else len(names)
    if counted is not None and tuple(counted.shape) != (expected + 1,):
        raise CheckpointError(
            f"{path} was trained for {counted.numel() - 1} classes (its tensor '{_EMPTY_WEIGHT}'), "
            f"but {setting} training with {len(names)} classes, {len(unseen)} of them unseen, is "
            f"for {expected}; check --setting, --classes or --class-set, and --unseen"
        )


def _model_config(model: ZegCLIP, options: ImportOptions) -> ZegClipConfig:
    return ZegClipConfig(
        prompt_tokens=model.prompts.embeddings.shape[1],
        decoder_layers=len(model.decoder.layers),
        decoder_heads=options.decoder_heads,
        prompt_norm=not isinstance(model.prompt_norm, torch.nn.Identity),
    )


def _windows(model: ZegCLIP, options: ImportOptions) -> WindowConfig:
    own = model.tower.shape.grid[0] * model.patch_size
    window = own if options.window is None else options.window
    stride = round(RELEASED_STRIDE * window) if options.stride is None else options.stride
    short_side = own if options.short_side is None else options.short_side
    try:
        return WindowConfig(short_side=short_side, size=window, stride=stride)
    except FieldError as error:
        option = {"short_side": "short-side", "size": "window"}.get(error.key, error.key)
        raise ConfigError(f"--{option}: {error.reason}") from error


def _text_tower(path: Path, vocabulary: Vocabulary, dim: int, options: ImportOptions) -> TextTower:
    """Return what embeds the sentences of a vocabulary."""
    if options.text is not None:
        rows = read_text_embeddings(options.text, (len(vocabulary.class_names), dim))
        load = partial(load_text_tower, options.clip)
        return RememberedText(_by_sentence(vocabulary, rows), load)
    tower = load_text_tower(options.clip)
    found = vocabulary.embed(tower).shape[1]
    if found != dim:
        raise ConfigError(
            f"--clip: the text embeddings of '{options.clip}' have {found} dimensions, and {path} "
            f"works with {dim}; give the CLIP that it was trained on"
        )
    return tower


def _by_sentence(vocabulary: Vocabulary, rows: Tensor) -> dict[str, Tensor]:
    """Return the embedding of each class under all its sentences, so that their mean is it.

    Raises:
        VocabularyError: If two classes share a sentence.
    """
    embeddings: dict[str, Tensor] = {}
    for sentences, row in zip(vocabulary.sentences(), rows, strict=True):
        for sentence in sentences:
            if sentence in embeddings:
                raise VocabularyError(
                    f"two classes are both put into words as “{sentence}”, so one embedding "
                    "cannot stand for each; rename one, or leave out --text"
                )
            embeddings[sentence] = row
    return embeddings


def read_text_embeddings(path: Path, shape: tuple[int, int]) -> Tensor:
    """Return published text embeddings as unit rows, float32 (K, D).

    Args:
        path: A ``.npy`` file, float16 or float32.
        shape: K and D.

    Raises:
        ModelNotFoundError: If there is no such file.
        CheckpointError: If it is no such file, of another shape, or a row is no direction.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"no text embeddings at '{path}'; give a .npy file")
    try:
        rows = np.load(path, allow_pickle=False)
    except DAMAGE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"cannot read {path}: {reason}; give a .npy file of numbers, as np.save writes it"
        ) from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f" or rows.shape != shape:
        found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else "an archive"
        raise CheckpointError(
            f"{path} holds {found}, expected one row of floating numbers for each class, {shape}; "
            "rows are in the order of the class names"
        )
    tensor = torch.from_numpy(rows.astype(np.float32))
    bad = ~tensor.isfinite().all(dim=1) | (tensor.norm(dim=1) == 0)
    if bad.any():
        raise CheckpointError(
            f"{path}: row {int(bad.nonzero()[0])} (counted from 0) holds NaN, infinity or zeros "
            "alone; it is damaged, make or download it again"
        )
    return F.normalize(tensor, dim=1)
