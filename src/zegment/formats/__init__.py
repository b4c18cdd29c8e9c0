"""Results as files of other programs.

`write_image_outputs` writes what belongs to one image as soon as it is segmented. A `Format` goes
through the finished images of a whole run and hands them to another program; `FORMATS` has them by
the names that users give.
"""

from collections.abc import Mapping
from types import MappingProxyType

from zegment.errors import ConfigError
from zegment.formats.coco import Coco, CocoPolygons
from zegment.formats.cvat import Cvat
from zegment.formats.fiftyone import FiftyOne
from zegment.formats.geojson import GeoJson, WorldGeoJson
from zegment.formats.label_studio import LabelStudio
from zegment.formats.labelled import Format, LabelledImage, Legend
from zegment.formats.per_image import KINDS, check_kinds, write_image_outputs

__all__ = [
    "FORMATS",
    "KINDS",
    "Format",
    "LabelledImage",
    "Legend",
    "check_kinds",
    "format_named",
    "write_image_outputs",
]

FORMATS: Mapping[str, type[Format]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (Coco, CocoPolygons, GeoJson, WorldGeoJson, LabelStudio, Cvat, FiftyOne)
    }
)
"""Formats of a whole run by name."""


def format_named(name: str) -> Format:
    """Return a format by the name that a user gave.

    Raises:
        ConfigError: If there is none.
    """
    if name not in FORMATS:
        raise ConfigError(f"there is no format {name!r}; choose from {', '.join(FORMATS)}")
    return FORMATS[name]()
