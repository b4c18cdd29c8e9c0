"""PyTorch's own files: tensors and plain data; nothing is executed, and memory stays with the file.

A pickle is a program, and an archive can promise more than it holds. PyTorch's careful reader
refuses the first; here the second is refused too.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zegment.text_files import check_is_file

MOST_SHARED = 8
"""Times that the bytes of a file may be used by its tensors, some of which share them."""


def load_torch(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return what `torch.save` wrote, on the CPU.

    Args:
        path: Of tensors and plain data alone. An archive is mapped, not read.

    Raises:
        OSError: If it cannot be read, or is no file.
        ValueError: If it is compressed, or its tensors are larger than itself.
        pickle.UnpicklingError: If it holds objects that could run code.
        Exception: Whatever else PyTorch raises for a damaged file.
    """
    check_is_file(path)
    # A file of torch before 1.6 is no archive and cannot be mapped.
    archive = zipfile.is_zipfile(path)
    if archive:
        _refuse_compressed(path)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    size, held = path.stat().st_size, sum(t.numel() * t.element_size() for t in _tensors(content))
    if held > MOST_SHARED * size:
        raise ValueError(f"its tensors would take {held} bytes, and it has {size}")
    return content


def _refuse_compressed(path: Path) -> None:
    """Refuse an archive that grows when it is read; PyTorch writes none."""
    try:
        with zipfile.ZipFile(path) as archive:
            stored = all(m.compress_type == zipfile.ZIP_STORED for m in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"its archive is damaged ({error})") from error
    if not stored:
        raise ValueError("it is a compressed archive, and PyTorch writes none")


def _tensors(content: object) -> list[Tensor]:
    """Return the tensors of a state dict, or of the one inside a table."""
    table = content if isinstance(content, Mapping) else {}
    inner = table.get("state_dict")
    values = [*table.values(), *(inner.values() if isinstance(inner, Mapping) else ())]
    return [value for value in values if isinstance(value, Tensor) and value.device.type == "cpu"]
