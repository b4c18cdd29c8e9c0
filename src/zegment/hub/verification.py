"""Compares weights that arrive with the hash that their source gives for them.

The Hub's client compares sizes alone, but keeps every large file under the SHA-256 that the Hub
names it by. Small files it keeps under Git's hash of them; they come with the answer that names
them, so that comparing would tell nothing new. What lies elsewhere ends in the first digits of its
SHA-256, by PyTorch's convention; these find an accident, and do not keep out who can choose both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import constants

from zegment.errors import CheckpointError
from zegment.files import sha256_of

_HUB = re.compile("([0-9a-f]{64})")
_PYTORCH = re.compile(r".*-([0-9a-f]{8,64})\.\w+")


@contextmanager
def arrivals_verified() -> Iterator[None]:
    """Compare the weights that are downloaded meanwhile with the hashes in their names.

    Whichever library asks for them. What differs is removed from the cache, also where the library
    failed on it before. What lay there earlier is not read again.

    Raises:
        CheckpointError: If a file is not what its source says it is.
    """
    before = _promised()
    try:
        yield
    except Exception as error:
        _verify(_promised().items() - before.items(), because=error)
        raise
    _verify(_promised().items() - before.items())


def _promised() -> dict[Path, str]:
    """Return the files in the caches of the Hub and of PyTorch with the hash that each names."""
    hub = Path(constants.HF_HUB_CACHE).glob("models--*/blobs/*")
    pytorch = Path(torch.hub.get_dir(), "checkpoints").glob("*-*")
    found = [(path, _HUB.fullmatch(path.name)) for path in hub]
    found += [(path, _PYTORCH.fullmatch(path.name)) for path in pytorch]
    return {path: match[1] for path, match in found if match}


def _verify(files: set[tuple[Path, str]], *, because: Exception | None = None) -> None:
    """Remove the files that are not what their names say, with the links to them, and say so."""
    differing = []
    for path, promised in sorted(files):
        digest = sha256_of(path)
        if digest.startswith(promised):
            continue
        links = [
            link
            for link in path.parent.parent.glob("snapshots/*/**/*")
            if link.is_symlink() and link.readlink().name == path.name
        ]
        name = path.name
        if links:
            repo_id = path.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
            name = f"{links[0].name} of '{repo_id}'"
        for place in (*links, path.resolve(), path):
            place.unlink(missing_ok=True)
        differing.append(
            f"{name} arrived with the SHA-256 {digest[:12]}… instead of {promised[:12]}…"
        )
    if differing:
        raise CheckpointError(
            f"{'; '.join(differing)}: something on the way changed it, and nothing of it was kept; "
            "try again, and if it stays so ask who runs the proxy or the mirror (HF_ENDPOINT)"
        ) from because
