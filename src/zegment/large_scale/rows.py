"""A picture's row in the table of its shard, and the label map that a row stands for.

Letters: H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zegment.data.outlines import decompress
from zegment.errors import DatasetError
from zegment.formats.coco import Coco
from zegment.large_scale.reading import Picture
from zegment.optional import optional
from zegment.results import UNKNOWN
from zegment.wording import printable, readable

if TYPE_CHECKING:
    from zegment.results import Segmentation


def schema() -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return the columns of a table, one row per picture.

    ``source`` is the path or address of the file or archive, ``member`` the name in the archive.
    ``status`` is done, damaged or failed, ``error`` says why. ``masks`` has the classes that occur
    in the order of their ids; pixels in no mask are unknown.
    """
    pa = optional("pyarrow", extra="ray", purpose="a table of masks")
    mask = pa.struct(
        [
            pa.field("class_id", pa.int32(), nullable=False),
            pa.field("class_name", pa.string(), nullable=False),
            pa.field("area", pa.int64(), nullable=False),
            pa.field("score", pa.float32()),
            pa.field("counts", pa.string(), nullable=False),
        ]
    )
    return pa.schema(
        [
            pa.field("source", pa.string(), nullable=False),
            pa.field("member", pa.string()),
            pa.field("height", pa.int32()),
            pa.field("width", pa.int32()),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string()),
            pa.field("label_map", pa.string()),
            pa.field("masks", pa.list_(mask)),
        ]
    )


def row_of(
    picture: Picture, result: Segmentation | None, *, label_map: str | None = None
) -> dict[str, Any]:
    """Return the row of a picture.

    Args:
        picture: As it was read.
        result: What the model made of it; None if it could not be read.
        label_map: Path of its index PNG below the folder of the run, if there is one.
    """
    row: dict[str, Any] = {
        "source": readable(picture.source),
        "member": None if picture.member is None else readable(picture.member),
        "status": picture.status,
        "error": None if picture.error is None else readable(picture.error),
        "label_map": label_map,
    }
    if result is None:
        return row
    height, width = result.labels.shape
    masks = [
        {
            "class_id": found["category_id"],
            "class_name": result.class_names[found["category_id"]],
            "area": found["area"],
            "score": found.get("score"),
            "counts": found["segmentation"]["counts"],
        }
        for found in Coco().annotations(result.labels, result.confidence)
    ]
    return {**row, "height": height, "width": width, "masks": masks}


def labels_of(row: Mapping[str, Any]) -> NDArray[np.int32]:
    """Return the label map that a row of a table holds.

    Args:
        row: From pyarrow's ``to_pylist`` or pandas, with ``height``, ``width`` and ``masks``.

    Returns:
        Class ids, int32 (H, W); -1 is unknown. Exactly what `zegment.Segmenter` returned.

    Raises:
        ValueError: If the picture could not be read, so that it has no labels.
        DatasetError: If a mask is not one of a picture of that size.
    """
    if row["masks"] is None or isinstance(row["masks"], float):  # pandas has NaN for nothing
        raise ValueError(f"{row['source']} has no labels: {row['error']}")
    # pandas makes floats of integers with gaps
    height, width = int(row["height"]), int(row["width"])
    labels = np.full((height, width), UNKNOWN, dtype=np.int32)
    for mask in row["masks"]:
        labels[_inside(mask["counts"], height, width, row["source"])] = mask["class_id"]
    return labels


def _inside(code: object, height: int, width: int, source: object) -> NDArray[np.bool_]:
    """Return where COCO's compressed code has its mask, bool (H, W).

    Raises:
        DatasetError: If its runs are not those of so many pixels.

    Note:
        pycocotools, which wrote the code, fills what too short a code leaves open with whatever is
        in memory.
    """
    runs = decompress(code) if isinstance(code, str) else None
    if runs is None or min(runs) < 0 or sum(runs) != height * width:
        raise DatasetError(
            f"the row of {printable(str(source))} has a damaged mask: its runs do not add up to "
            f"the {width} x {height} pixels of its picture; copy the table again, or predict anew"
        )
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(width, height).T  # the order is that of the columns
