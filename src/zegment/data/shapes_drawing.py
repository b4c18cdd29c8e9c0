"""How the things of the Shapes world are painted: outlines, patterns, shadows, light.

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

from zegment.data.shapes_ground import Floats, mix, pixel_axis

Outline = Callable[[Floats, Floats], Floats]

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
    distance: Floats = np.hypot(x, y) - np.float32(radius)
    return distance


def _box(x: Floats, y: Floats, half_width: float, half_height: float) -> Floats:
    across: Floats = np.abs(x) - np.float32(half_width)
    return np.maximum(across, np.abs(y) - np.float32(half_height))


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
    distance: Floats = np.minimum(diamond, lobe)
    return distance


def _tent(x: Floats, y: Floats) -> Floats:
    side = np.abs(x)
    walls = (side * np.float32(1.6) - y - np.float32(0.85)) / np.float32(1.887)
    door = (side * np.float32(2.6) - y + np.float32(0.05)) / np.float32(2.786)
    distance: Floats = np.maximum(np.maximum(walls, y - np.float32(0.75)), -door)
    return distance


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
    bowl: Floats = np.minimum(body, _box(x, y - np.float32(0.92), 0.4, 0.1))
    return bowl


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


# --- things --------------------------------------------------------------------------------------


def _square_wave(position: Floats, sharpness: float) -> Floats:
    """A wave of period 1 between -1 and 1 whose edges are ``1 / sharpness`` wide."""
    triangle = np.abs(position - np.floor(position) - np.float32(0.5)) * 4 - 1
    wave: Floats = np.clip(triangle * np.float32(sharpness / 4), -1, 1)
    return wave


def _surface(thing: Thing, x: Floats, y: Floats, pixel: float) -> Floats:
    """Colours of a thing's surface, (H, W, 3), at unit coordinates whose pixels are ``pixel``."""
    # Bands as wide relative to the whole object in every class, whatever its unit area is.
    period = 0.55 * math.sqrt(_unit_area(thing.name))
    if thing.pattern == "plain":
        return np.broadcast_to(np.array(thing.color, dtype=np.float32), (*x.shape, 3))
    across = _square_wave(y / np.float32(period) + np.float32(0.25), period / pixel)
    if thing.pattern == "stripes":
        return mix(WHITE, thing.color, 0.5 + 0.5 * across)
    along = _square_wave(x / np.float32(period) + np.float32(0.25), period / pixel)
    return mix(BLACK, thing.color, 0.5 + 0.5 * across * along)


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
    across = (pixel_axis(size)[None, left:right] - np.float32(thing.x)) / np.float32(radius)
    down = (pixel_axis(size)[top:bottom, None] - np.float32(thing.y)) / np.float32(radius)
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
    axis = pixel_axis(size) - np.float32(0.5)
    slope = axis[None, :] * np.float32(light[0]) + axis[:, None] * np.float32(light[1])
    strength = np.float32(rng.uniform(0.78, 1.08)) + np.float32(rng.uniform(0, 0.3)) * slope
    tint = np.float32(1) + rng.uniform(-0.05, 0.05, 3).astype(np.float32)
    noise = rng.standard_normal((size, size, 3), dtype=np.float32)
    noise *= np.float32(rng.uniform(0.005, 0.025) * 255)
    lit = image * (strength[..., None] * (tint * np.float32(255))) + noise
    pixels: NDArray[np.uint8] = np.clip(lit + np.float32(0.5), 0, 255).astype(np.uint8)
    return pixels
