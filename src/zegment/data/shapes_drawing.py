"""How the Shapes world is painted: outlines, patterns, ground textures, light.

Lengths are fractions of the image side, colours are RGB in [0, 1], and everything is float32.
One scene is drawn at a time: at these sizes its arrays stay in the processor's cache, which is
faster than batching and makes a scene independent of its neighbours by construction.

H W pixels; S the side of a square image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Outline = Callable[[Floats, Floats], Floats]
Texture = Callable[[np.random.Generator, int], Floats]

WHITE = (0.97, 0.97, 0.95)
BLACK = (0.07, 0.07, 0.08)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object of a scene, in fractions of the image side.

    Attributes:
        name: Its class, which decides the outline.
        color: RGB in [0, 1].
        pattern: ``"plain"``, ``"stripes"`` or ``"checks"``.
        x: Centre, from the left.
        y: Centre, from the top.
        area: Share of the image the whole object would cover, in [0, 1].
        angle: Rotation in radians, clockwise on the screen.
    """

    name: str
    color: tuple[float, float, float]
    pattern: str
    x: float
    y: float
    area: float
    angle: float


# --- outlines: signed distance (negative inside) on unit coordinates, x right and y down ---------


def _disc(x: Floats, y: Floats, radius: float = 1.0) -> Floats:
    return np.hypot(x, y) - np.float32(radius)


def _box(x: Floats, y: Floats, half_width: float, half_height: float) -> Floats:
    return np.maximum(np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height))


def _fold(x: Floats, y: Floats, sectors: int) -> tuple[Floats, Floats]:
    """Polar coordinates folded into half a sector; the sector's axis points up at angle 0."""
    sector = np.float32(2 * math.pi / sectors)
    angle = np.arctan2(x, -y)
    angle = np.abs(angle - sector * np.round(angle / sector))
    radius = np.hypot(x, y)
    return radius * np.cos(angle), radius * np.sin(angle)


def _heart(x: Floats, y: Floats) -> Floats:
    side = np.abs(x)
    diamond = (side + np.abs(y - np.float32(0.1)) - np.float32(0.86)) * np.float32(math.sqrt(0.5))
    lobe = _disc(side - np.float32(0.43), y + np.float32(0.33), 0.608)
    return np.minimum(diamond, lobe)


def _tent(x: Floats, y: Floats) -> Floats:
    side = np.abs(x)
    walls = (side * np.float32(1.6) - y - np.float32(0.85)) / np.float32(1.887)
    door = (side * np.float32(2.6) - y + np.float32(0.05)) / np.float32(2.786)
    return np.maximum(np.maximum(walls, y - np.float32(0.75)), -door)


def _square(x: Floats, y: Floats) -> Floats:
    return _box(x, y, 0.8, 0.8)


def _moon(x: Floats, y: Floats) -> Floats:
    return np.maximum(_disc(x, y), -_disc(x - np.float32(0.5), y + np.float32(0.12), 0.8))


def _star(x: Floats, y: Floats) -> Floats:
    along, across = _fold(x, y, 5)
    # The edge runs from the tip (1, 0) to the inner corner, 36 degrees away at radius 0.46.
    dx, dy = 0.46 * math.cos(math.pi / 5) - 1, 0.46 * math.sin(math.pi / 5)
    length = math.hypot(dx, dy)
    return (along - 1) * np.float32(dy / length) - across * np.float32(dx / length)


def _kite(x: Floats, y: Floats) -> Floats:
    side = np.abs(x)
    upper = (side * np.float32(0.7) - (y + np.float32(1.0)) * np.float32(0.68)) / np.float32(0.976)
    lower = (side * np.float32(1.3) + (y - np.float32(1.0)) * np.float32(0.68)) / np.float32(1.467)
    return np.maximum(upper, lower)


def _pill(x: Floats, y: Floats) -> Floats:
    return _disc(np.maximum(np.abs(x) - np.float32(0.6), 0), y, 0.42)


def _ring(x: Floats, y: Floats) -> Floats:
    return np.abs(_disc(x, y, 0.73)) - np.float32(0.27)


def _bowl(x: Floats, y: Floats) -> Floats:
    y = y + np.float32(0.4)
    body = np.maximum(_disc(x, y, 0.92), -y)
    return np.minimum(body, _box(x, y - np.float32(0.92), 0.4, 0.1))


