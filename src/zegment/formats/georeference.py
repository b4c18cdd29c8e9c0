"""Where a picture lies on the Earth: the tags of a GeoTIFF, or a world file beside it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zegment.errors import OutputError
from zegment.formats.optional import optional

__all__ = ["Georeference", "read_georeference"]

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

    def world(self, points: NDArray[np.int64]) -> NDArray[np.float64]:
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path) as raster:
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
