"""A result as an object of another library: supervision, napari, scikit-image, FiftyOne.

Each library is imported only by the function that makes its object.

Letters: H W pixels, K classes, N classes that occur.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zegment.formats.fiftyone import shifted
from zegment.optional import optional
from zegment.results import Segmentation

if TYPE_CHECKING:
    import supervision

LayerData: TypeAlias = "tuple[NDArray[np.int32], dict[str, Any], str]"


def label_image(result: Segmentation) -> NDArray[np.int32]:
    """Return the label map in the convention of scikit-image and napari.

    Returns:
        int32 (H, W); 0 is unknown, class k is k + 1. ``skimage.measure.regionprops`` passes over 0,
        and so does ``skimage.color.label2rgb`` with ``bg_label=0``.
    """
    return np.asarray(result.labels + 1)


def to_supervision(result: Segmentation) -> supervision.Detections:
    """Return one detection per class that occurs, in the order of class ids.

    Args:
        result: What was found; each class is one mask, however many objects it covers.

    Returns:
        ``mask`` bool (N, H, W), ``xyxy`` float (N, 4) in pixels with the far corner outside,
        ``class_id`` int (N,), ``confidence`` float (N,), the mean over the mask, and
        ``data["class_name"]``. Without a class that occurs, supervision's empty detections.

    Raises:
        ConfigError: If supervision is not installed.
    """
    library = optional("supervision", extra="supervision", purpose="to_supervision")
    found = np.unique(result.labels[result.labels >= 0])
    if not found.size:
        nothing: supervision.Detections = library.Detections.empty()
        return nothing
    masks = result.labels == found[:, None, None]  # (N, H, W)
    confidence = result.confidence
    detections: supervision.Detections = library.Detections(
        xyxy=np.array([_box(mask) for mask in masks], dtype=np.float32),
        mask=masks,
        class_id=found.astype(np.int64),
        confidence=None
        if confidence is None
        else np.array([confidence[mask].mean() for mask in masks], dtype=np.float32),
        data={"class_name": np.array([result.class_names[place] for place in found])},
    )
    return detections


def to_napari(result: Segmentation, *, name: str = "zegment") -> LayerData:
    """Return a labels layer as napari's plugins do: data, arguments and the kind of layer.

    Args:
        result: What was found.
        name: Of the layer.

    Returns:
        The tuple for ``napari.layers.Layer.create(*layer)``: labels as in `label_image`, class
        colours, and the class name of every label as a feature, which napari shows under the
        cursor.
    """
    places = range(len(result.class_names) + 1)
    colours: dict[int | None, NDArray[np.float32]] = {
        None: np.zeros(4, dtype=np.float32),
        0: np.zeros(4, dtype=np.float32),  # unknown is transparent
    }
    for place, colour in enumerate(result.colours, start=1):
        colours[place] = np.append(colour / np.float32(255), np.float32(1)).astype(np.float32)
    features = {"index": np.array(places), "class": np.array(["unknown", *result.class_names])}
    return label_image(result), {"name": name, "colormap": colours, "features": features}, "labels"


def to_fiftyone(result: Segmentation) -> Any:  # noqa: ANN401 - FiftyOne is not always there
    """Return a ``fiftyone.Segmentation`` to attach to a sample.

    Returns:
        Its ``mask`` is uint8 (H, W), or uint16 for more than 255 classes; 0 is unknown, class k is
        k + 1. Give the names to the data set with `mask_targets`.

    Raises:
        ConfigError: If FiftyOne is not installed.
    """
    library = optional("fiftyone", extra="fiftyone", purpose="to_fiftyone")
    return library.Segmentation(mask=shifted(result.labels, num_classes=len(result.class_names)))


def mask_targets(result: Segmentation) -> dict[int, str]:
    """Return the class names of the numbers in `to_fiftyone`, for ``default_mask_targets``."""
    return dict(enumerate(result.class_names, start=1))


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the smallest box around a mask as left, top, right, bottom."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