def _flower(x: Floats, y: Floats) -> Floats:
    along, across = _fold(x, y, 6)
    return np.minimum(_disc(along - np.float32(0.64), across, 0.36), _disc(x, y, 0.55))


def _cross(x: Floats, y: Floats) -> Floats:
    return np.minimum(_box(x, y, 0.95, 0.33), _box(x, y, 0.33, 0.95))


OUTLINES: Mapping[str, Outline] = {
    "heart": _heart,
    "tent": _tent,
    "box": _square,
    "moon": _moon,
    "star": _star,
    "kite": _kite,
    "ball": _disc,
    "pill": _pill,
    "ring": _ring,
    "bowl": _bowl,
    "flower": _flower,
    "cross": _cross,
}


@cache
def _unit_area(name: str) -> float:
    """Area inside an outline in unit coordinates, so that every class can be drawn as large."""
    axis = np.linspace(-1.25, 1.25, 501, dtype=np.float32)
    inside = OUTLINES[name](axis[None, :], axis[:, None]) < 0
    return float(inside.mean()) * 2.5**2


# --- noise and coordinates -----------------------------------------------------------------------


@cache
def _axis(size: int) -> Floats:
    return (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)


@cache
def _interpolation(size: int, cells: int) -> Floats:
    """Smooth weights, (size, cells + 1), from a grid of random values to pixels."""
    position = _axis(size) * np.float32(cells)
    left = np.minimum(position.astype(np.int64), cells - 1)
    part = position - left
    part = part * part * (3 - 2 * part)
    weights = np.zeros((size, cells + 1), dtype=np.float32)
    rows = np.arange(size)
    weights[rows, left] = 1 - part
    weights[rows, left + 1] = part
    return weights


def smooth_noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> Floats:
    """Return smooth noise, float32 (S, S) in [-1, 1], with the given number of bumps per side."""
    values = rng.random((rows + 1, columns + 1), dtype=np.float32) * 2 - 1
    return _interpolation(size, rows) @ values @ _interpolation(size, columns).T


def _turned(rng: np.random.Generator, size: int, tilt: float) -> tuple[Floats, Floats]:
    """Coordinates of a pattern at a random offset, scale and (up to ``tilt``) angle, (S, S)."""
    angle = rng.uniform(-tilt, tilt)
    scale = math.exp(rng.uniform(-0.2, 0.2))
    axis = _axis(size)
    x, y = axis[None, :] + rng.uniform(1, 2), axis[:, None] + rng.uniform(1, 2)
    cos, sin = np.float32(scale * math.cos(angle)), np.float32(scale * math.sin(angle))
    return (x * cos + y * sin).astype(np.float32), (y * cos - x * sin).astype(np.float32)


def _mix(dark: tuple[float, ...], light: tuple[float, ...], share: Floats) -> Floats:
    low = np.array(dark, dtype=np.float32)
    high = np.array(light, dtype=np.float32)
    return low + np.clip(share, 0, 1)[..., None] * (high - low)


def _joint(position: Floats, width: float, size: int) -> tuple[Floats, NDArray[np.int64]]:
    """How much of a pixel is joint between unit cells of ``width``, and the cell's number."""
    cell = np.floor(position)
    edge = np.float32(width * size) * (np.float32(0.5) - np.abs(position - cell - np.float32(0.5)))
    return np.clip(np.float32(1.6) - edge, 0, 1), cell.astype(np.int64)


# --- stuff: ground textures, float32 (S, S, 3) ---------------------------------------------------


def _grass(rng: np.random.Generator, size: int) -> Floats:
    blades = smooth_noise(rng, size, 14, 44) + smooth_noise(rng, size, 22, 60)
    share = 0.45 + 0.3 * blades + 0.2 * smooth_noise(rng, size, 4, 4)
    return _mix((0.10, 0.32, 0.07), (0.50, 0.74, 0.24), share)


def _water(rng: np.random.Generator, size: int) -> Floats:
    _, y = _turned(rng, size, 0.3)
    phase = 8 * y + 0.9 * smooth_noise(rng, size, 5, 4) + 0.3 * smooth_noise(rng, size, 9, 7)
    wave = np.sin(np.float32(2 * math.pi) * phase)
    share = 0.3 + 0.15 * wave + 0.6 * np.maximum(wave - np.float32(0.6), 0)
    return _mix((0.02, 0.36, 0.50), (0.62, 0.95, 0.95), share)


