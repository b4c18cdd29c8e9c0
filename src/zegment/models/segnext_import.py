"""Published weights of SegNeXt: OpenMMLab's encoders, whole segmentors, and files of one's own."""

from __future__ import annotations

import errno
import functools
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zegment.errors import CheckpointError, ModelNotFoundError, did_you_mean
from zegment.files import sha256_of
from zegment.models.segnext import VARIANTS, SegNeXt, SegNeXtVariant
from zegment.text_files import check_is_file
from zegment.torch_files import load_torch
from zegment.wording import first_line

IMAGENET_URL = (
    "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segnext/mscan_{}_20230227-{}.pth"
)
"""Where OpenMMLab publishes encoders trained on ImageNet-1k; ends with a hash of the file."""

PROJECTION = "decode_head.projection.weight"
"""The one tensor that published segmentors lack."""


DAMAGE = (
    SafetensorError,
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    struct.error,
)
"""What the readers of weight files raise for one that is missing, cut short or no such file."""


def segnext(size: str, *, weights: str | Path | None, embed_dim: int) -> SegNeXt:
    """Return a SegNeXt by the name of its size.

    Args:
        size: One of `VARIANTS`.
        weights: See `load_segnext_weights`; None for random ones.
        embed_dim: D.

    Raises:
        ModelNotFoundError: If there is no such size, no such file, or the download is impossible.
        CheckpointError: If the file is damaged, could run code, or belongs to another model.
    """
    if size not in VARIANTS:
        raise ModelNotFoundError(
            f'SegNeXt has no size "{size}"{did_you_mean(size, list(VARIANTS)) or ";"} '
            f"there are {', '.join(VARIANTS)}"
        )
    model = SegNeXt(VARIANTS[size], embed_dim=embed_dim)
    if weights is not None:
        load_segnext_weights(model, weights)
    return model


def load_segnext_weights(model: SegNeXt, weights: str | Path) -> None:
    """Load published weights strictly; the model is unchanged if that fails.

    Args:
        model: A model of the variant that the weights belong to.
        weights: A ``.pth`` or ``.safetensors`` file with an encoder or a whole segmentor, whose
            classifier and auxiliary head are left out, or ``"imagenet"`` for OpenMMLab's
            encoder, which is downloaded on first use.

    Raises:
        ModelNotFoundError: If there is no such file, or the download is impossible.
        CheckpointError: If the file is damaged, could run code, or belongs to another model.
    """
    source, loaded = _fetch(weights, model.variant)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(
            f"{source} holds no state dict (tensors by name, or those under 'state_dict'); save "
            "one with torch.save(model.state_dict(), path)"
        )
    whole = any(key.startswith("backbone.") for key in state)
    target: nn.Module = model if whole else model.backbone
    unused = ("decode_head.conv_seg.", "auxiliary_head.") if whole else ("head.",)
    if whole:
        # Only Zegment's own weights have the projection.
        state = {PROJECTION: model.state_dict()[PROJECTION], **state}
    # The authors' own files wrap one convolution once more than OpenMMLab's.
    own = {
        key.replace(".dwconv.dwconv.", ".dwconv."): value
        for key, value in state.items()
        if not key.startswith(unused)
    }
    _check(own, target.state_dict(), source)
    target.load_state_dict(own)


def _fetch(weights: str | Path, variant: SegNeXtVariant) -> tuple[str, Any]:
    """Return where weights came from, and what is there."""
    source, remedy = str(weights), "give a .pth or .safetensors file, or 'imagenet'"
    load = functools.partial(_read, Path(weights))
    if weights == "imagenet":
        if variant.imagenet is None:
            raise ModelNotFoundError(
                "no ImageNet weights are published for this SegNeXt variant; use one of "
                f"{', '.join(VARIANTS)}, or give the path of a file"
            )
        source = IMAGENET_URL.format(*variant.imagenet)
        _check_copy(Path(torch.hub.get_dir(), "checkpoints", Path(source).name))
        remedy = (
            "download it where there is a network, and give its path instead of 'imagenet' or "
            f"copy it to {torch.hub.get_dir()}/checkpoints"
        )
        load = functools.partial(
            torch.hub.load_state_dict_from_url,
            source,
            map_location="cpu",
            check_hash=True,
            weights_only=True,
        )
    try:
        return source, load()
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"cannot read {source}: it is no PyTorch file, or holds objects that could run code "
            "when loaded; if you trust it, save its tensors alone: torch.save(torch.load(path, "
            "weights_only=False)['state_dict'], new_path)"
        ) from error
    except DAMAGE as error:
        # Of a file that was cut short, PyTorch may read before the start: an invalid argument.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise ModelNotFoundError(
                f"no SegNeXt weights from {source}: {error}; {remedy}"
            ) from error
        raise CheckpointError(
            f"cannot read {source}: {first_line(error)}; it is incomplete or damaged, "
            "download it again"
        ) from error


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return what a file of weights holds; raises as `load_torch` does."""
    if path.suffix != ".safetensors":
        return load_torch(path)
    check_is_file(path)
    return load_file(path)


def _check_copy(path: Path) -> None:
    """Refuse a file in PyTorch's cache that has not the hash which ends its name.

    PyTorch compares what it downloads, but not what was copied there.

    Raises:
        ModelNotFoundError: If it is no file.
        CheckpointError: If it is another one.
    """
    if path.exists() and not path.is_file():
        raise ModelNotFoundError(
            f"{path} is a folder, a pipe or a device, not a file; remove it, and the weights are "
            "downloaded there"
        )
    wanted = path.stem.rpartition("-")[2]
    if path.is_file() and not (digest := sha256_of(path)).startswith(wanted):
        raise CheckpointError(
            f"{path} is not what OpenMMLab published: its SHA-256 begins with "
            f"{digest[: len(wanted)]}, expected {wanted}; remove it, and it is downloaded again"
        )


def _check(own: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError at the first tensor that is missing, unknown, misshapen or broken."""
    for key in [*expected, *own]:
        if key not in own:
            problem = f"it has no tensor '{key}'"
        elif key not in expected:
            problem = f"it has an unknown tensor '{key}'"
        elif own[key].shape != expected[key].shape:
            problem = (
                f"its tensor '{key}' has shape {tuple(own[key].shape)}, "
                f"expected {tuple(expected[key].shape)}"
            )
        elif not own[key].isfinite().all():
            raise CheckpointError(
                f"{source} is damaged: tensor '{key}' holds NaN or infinity; download it again"
            )
        else:
            continue
        raise CheckpointError(
            f"{source} belongs to another model: {problem}; give weights of the same SegNeXt "
            "variant, or build the variant that they belong to"
        )
