"""Where a picture lies on the Earth: the tags of a GeoTIFF, or a world file beside it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zegment.errors import OutputError
from zegment.image_bytes import refuse_special
from zegment.optional import optional

__all__ = ["Georeference", "check_drawable", "read_georeference"]

_BORDER_POINTS = 257  # on each side of a picture
_ROUNDING = 1e-6  # degrees

_DRIVERS = {
    b"II*\0": "GTiff", b"MM\0*": "GTiff", b"II+\0": "GTiff", b"MM\0+": "GTiff",
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WEBP", b"BM": "BMP", b"GIF8": "GIF",
}  # fmt: skip

LONGITUDE_LATITUDE = "longitude and latitude in degrees (WGS 84, EPSG:4326)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Georeference:
    """How pixels of a picture map to coordinates.

    Attributes:
        size: (height, width) of the picture.
        affine: a, b, c, d, e, f of x' = a x + b y + c and y' = d x + e y + f, from points between
            pixels to the picture's coordinate system.
        crs: rasterio's description of that system; None if it is not known.
    """

    size: tuple[int, int]
    affine: tuple[float, float, float, float, float, float]
    crs: Any

    @property
    def system(self) -> str:
        """The coordinates that `world` returns, in words."""
        if self.crs is not None:
            return LONGITUDE_LATITUDE
        return "the picture's own: its georeference does not name a coordinate system"

    def world(self, points: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (x, y) in pixels as longitude and latitude, float64 (points, 2).

        If the coordinate system is not known, they are returned in it.
        """
        a, b, c, d, e, f = self.affine
        x, y = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
        mapped = a * x + b * y + c, d * x + e * y + f
        if self.crs is None:
            return np.stack(mapped, axis=1)
        warp = optional("rasterio.warp", extra="geo", purpose="the format geojson-world")
        return np.stack(warp.transform(self.crs, "EPSG:4326", *mapped), axis=1)


def read_georeference(path: Path) -> Georeference:
    """Return where a picture lies.

    Raises:
        ConfigError: If rasterio is not installed.
        OutputError: If the picture has no georeference, or cannot be read by rasterio.
    """
    rasterio = optional("rasterio", extra="geo", purpose="the format geojson-world")
    driver = _driver_of(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path, driver=driver) as raster:
                size, affine, crs = (raster.height, raster.width), raster.transform, raster.crs
    except rasterio.errors.RasterioIOError as error:
        raise OutputError(
            f"cannot read the georeference of '{path}': {error}; choose the format geojson, which "
            "writes pixel coordinates"
        ) from error
    if affine.is_identity:
        raise OutputError(
            f"'{path}' has no georeference (GeoTIFF tags or a world file); choose the format "
            "geojson, which writes pixel coordinates"
        )
    return Georeference(size=size, affine=tuple(affine)[:6], crs=crs or None)


def _driver_of(path: Path) -> str:
    """Return which of GDAL's drivers reads a picture.

    Others are never asked: what calls itself a picture may be a text that sends them to other files
    or addresses.

    Raises:
        ImageError: If ``path`` is no regular file.
        OutputError: If it cannot be read, or is no picture.
    """
    try:
        refuse_special(path)
        with path.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise OutputError(f"cannot read '{path}': {error.strerror or error}; check it") from error
    driver = next((name for start, name in _DRIVERS.items() if head.startswith(start)), None)
    if driver is None:
        raise OutputError(
            f"cannot read the georeference of '{path}': it is no TIFF, PNG, JPEG, WebP, BMP or "
            "GIF; convert it to a GeoTIFF"
        )
    return driver


def check_drawable(place: Georeference, path: Path) -> None:
    """Refuse a picture whose regions could not be polygons in longitude and latitude.

    At the antimeridian longitudes jump from 180 to -180, so that a polygon would reach around the
    Earth. Such a picture is known by its border, on which neighbouring points are far apart.

    Raises:
        OutputError: If the picture lies across the antimeridian or around a pole.
        OutputError: If it, or a part of it, has no longitude and latitude.
    """
    if place.crs is None:
        return
    height, width = place.size
    steps = np.linspace(0, 1, _BORDER_POINTS)
    edge, none = np.ones_like(steps), np.zeros_like(steps)
    x = np.concatenate([steps, edge, 1 - steps, none]) * width
    y = np.concatenate([none, steps, edge, 1 - steps]) * height
    try:
        border = place.world(np.stack([x, y], axis=1))
    except Exception as error:  # rasterio has no public name for what GDAL raises
        raise _unplaced(path) from error
    if not np.isfinite(border).all():
        raise _unplaced(path)
    longitudes = border[:, 0]
    jump = np.abs(np.diff(longitudes)).max() > 180
    if jump or np.abs(longitudes).max() > 180 + _ROUNDING:
        raise OutputError(
            f"'{path}' lies across the antimeridian (longitude 180), where polygons would break; "
            "choose --format geojson, which writes pixel coordinates, or cut the picture there"
        )


def _unplaced(path: Path) -> OutputError:
    return OutputError(
        f"'{path}' or a part of it has no longitude and latitude in its coordinate system; choose "
        "--format geojson, which writes pixel coordinates, or cut the picture"
    )
