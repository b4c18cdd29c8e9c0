"""The ground of the Shapes world: textured stuff and the border between two regions.

Lengths are fractions of the image side, colours are RGB in [0, 1], and everything is float32.

H W pixels; S the side of a square image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Texture = Callable[[np.random.Generator, int], Floats]


@cache
def pixel_axis(size: int) -> Floats:
    """Return the centres of the pixels of one side, float32 (S,), in [0, 1]."""
    return (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)


@cache
def _interpolation(size: int, cells: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the grid cell of each pixel, (S,), and its smooth share of the next value, (S,)."""
    position = pixel_axis(size) * np.float32(cells)
    cell = np.minimum(position.astype(np.int64), cells - 1)
    part = (position - cell).astype(np.float32)
    return cell, part * part * (3 - 2 * part)


def smooth_noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> Floats:
    """Return smooth noise, float32 (S, S) in [-1, 1], with the given number of bumps per side."""
    values = rng.random((rows + 1, columns + 1), dtype=np.float32) * np.float32(2) - np.float32(1)
    # Not a matrix product: at these sizes BLAS would wake its threads and lose time.
    row, down = _interpolation(size, rows)
    column, right = _interpolation(size, columns)
    lines = values[row] + down[:, None] * (values[row + 1] - values[row])  # (S, columns + 1)
    left = lines[:, column]
    noise: Floats = left + right * (lines[:, column + 1] - left)
    return noise


def _turned(rng: np.random.Generator, size: int, tilt: float) -> tuple[Floats, Floats]:
    """Coordinates of a pattern at a random offset, scale and (up to ``tilt``) angle, (S, S)."""
    angle = rng.uniform(-tilt, tilt)
    scale = math.exp(rng.uniform(-0.2, 0.2))
    axis = pixel_axis(size)
    x, y = axis[None, :] + rng.uniform(1, 2), axis[:, None] + rng.uniform(1, 2)
    cos, sin = np.float32(scale * math.cos(angle)), np.float32(scale * math.sin(angle))
    return (x * cos + y * sin).astype(np.float32), (y * cos - x * sin).astype(np.float32)


def mix(dark: tuple[float, ...], light: tuple[float, ...], share: Floats) -> Floats:
    """Return colours between two, float32 (H, W, 3); ``share`` (H, W) of the light one."""
    low = np.array(dark, dtype=np.float32)
    high = np.array(light, dtype=np.float32)
    return low + np.clip(share, 0, 1)[..., None] * (high - low)


def _joint(position: Floats, width: float, size: int) -> tuple[Floats, NDArray[np.int64]]:
    """How much of a pixel is joint between unit cells of ``width``, and the cell's number."""
    cell = np.floor(position)
    edge = np.float32(width * size) * (np.float32(0.5) - np.abs(position - cell - np.float32(0.5)))
    return np.clip(np.float32(1.6) - edge, 0, 1), cell.astype(np.int64)


def _fill_joints(body: Floats, joint: Floats, color: tuple[float, ...]) -> Floats:
    return body + joint[..., None] * (np.array(color, dtype=np.float32) - body)


# --- stuff: ground textures, float32 (S, S, 3) ---------------------------------------------------


def _grass(rng: np.random.Generator, size: int) -> Floats:
    blades = smooth_noise(rng, size, 14, 44) + smooth_noise(rng, size, 22, 60)
    share = 0.45 + 0.3 * blades + 0.2 * smooth_noise(rng, size, 4, 4)
    return mix((0.10, 0.32, 0.07), (0.50, 0.74, 0.24), share)


def _water(rng: np.random.Generator, size: int) -> Floats:
    _, y = _turned(rng, size, 0.3)
    phase = 8 * y + 0.9 * smooth_noise(rng, size, 5, 4) + 0.3 * smooth_noise(rng, size, 9, 7)
    wave = np.sin(np.float32(2 * math.pi) * phase)
    share = 0.3 + 0.15 * wave + 0.6 * np.maximum(wave - np.float32(0.6), 0)
    return mix((0.02, 0.36, 0.50), (0.62, 0.95, 0.95), share)


def _sand(rng: np.random.Generator, size: int) -> Floats:
    _, y = _turned(rng, size, 0.6)
    dunes = np.sin(np.float32(2 * math.pi) * (3 * y + 0.5 * smooth_noise(rng, size, 3, 3)))
    grain = rng.random((size, size), dtype=np.float32) - np.float32(0.5)
    return mix((0.74, 0.60, 0.36), (0.97, 0.87, 0.66), 0.5 + 0.25 * dunes + 0.55 * grain)


