"""Caches that several processes read and write at once, and that are damaged meanwhile.

Published size: 200 rounds of both caches, by three processes; in every fourth round the file of the
text cache is damaged in a drawn place, and now and then one of the token cache is cut off.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from soaks.at_once import in_rounds
from torch import Tensor, nn

from zegment.files import atomic_write_bytes
from zegment.teaching.teacher import Tokens
from zegment.teaching.token_cache import TokenCache
from zegment.text_cache import TextCache

WORDS = 40
"""Words whose embeddings are remembered."""

WRONG = "wrong numbers"


def embedding(word: int) -> Tensor:
    """Return what stands for the embedding of a word, at length one, float (64,)."""
    row = torch.randn(64, generator=torch.Generator().manual_seed(word))
    return row / row.norm()


def use_text_cache(path: Path, place: int, draw: random.Random) -> str:
    """Read and write rows of one cache for all rounds; damage it now and then."""
    folder = path.parent / "text"
    cache = TextCache(lambda: "tower", folder)
    words = [draw.randrange(WORDS) for _ in range(8)]
    if place == 0 and int(path.name) % 4 == 3:
        damage(folder / "text-embeddings.sqlite", draw)
    cache.write({(f"{word}",): embedding(word) for word in words})
    found = cache.read([(f"{word}",) for word in range(WORDS)])
    right = all(torch.equal(row, embedding(int(word))) for (word,), row in found.items())
    return "done" if right else WRONG


def damage(file: Path, draw: random.Random) -> None:
    """Overwrite, cut off or extend a file in a drawn place."""
    if not file.is_file():
        return
    data = bytearray(file.read_bytes())
    start = draw.randrange(len(data) or 1)
    if draw.random() < 0.3:
        del data[start:]
    else:
        data[start : start + 64] = draw.randbytes(64)
    with file.open("r+b") as stream:  # not atomic: this is what must not happen, and does
        stream.write(data)
        stream.truncate(len(data))


class Teacher(nn.Module):
    """Stands in for CLIP's image tower: says of an image what is easily told."""

    name = "teacher"
    attention = None

    def renormalize(self, image: Tensor) -> Tensor:
        """Return the image."""
        return image

    def forward(self, image: Tensor) -> Tokens:
        """Return the mean of each image, and its pixels."""
        return Tokens(image.mean((-1, -2)), image.permute(0, 2, 3, 1))


def use_token_cache(path: Path, place: int, draw: random.Random) -> str:
    """Ask for the tokens of images that others ask for at the same instant; cut files off."""
    folder = path.parent / "tokens" / f"{int(path.name) % 8}"
    cache, teacher = TokenCache(Teacher(), folder), Teacher()  # type: ignore[arg-type]
    numbers = [draw.randrange(12) for _ in range(4)]
    images = torch.stack([embedding(number).view(1, 8, 8).expand(3, 8, 8) for number in numbers])
    if place == 0 and draw.random() < 0.3 and (files := sorted(folder.glob("*/*.safetensors"))):
        file = draw.choice(files)
        atomic_write_bytes(file, file.read_bytes()[: draw.randrange(200)])
    wanted = [part.half().float() for part in teacher(images)]
    right = all(map(torch.equal, cache(images), wanted))
    return "done" if right else WRONG


def use_caches(path: Path, place: int, draw: random.Random) -> str:
    """Use both caches."""
    answers = {use_text_cache(path, place, draw), use_token_cache(path, place, draw)}
    return ", ".join(sorted(answers))


def caches(*, amount: float, seed: int, folder: Path) -> dict[str, Any]:
    """Use both caches, and return what was done and what must not have been."""
    rounds = max(4, round(200 * amount))
    found = in_rounds(use_caches, folder, rounds=rounds, seed=seed, read=None)
    failures = [
        f"caches, round {number}: {answers}"
        for number, answers in enumerate(found.answers)
        if set(answers) != {"done"}
    ]
    return {"rounds": rounds, "processes": 3, "failures": failures}
