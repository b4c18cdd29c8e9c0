"""The files that can be written for each image as soon as it is segmented.

Letters: H W pixels, K classes.
"""

import re
import unicodedata
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zegment.errors import ConfigError, OutputError
from zegment.files import atomic_folder, atomic_write_bytes
from zegment.formats.streams import add_to_archive, png_bytes, write_inside
from zegment.results import Segmentation

__all__ = ["KINDS", "MASK_FILE", "check_kinds", "mask_name", "write_image_outputs"]

_ROUNDING = 1e-4
_LONGEST_SLUG = 48
MASK_FILE = re.compile(r"\d{3,}(_[a-z0-9-]+)?\.png")


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse kinds of output that do not exist.

    Raises:
        ConfigError: If one is unknown.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"cannot save {kind!r}; choose from {', '.join(KINDS)}")


def write_image_outputs(
    result: Segmentation, folder: Path, stem: str, kinds: Sequence[str]
) -> dict[str, Path]:
    """Write files of one image, each whole or not at all.

    Args:
        result: What was found.
        folder: Made if missing.
        stem: Files are called ``<stem>.<kind>`` and an ending; "/" makes folders.
        kinds: Any of `KINDS`. Whatever their order, ``labels`` is written last: where it is, the
            others are complete.

    Returns:
        The paths by kind.

    Raises:
        ConfigError: If a kind is unknown.
        ValueError: If the result lacks what a kind shows; nothing is written then.
        ValueError: If confidence or entropy leaves [0, 1].
        OutputError: If the folder cannot be written to.
    """
    check_kinds(kinds)
    for kind in kinds:
        if kind in ("confidence", "entropy", "margin", "scores") and getattr(result, kind) is None:
            raise ValueError(
                f"the result has no {kind}, so it cannot be saved; ask the segmenter for it"
            )
    base = Path(folder) / stem
    # An insertion order of its own: whoever finds the labels takes the image for finished.
    ordered = [kind for kind in KINDS if kind in kinds]
    return {kind: KINDS[kind](result, base) for kind in ordered}


def mask_name(place: int, name: str, *, num_classes: int) -> str:
    """Return the file name of one class's mask, such as ``003_potted-plant.png``.

    Args:
        place: The class id, which makes the file name unique.
        name: The class name, of which only letters and digits known to ASCII are kept.
        num_classes: K; decides the number of digits, at least three.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii").lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:_LONGEST_SLUG].strip("-")
    digits = max(3, len(str(num_classes - 1)))
    return f"{place:0{digits}d}{'_' if slug else ''}{slug}.png"


def _write_overlay(result: Segmentation, base: Path) -> Path:
    return _write(base, ".overlay.png", png_bytes(result.overlay()))


def _write_labels(result: Segmentation, base: Path) -> Path:
    return _write(base, ".labels.png", png_bytes(result.index_png()))


def _write_masks(result: Segmentation, base: Path) -> Path:
    """Write one picture, 0 or 255, for each class that occurs."""
    target = base.with_name(f"{base.name}.masks")
    _check_only_masks(target)
    names = result.class_names
    with atomic_folder(target, replace=True) as folder:
        for place in np.unique(result.labels[result.labels >= 0]).tolist():
            mask = np.where(result.labels == place, np.uint8(255), np.uint8(0))
            file = folder / mask_name(place, names[place], num_classes=len(names))
            write_inside(file, png_bytes(Image.fromarray(mask)))
    return target


def _write_confidence(result: Segmentation, base: Path) -> Path:
    return _write(base, ".confidence.png", _unit_png(result.confidence, "confidence"))


def _write_entropy(result: Segmentation, base: Path) -> Path:
    return _write(base, ".entropy.png", _unit_png(result.entropy, "entropy"))


def _write_margin(result: Segmentation, base: Path) -> Path:
    lead = None if result.margin is None else result.margin.clip(0, 1)  # a penalty adds to it
    return _write(base, ".margin.png", _unit_png(lead, "margin"))


def _write_scores(result: Segmentation, base: Path) -> Path:
    """Write ``scores``, float16 (K, H, W), and ``class_names``, text (K,), for `numpy.load`."""
    stream = BytesIO()
    arrays = {"class_names": np.array(result.class_names), "scores": result.scores}
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            member = BytesIO()
            np.save(member, np.asarray(array), allow_pickle=False)
            add_to_archive(archive, f"{name}.npy", [member.getvalue()])
    return _write(base, ".scores.npz", stream.getvalue())


KINDS: Mapping[str, Callable[[Segmentation, Path], Path]] = MappingProxyType(
    {
        "overlay": _write_overlay,
        "masks": _write_masks,
        "confidence": _write_confidence,
        "entropy": _write_entropy,
        "margin": _write_margin,
        "scores": _write_scores,
        "labels": _write_labels,
    }
)
"""What can be saved of an image; ``labels`` comes last."""


def _unit_png(values: NDArray[np.float32] | None, name: str) -> bytes:
    """Return values in [0, 1], float (H, W), as a grey PNG of 16 bits: 1 is 65535."""
    values = np.asarray(values, dtype=np.float64)
    low, high = values.min(), values.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise ValueError(
            f"{name} runs from {low:g} to {high:g}, and a picture holds 0 to 1; "
            f"take it from the result as an array instead"
        )
    grey = np.rint(values.clip(0, 1) * 65535).astype(np.uint16)
    return png_bytes(Image.fromarray(grey))


def _write(base: Path, ending: str, data: bytes) -> Path:
    path = base.with_name(base.name + ending)
    atomic_write_bytes(path, data)
    return path


def _check_only_masks(folder: Path) -> None:
    """Refuse to replace a folder that holds anything but masks written before."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if not MASK_FILE.fullmatch(path.name):
            raise OutputError(
                f"'{path}' would be lost, because masks are written to that folder; move it away"
            )
