"""What the teacher said of an image, remembered on disk from epoch to epoch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from zegment.errors import OutputError
from zegment.files import atomic_write_bytes
from zegment.leftovers import remove_leftovers
from zegment.teaching.teacher import Teacher, Tokens


class TokenCache(nn.Module):
    """A teacher that looks at each image once.

    A file is named after a digest of the teacher's weights, of how its last layer runs, and of the
    very numbers that it would be shown. Whatever changes any of these (another CLIP, another crop,
    another normalisation) asks for another file, so a remembered answer is never out of date. It
    is useful where the same crop comes again: after random crops or colours it never does.

    Tokens are kept in half precision. What the teacher says for the first time is rounded in the
    same way, so the first epoch sees the same numbers as the others.

    Args:
        teacher: Who is asked; its ``name`` must tell its weights.
        folder: Made if missing; several runs may share it.

    Raises:
        OutputError: If nothing can be written there.
    """

    def __init__(self, teacher: Teacher, folder: Path) -> None:
        super().__init__()
        self.teacher = teacher
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
            remove_leftovers(folder, deep=True)
        except OSError as error:
            raise OutputError(
                f"teaching.cache: cannot write into folder '{folder}' ({error.strerror}); give "
                'another one, or "none"'
            ) from error

    def path(self, image: Tensor) -> Path:
        """Return the file for one normalised image, float (3, H, W)."""
        digest = hashlib.blake2b(digest_size=20)
        attention = type(self.teacher.attention).__name__
        digest.update(f"{self.teacher.name} {attention} {tuple(image.shape)}".encode())
        shown = self.teacher.renormalize(image).detach().float().cpu().contiguous()
        digest.update(shown.numpy().tobytes())
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tokens:
        """Return the tokens of a batch, float (B, 3, H, W); see `Teacher`."""
        paths = [self.path(one) for one in image]
        known = {path: _read(path) for path in paths}
        missing = {path: i for i, path in enumerate(paths) if known[path] is None}
        if missing:
            # The whole batch, for in a smaller one products of matrices are rounded differently: a
            # run that was stopped between two files would go on with other numbers.
            new = self.teacher(image)
            for path, i in missing.items():
                known[path] = tokens = Tokens(*(part[i].half().cpu() for part in new))
                _write(path, tokens)
        rows = zip(*(t for path in paths if (t := known[path]) is not None), strict=True)
        return Tokens(*(torch.stack(row).to(image.device).float() for row in rows))


def _read(path: Path) -> Tokens | None:
    """Return the tokens in a file; None if there is none that can be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return Tokens(*(file.get_tensor(name) for name in Tokens._fields))
    except (OSError, SafetensorError):
        return None


def _write(path: Path, tokens: Tokens) -> None:
    atomic_write_bytes(path, save({k: v.contiguous() for k, v in tokens._asdict().items()}))
