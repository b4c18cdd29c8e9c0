"""GeoJSON: one file per image, one polygon per connected region.

Source:
    RFC 7946: rings are closed, the outer one runs counterclockwise and holes clockwise, and
    coordinates of places on the Earth are longitude and latitude of WGS 84.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zegment.colours import as_hex
from zegment.errors import OutputError
from zegment.files import atomic_stream
from zegment.formats.georeference import Georeference, check_drawable, read_georeference
from zegment.formats.labelled import LabelledImage, Legend
from zegment.formats.outlines import Region, RegionMap, regions_of
from zegment.formats.streams import JsonRows, as_json

__all__ = ["GeoJson", "WorldGeoJson"]

_PIXELS = "pixels: x to the right, y down, from the top left corner of the picture"
_SHARED_POINTS = 64
"""Pixels between points of a straight border that is going to be bent by a projection."""

_DECIMALS = 9  # of degrees: a tenth of a millimetre
_Points = Callable[[NDArray[np.int64]], NDArray[np.float64] | NDArray[np.int64]]


class GeoJson:
    """``<stem>.geojson`` in pixels of the picture, whether or not it has a place on the Earth."""

    name: ClassVar[str] = "geojson"

    def check(self, images: Iterable[Path]) -> None:
        """Accept every picture."""

    def write(self, images: Iterable[LabelledImage], legend: Legend, out: Path) -> list[Path]:
        """Write one file for each image."""
        paths = []
        for image in images:
            paths.append(out / f"{image.stem}.geojson")
            found = regions_of(image.labels())
            _write(paths[-1], image, found, legend, system=_PIXELS, convert=lambda ring: ring)
        return paths


class WorldGeoJson:
    """``<stem>.world.geojson`` in longitude and latitude, of pictures that have a georeference.

    A picture whose georeference does not name its coordinate system, as a world file does not,
    keeps its own coordinates; the member ``coordinate_system`` says which were written.
    """

    name: ClassVar[str] = "geojson-world"

    def check(self, images: Iterable[Path]) -> None:
        """Accept pictures that have a georeference and do not lie across the antimeridian.

        Raises:
            ConfigError: If rasterio is not installed.
            OutputError: If a picture has none, or cannot be drawn in longitude and latitude.
        """
        for path in images:
            check_drawable(read_georeference(path), path)

    def write(self, images: Iterable[LabelledImage], legend: Legend, out: Path) -> list[Path]:
        """Write one file for each image.

        Raises:
            OutputError: If a picture has no georeference, or one of another size.
        """
        paths = []
        for image in images:
            place = read_georeference(image.image)
            _check_size(image, place)
            paths.append(out / f"{image.stem}.world.geojson")
            found = regions_of(image.labels(), stride=_SHARED_POINTS)

            def convert(ring: NDArray[np.int64], place: Georeference = place) -> Any:  # noqa: ANN401
                return place.world(ring).round(_DECIMALS)

            _write(paths[-1], image, found, legend, system=place.system, convert=convert)
        return paths


def _write(
    path: Path,
    image: LabelledImage,
    found: RegionMap,
    legend: Legend,
    *,
    system: str,
    convert: _Points,
) -> None:
    """Write a FeatureCollection, feature by feature."""
    confidence = image.confidence()
    scores = None if confidence is None else found.mean_scores(confidence)
    height, width = image.size
    about = {"file_name": image.file_name, "height": height, "width": width}
    with atomic_stream(path) as stream:
        stream.write(b'{"type": "FeatureCollection",\n"coordinate_system": ' + as_json(system))
        stream.write(b',\n"image": ' + as_json(about) + b',\n"features": ')
        features = JsonRows(stream)
        for place, region in enumerate(found.regions):
            properties = {
                "id": region.label,
                "name": legend.class_names[region.label],
                "colour": as_hex(legend.colours[region.label]),
                "area": region.pixels,
            }
            if scores is not None:
                properties["score"] = round(scores[place], 6)
            geometry = {"type": "Polygon", "coordinates": _rings(region, convert)}
            features.add({"type": "Feature", "properties": properties, "geometry": geometry})
        features.close()
        stream.write(b"}\n")


def _rings(region: Region, convert: _Points) -> list[list[list[float]]]:
    """Return closed rings, the outer one counterclockwise and holes clockwise."""
    rings = []
    for place, ring in enumerate(region.rings):
        points = convert(ring)
        if _is_counterclockwise(points) != (place == 0):
            points = points[::-1]
        rings.append([*points.tolist(), points[0].tolist()])
    return rings


def _is_counterclockwise(points: NDArray[Any]) -> bool:
    """Return the sense of a ring if y ran upwards."""
    x, y = (points - points[0]).T  # from a nearby origin, so that nothing is lost to rounding
    return bool((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0)


def _check_size(image: LabelledImage, place: Georeference) -> None:
    if place.size != image.size:
        raise OutputError(
            f"'{image.image}' has (height, width) {place.size}, its label map {image.size}, so its "
            "georeference does not fit; segment it again without resizing or turning it"
        )