def _sand(rng: np.random.Generator, size: int) -> Floats:
    _, y = _turned(rng, size, 0.6)
    dunes = np.sin(np.float32(2 * math.pi) * (3 * y + 0.5 * smooth_noise(rng, size, 3, 3)))
    grain = rng.random((size, size), dtype=np.float32) - np.float32(0.5)
    return _mix((0.74, 0.60, 0.36), (0.97, 0.87, 0.66), 0.5 + 0.25 * dunes + 0.55 * grain)


def _brick(rng: np.random.Generator, size: int) -> Floats:
    x, y = _turned(rng, size, 0.25)
    across, row = _joint(y / np.float32(0.10), 0.10, size)
    upright, column = _joint(x / np.float32(0.22) + np.float32(0.5) * (row % 2), 0.22, size)
    tone = rng.random(97, dtype=np.float32)[(row * 13 + column * 7) % 97]
    body = _mix((0.50, 0.17, 0.10), (0.80, 0.38, 0.24), 0.15 + 0.7 * tone)
    mortar = np.maximum(across, upright)[..., None]
    return body + mortar * (np.array((0.82, 0.78, 0.72), dtype=np.float32) - body)


def _wood(rng: np.random.Generator, size: int) -> Floats:
    _, y = _turned(rng, size, 0.35)
    seam, plank = _joint(y / np.float32(0.2), 0.2, size)
    tone = rng.random(31, dtype=np.float32)[plank % 31]
    grain = np.sin(np.float32(2 * math.pi) * (11 * y + 1.6 * smooth_noise(rng, size, 7, 2) + tone))
    share = 0.25 + 0.5 * tone + 0.22 * grain - 0.9 * seam
    return _mix((0.30, 0.17, 0.07), (0.72, 0.48, 0.25), share)


def _snow(rng: np.random.Generator, size: int) -> Floats:
    drifts = smooth_noise(rng, size, 4, 4) + 0.4 * smooth_noise(rng, size, 9, 9)
    sparkle = rng.random((size, size), dtype=np.float32) > 0.985
    return _mix((0.72, 0.82, 0.95), (0.98, 0.98, 1.0), 0.6 + 0.45 * drifts + 0.5 * sparkle)


def _gravel(rng: np.random.Generator, size: int) -> Floats:
    x, y = _turned(rng, size, 0.5)
    x, y = x * np.float32(10), y * np.float32(10)
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    # Pebbles: a jittered grid of stones. A table of 61 stones stands in for endless ones.
    table = rng.random((3, 61), dtype=np.float32)
    nearest = np.full((size, size), 9, dtype=np.float32)
    second, tone = nearest, nearest
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
    return _mix((0.20, 0.20, 0.21), (0.76, 0.74, 0.71), share.astype(np.float32))


def _tiles(rng: np.random.Generator, size: int) -> Floats:
    x, y = _turned(rng, size, 0.5)
    across, row = _joint(y / np.float32(0.16), 0.16, size)
    upright, column = _joint(x / np.float32(0.16), 0.16, size)
    tone = rng.random(61, dtype=np.float32)[(row * 17 + column * 5) % 61]
    share = 0.8 * ((row + column) % 2) + 0.2 * tone
    body = _mix((0.52, 0.78, 0.70), (0.95, 0.95, 0.86), share.astype(np.float32))
    grout = np.maximum(across, upright)[..., None]
    return body + grout * (np.array((0.36, 0.40, 0.40), dtype=np.float32) - body)


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


# --- things --------------------------------------------------------------------------------------


def _square_wave(position: Floats, sharpness: float) -> Floats:
    """A wave of period 1 between -1 and 1 whose edges are ``1 / sharpness`` wide."""
    triangle = np.abs(position - np.floor(position) - np.float32(0.5)) * 4 - 1
    return np.clip(triangle * np.float32(sharpness / 4), -1, 1)


def _surface(thing: Thing, x: Floats, y: Floats, pixel: float) -> Floats:
    """Colours of a thing's surface, (H, W, 3), at unit coordinates whose pixels are ``pixel``."""
    # Bands as wide relative to the whole object in every class, whatever its unit area is.
    period = 0.55 * math.sqrt(_unit_area(thing.name))
    if thing.pattern == "plain":
        return np.broadcast_to(np.array(thing.color, dtype=np.float32), (*x.shape, 3))
    across = _square_wave(y / np.float32(period) + np.float32(0.25), period / pixel)
    if thing.pattern == "stripes":
        return _mix(WHITE, thing.color, 0.5 + 0.5 * across)
    along = _square_wave(x / np.float32(period) + np.float32(0.25), period / pixel)
    return _mix(BLACK, thing.color, 0.5 + 0.5 * across * along)