def _brick(rng: np.random.Generator, size: int) -> Floats:
    x, y = _turned(rng, size, 0.25)
    across, row = _joint(y / np.float32(0.10), 0.10, size)
    offset = np.float32(0.5) * (row % 2).astype(np.float32)  # every other row by half a brick
    upright, column = _joint(x / np.float32(0.22) + offset, 0.22, size)
    tone = rng.random(97, dtype=np.float32)[(row * 13 + column * 7) % 97]
    body = mix((0.50, 0.17, 0.10), (0.80, 0.38, 0.24), 0.15 + 0.7 * tone)
    return _fill_joints(body, np.maximum(across, upright), (0.82, 0.78, 0.72))


def _wood(rng: np.random.Generator, size: int) -> Floats:
    _, y = _turned(rng, size, 0.35)
    seam, plank = _joint(y / np.float32(0.2), 0.2, size)
    tone = rng.random(31, dtype=np.float32)[plank % 31]
    grain = np.sin(np.float32(2 * math.pi) * (11 * y + 1.6 * smooth_noise(rng, size, 7, 2) + tone))
    share = 0.25 + 0.5 * tone + 0.22 * grain - 0.9 * seam
    return mix((0.30, 0.17, 0.07), (0.72, 0.48, 0.25), share)


def _snow(rng: np.random.Generator, size: int) -> Floats:
    drifts = smooth_noise(rng, size, 4, 4) + 0.4 * smooth_noise(rng, size, 9, 9)
    sparkle = rng.random((size, size), dtype=np.float32) > 0.985
    return mix(
        (0.72, 0.82, 0.95),
        (0.98, 0.98, 1.0),
        0.6 + 0.45 * drifts + 0.5 * sparkle.astype(np.float32),
    )


def _gravel(rng: np.random.Generator, size: int) -> Floats:
    x, y = _turned(rng, size, 0.5)
    x, y = x * np.float32(10), y * np.float32(10)
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    # Pebbles: a jittered grid of stones. A table of 61 stones stands in for endless ones.
    table = rng.random((3, 61), dtype=np.float32)
    nearest: Floats = np.full((size, size), 9, dtype=np.float32)
    second: Floats = nearest
    tone: Floats = nearest
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            cell_x, cell_y = column + step_x, row + step_y
            stone = (cell_y * 17 + cell_x * 5) % 61
            distance = np.hypot(cell_x + table[0, stone] - x, cell_y + table[1, stone] - y)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            tone = np.where(closer, table[2, stone], tone)
            nearest = np.minimum(distance, nearest)
    share = np.clip((second - nearest) * 3, 0, 1) * (0.35 + 0.65 * tone)
    return mix((0.20, 0.20, 0.21), (0.76, 0.74, 0.71), share.astype(np.float32))


def _tiles(rng: np.random.Generator, size: int) -> Floats:
    x, y = _turned(rng, size, 0.5)
    across, row = _joint(y / np.float32(0.16), 0.16, size)
    upright, column = _joint(x / np.float32(0.16), 0.16, size)
    tone = rng.random(61, dtype=np.float32)[(row * 17 + column * 5) % 61]
    share = 0.8 * ((row + column) % 2).astype(np.float32) + 0.2 * tone
    body = mix((0.52, 0.78, 0.70), (0.95, 0.95, 0.86), share)
    return _fill_joints(body, np.maximum(across, upright), (0.36, 0.40, 0.40))


TEXTURES: Mapping[str, Texture] = {
    "grass": _grass,
    "water": _water,
    "sand": _sand,
    "brick": _brick,
    "wood": _wood,
    "snow": _snow,
    "gravel": _gravel,
    "tiles": _tiles,
}


def paint_ground(
    rng: np.random.Generator, size: int, names: tuple[str, ...]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Paint one or two textured regions.

    Args:
        rng: Source of the texture and of the border's course.
        size: Image side in pixels.
        names: One or two keys of ``TEXTURES``.

    Returns:
        RGB in [0, 1], float32 (S, S, 3), and where the second region lies, bool (S, S).
    """
    first = TEXTURES[names[0]](rng, size)
    if len(names) == 1:
        return first, np.zeros((size, size), dtype=np.bool_)
    second = TEXTURES[names[1]](rng, size)
    angle = rng.uniform(0, 2 * math.pi)
    axis = pixel_axis(size) - np.float32(0.5)
    side = axis[None, :] * np.float32(math.cos(angle)) + axis[:, None] * np.float32(math.sin(angle))
    distance = side + np.float32(rng.uniform(-0.17, 0.17))
    distance = distance + np.float32(0.06) * smooth_noise(rng, size, 4, 4)
    cover = np.clip(np.float32(0.5) + distance * np.float32(size), 0, 1)
    return first + cover[..., None] * (second - first), distance > 0
