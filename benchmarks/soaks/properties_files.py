"""Properties of files: label maps that come back as they were, from every format with a reader.

Maps are of every kind: nothing known, one class, noise, checks, long runs; one pixel, one row, one
column, 65,535 pixels wide or high.

Letters: H W pixels, K classes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from soaks.property_running import holds

from zegment.colours import class_colours
from zegment.config import DataConfig, SplitFiles
from zegment.data import IGNORE_INDEX
from zegment.formats import LabelledImage, Legend, format_named
from zegment.formats.coco import Coco
from zegment.formats.outlines import regions_of
from zegment.results import UNKNOWN, Segmentation

Labels = NDArray[np.int32]

LONGEST = 65_535


@st.composite
def label_maps(draw: st.DrawFn, *, classes: int, ragged: bool = True) -> Labels:
    """Draw label maps of K classes and the unknown, int32 (H, W).

    Args:
        draw: Hypothesis's.
        classes: K.
        ragged: Whether a very long map may change its label at every pixel, which takes time.
    """
    few, many = st.integers(1, 24), st.integers(1, 500)
    shapes = (
        st.tuples(few, few) | st.tuples(st.just(1), many) | st.tuples(many, st.just(1))
        | st.sampled_from([(1, LONGEST), (LONGEST, 1), (2, LONGEST)])
    )  # fmt: skip
    shape = draw(shapes)
    kinds = ["unknown", "full", "runs", "noise", "checks"]
    kind = draw(st.sampled_from(kinds if ragged or max(shape) < LONGEST else kinds[:3]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    if kind == "noise":
        return rng.integers(-1, classes, shape, dtype=np.int32)
    values = rng.integers(0, classes, 2)
    if kind == "checks":
        return values[np.indices(shape).sum(0) % 2].astype(np.int32)
    flat = np.full(shape, UNKNOWN if kind == "unknown" else values[0], np.int32).ravel()
    if kind == "runs":
        for start, stop in np.sort(rng.integers(0, flat.size + 1, (rng.integers(1, 9), 2)), axis=1):
            flat[start:stop] = rng.integers(-1, classes)
    return flat.reshape(shape)


def runs(*, most: int = 3, **options: Any) -> st.SearchStrategy[list[Labels]]:  # noqa: ANN401
    """Return what label maps of several pictures are drawn from."""
    return st.lists(label_maps(**options), min_size=1, max_size=most)


@contextmanager
def written(name: str, maps: list[Labels], classes: int) -> Iterator[tuple[Path, Legend]]:
    """Yield a folder in which a format has been written, beside the pictures."""
    legend = Legend(
        class_names=tuple(f"class {k}" for k in range(classes)), colours=class_colours(classes)
    )
    with TemporaryDirectory() as folder:
        root, images = Path(folder), []
        for number, labels in enumerate(maps):
            path = root / f"{number}.png"
            Image.fromarray(np.zeros(labels.shape, np.uint8)).convert("RGB").save(path)
            images.append(
                LabelledImage(
                    image=path,
                    stem=path.stem,
                    size=(labels.shape[0], labels.shape[1]),
                    read_labels=lambda labels=labels: labels,
                )
            )
        format_named(name).write(images, legend, root / "out")
        yield root, legend


def segmentation(labels: Labels, classes: int) -> Segmentation:
    """Return a label map as a result of the segmenter, sure of every pixel by half."""
    return Segmentation(
        labels=labels,
        class_names=tuple(f"class {k}" for k in range(classes)),
        image=np.zeros((*labels.shape, 3), np.uint8),
        confidence=np.full(labels.shape, 0.5, np.float32),
    )


@holds(short=80, published=2500, needs=("pycocotools",), labels=label_maps(classes=7))
def run_lengths_of_coco_give_back_the_label_map(labels: Labels) -> None:
    """To pycocotools and to our own reader, with the area and the box of each class."""
    from pycocotools import mask as tools  # noqa: PLC0415 - optional

    from zegment.data.outlines import outline_runs  # noqa: PLC0415 - needs it too

    height, width = labels.shape
    theirs, ours = (np.full(labels.shape, UNKNOWN, np.int32) for _ in range(2))
    for found in Coco().annotations(labels, None):
        code, label = found["segmentation"], found["category_id"]
        inside = tools.decode(code).astype(bool)
        assert (theirs[inside] == UNKNOWN).all()
        theirs[inside] = label
        lengths = outline_runs(code, height=height, width=width, where="here")
        flags = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        ours[flags.reshape(width, height).T] = label
        rows, columns = np.nonzero(labels == label)
        left, top = int(columns.min()), int(rows.min())
        box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        assert (found["area"], found["bbox"]) == (len(rows), box)
    np.testing.assert_array_equal(theirs, labels)
    np.testing.assert_array_equal(ours, labels)


@holds(
    short=16,
    published=400,
    needs=("pycocotools",),
    name=st.sampled_from(["coco", "coco-polygons"]),
    maps=runs(classes=4, ragged=False),
)
def a_coco_file_is_read_back_as_a_data_set_with_the_same_labels(
    name: str, maps: list[Labels]
) -> None:
    """Pictures, categories and annotations; unknown pixels are ignored ones."""
    from zegment.data.coco_json import CocoJsonDataset  # noqa: PLC0415 - imports torch's loaders

    with written(name, maps, classes=4) as (root, legend):
        config = DataConfig(
            source="coco_json",
            root=str(root),
            classes=legend.class_names,
            test=SplitFiles(images=".", masks=f"out/{name}.json"),
        )
        dataset = CocoJsonDataset(config, "test")
        assert len(dataset) == len(maps)
        for (_, label), expected in zip(dataset, maps, strict=True):
            wanted = np.where(expected == UNKNOWN, IGNORE_INDEX, expected)
            np.testing.assert_array_equal(label.numpy(), wanted)


@holds(
    short=20, published=400, needs=("label_studio_sdk",), labels=label_maps(classes=3, ragged=False)
)
def brushes_of_label_studio_give_back_the_label_map(labels: Labels) -> None:
    """To its own decoder."""
    from label_studio_sdk.converter.brush import decode_rle  # noqa: PLC0415 - optional

    from zegment.formats.brush import encode_brush  # noqa: PLC0415 - beside its decoder

    for label in np.unique(labels).tolist():
        picture = decode_rle(encode_brush(labels == label)).reshape(*labels.shape, 4)
        np.testing.assert_array_equal(
            picture, np.where(labels == label, 255, 0)[..., None].repeat(4, 2)
        )


@st.composite
def indexed(draw: st.DrawFn) -> tuple[int, Labels]:
    """Draw K, also around the borders of 8 and 16 bits, and a label map."""
    classes = draw(st.sampled_from([1, 2, 7, 254, 255, 256, 847, 65_534, 65_535]))
    return classes, draw(label_maps(classes=classes))


@holds(short=40, published=600, drawn=indexed())
def index_pictures_give_back_the_label_map(drawn: tuple[int, Labels]) -> None:
    """To the reader of results and to the reader of masks, and the confidence to 16 bits."""
    from zegment.data.masks import read_mask  # noqa: PLC0415 - imports torch
    from zegment.prediction.files import (  # noqa: PLC0415 - likewise
        read_confidence_png,
        read_index_png,
        result_path,
        write_results,
    )

    classes, labels = drawn
    with TemporaryDirectory() as folder:
        result = segmentation(labels, classes)
        write_results(result, Path(folder), "a", kinds=("labels", "confidence"), mark="m")
        path = result_path(Path(folder), "a", "labels")
        np.testing.assert_array_equal(read_index_png(path, classes), labels)
        unknown = 255 if classes <= 255 else 65_535
        wanted = np.where(labels == UNKNOWN, unknown, labels)
        np.testing.assert_array_equal(read_mask(path), wanted)
        confidence = read_confidence_png(result_path(Path(folder), "a", "confidence"))
        np.testing.assert_allclose(confidence, 0.5, rtol=0, atol=1 / 65_535)


@holds(short=16, published=500, needs=("pyarrow", "pycocotools", "fsspec"), maps=runs(classes=5))
def tables_of_masks_give_back_the_label_maps(maps: list[Labels]) -> None:
    """Through a file of the engine for large runs, read by pyarrow."""
    from pyarrow import parquet  # noqa: PLC0415 - optional

    from zegment.large_scale.parts import write_part  # noqa: PLC0415 - needs it too
    from zegment.large_scale.reading import Picture  # noqa: PLC0415 - likewise
    from zegment.large_scale.rows import labels_of, row_of  # noqa: PLC0415 - likewise

    with TemporaryDirectory() as folder:
        path = Path(folder) / "part-00000.parquet"
        rows = (
            row_of(Picture(source=f"{i}.png", member=None, name=f"{i}.png"), segmentation(one, 5))
            for i, one in enumerate(maps)
        )
        write_part(path, rows, mark="m")
        found = parquet.ParquetFile(path).read().to_pylist()
    assert len(found) == len(maps)
    for row, labels in zip(found, maps, strict=True):
        np.testing.assert_array_equal(labels_of(row), labels)


@holds(
    short=20,
    published=400,
    classes=st.sampled_from([1, 4, 254, 255, 256, 900]),
    data=st.data(),
)
def archives_of_cvat_and_folders_of_fiftyone_give_back_the_label_maps(
    classes: int, data: st.DataObject
) -> None:
    """By the colours of the label map, and by numbers in which 0 is unknown."""
    maps = data.draw(runs(most=2, classes=classes))
    with written("fiftyone", maps, classes) as (root, _):
        for number, labels in enumerate(maps):
            with Image.open(root / "out" / "fiftyone" / "labels" / f"{number}.png") as picture:
                np.testing.assert_array_equal(np.asarray(picture).astype(np.int32) - 1, labels)
    with (
        written("cvat", maps, classes) as (root, legend),
        zipfile.ZipFile(root / "out" / "cvat.zip") as archive,
    ):
        lines = archive.read("labelmap.txt").decode().splitlines()[1:]
        colours = {line.split(":")[1]: line.split(":")[0] for line in lines}
        assert len(colours) == len(lines)
        for number, labels in enumerate(maps):
            content = archive.read(f"SegmentationClass/{number}.png")
            with Image.open(io.BytesIO(content)) as picture:
                pixels = np.asarray(picture).reshape(-1, 3)
            different, places = np.unique(pixels, axis=0, return_inverse=True)
            names = [colours[",".join(map(str, colour))] for colour in different.tolist()]
            ids = [UNKNOWN, *range(classes)]
            known = dict(zip(["background", *legend.class_names], ids, strict=True))
            found = np.array([known[name] for name in names])[places.ravel()]
            np.testing.assert_array_equal(found.reshape(labels.shape), labels)


@holds(short=80, published=1500, labels=label_maps(classes=3, ragged=False))
def regions_partition_the_known_pixels(labels: Labels) -> None:
    """Each has one class and as many pixels as its rings and its pieces enclose."""
    found = regions_of(labels)
    ids = np.array([*(region.label for region in found.regions), UNKNOWN])
    np.testing.assert_array_equal(ids[found.places], labels)
    counts = np.bincount(found.places[found.places >= 0], minlength=len(found.regions))
    for region, count in zip(found.regions, counts.tolist(), strict=True):
        assert region.pixels == count
        assert sum(map(_area, region.pieces)) == count


def _area(ring: NDArray[np.int64]) -> int:
    x, y = ring.T.tolist()
    return sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x))) // 2


PROPERTIES = (
    run_lengths_of_coco_give_back_the_label_map,
    a_coco_file_is_read_back_as_a_data_set_with_the_same_labels,
    brushes_of_label_studio_give_back_the_label_map,
    index_pictures_give_back_the_label_map,
    tables_of_masks_give_back_the_label_maps,
    archives_of_cvat_and_folders_of_fiftyone_give_back_the_label_maps,
    regions_partition_the_known_pixels,
)