def paint_thing(
    image: Floats, label: NDArray[np.uint8], thing: Thing, class_id: int, light: tuple[float, float]
) -> None:
    """Paint one thing, its shadow and its mask into an image and its label map.

    Args:
        image: RGB in [0, 1], float32 (S, S, 3); changed in place.
        label: Class ids, uint8 (S, S); changed in place.
        thing: What to paint.
        class_id: What to write into the label map.
        light: Unit vector (x, y) towards the light.
    """
    size = image.shape[0]
    radius = math.sqrt(thing.area / _unit_area(thing.name))
    reach = 1.2 * radius
    top, left = (max(0, math.floor((c - reach) * size)) for c in (thing.y, thing.x))
    bottom, right = (min(size, math.ceil((c + reach) * size)) for c in (thing.y, thing.x))
    window = (slice(top, bottom), slice(left, right))
    across = (_axis(size)[None, left:right] - np.float32(thing.x)) / np.float32(radius)
    down = (_axis(size)[top:bottom, None] - np.float32(thing.y)) / np.float32(radius)
    cos, sin = np.float32(math.cos(thing.angle)), np.float32(math.sin(thing.angle))
    x, y = across * cos + down * sin, down * cos - across * sin
    pixel = 1 / (radius * size)
    distance = OUTLINES[thing.name](x, y)

    shift_y, shift_x = (-round(0.03 * size * part) for part in (light[1], light[0]))
    shade = np.clip(np.float32(0.35) - distance * np.float32(radius / 0.05), 0, 1)
    _darken(image, shade * np.float32(0.4), top + shift_y, left + shift_x)

    rim = np.clip(-distance * np.float32(radius / 0.02), 0, 1)
    glow = np.float32(light[0]) * across + np.float32(light[1]) * down
    lit = (np.float32(0.7) + np.float32(0.3) * rim) * (1 + np.float32(0.16) * glow)
    cover = np.clip(np.float32(0.5) - distance / np.float32(pixel), 0, 1)[..., None]
    target = image[window]
    target += cover * (_surface(thing, x, y, pixel) * lit[..., None] - target)
    label[window][distance < 0] = class_id


def _darken(image: Floats, amount: Floats, top: int, left: int) -> None:
    """Multiply a patch of the image by ``1 - amount``, cut at the image's border; in place."""
    height, width = amount.shape
    size = image.shape[0]
    rows = slice(max(0, -top), min(height, size - top))
    columns = slice(max(0, -left), min(width, size - left))
    patch = image[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
    patch *= 1 - amount[rows, columns, None]


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
    axis = _axis(size) - np.float32(0.5)
    side = axis[None, :] * np.float32(math.cos(angle)) + axis[:, None] * np.float32(math.sin(angle))
    distance = side + np.float32(rng.uniform(-0.17, 0.17))
    distance = distance + np.float32(0.06) * smooth_noise(rng, size, 4, 4)
    cover = np.clip(np.float32(0.5) + distance * np.float32(size), 0, 1)
    return first + cover[..., None] * (second - first), distance > 0


def light_up(
    rng: np.random.Generator, image: Floats, light: tuple[float, float]
) -> NDArray[np.uint8]:
    """Return the image under a light of random strength and tint, with sensor noise.

    Args:
        rng: Source of the strength, the tint and the noise.
        image: RGB, float32 (S, S, 3), in [0, 1].
        light: Unit vector (x, y) towards the light.

    Returns:
        RGB, uint8 (S, S, 3).
    """
    size = image.shape[0]
    axis = _axis(size) - np.float32(0.5)
    slope = axis[None, :] * np.float32(light[0]) + axis[:, None] * np.float32(light[1])
    strength = np.float32(rng.uniform(0.78, 1.08)) + np.float32(rng.uniform(0, 0.3)) * slope
    tint = np.float32(1) + rng.uniform(-0.05, 0.05, 3).astype(np.float32)
    noise = rng.standard_normal((size, size, 3), dtype=np.float32)
    noise *= np.float32(rng.uniform(0.005, 0.025) * 255)
    lit = image * (strength[..., None] * (tint * np.float32(255))) + noise
    return np.clip(lit + np.float32(0.5), 0, 255).astype(np.uint8)
