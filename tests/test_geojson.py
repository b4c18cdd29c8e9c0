"""GeoJSON, checked with rasterio and shapely."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from zegment.errors import ConfigError, OutputError
from zegment.formats import LabelledImage, Legend, format_named

rasterio = pytest.importorskip("rasterio")
shapely = pytest.importorskip("shapely")

from rasterio import features, warp  # noqa: E402

LEGEND = Legend(
    class_names=("water", "field", "road"),
    colours=np.array([[0, 0, 255], [0, 255, 0], [9, 9, 9]], np.uint8),
)
DISC = "+proj=geos +h=35785831 +lon_0=0 +datum=WGS84"  # as a satellite sees the Earth
AFFINE = rasterio.Affine(10, 0, 500_000, 0, -10, 5_400_000)
maps = arrays(
    np.int32,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([-1, 0, 0, 1, 2]),
)


def labelled(image: Path, labels, confidence=None) -> LabelledImage:
    return LabelledImage(
        image=image,
        stem=image.stem,
        size=labels.shape,
        read_labels=lambda: labels,
        read_confidence=None if confidence is None else lambda: confidence,
    )


def blobs(height=150, width=200) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    labels = (np.hypot(y - 70, x - 90) // 20 % 3).astype(np.int32)
    labels[:9] = -1
    return labels


def save_tiff(path: Path, labels, *, crs, affine) -> Path:
    height, width = labels.shape
    with rasterio.open(
        path, "w", width=width, height=height, count=1, dtype="uint8", crs=crs, transform=affine
    ) as raster:
        raster.write(np.zeros((1, height, width), np.uint8))
    return path


def collection(name: str, image: LabelledImage, out: Path) -> dict:
    chosen = format_named(name)
    chosen.check([image.image])
    (path,) = chosen.write([image], LEGEND, out)
    return json.loads(path.read_text(encoding="utf-8"))


def rasterized(found: dict, shape, affine=None, back=lambda geometry: geometry) -> np.ndarray:
    """Return the label map that rasterio paints of a collection."""
    shapes = [(back(f["geometry"]), f["properties"]["id"]) for f in found["features"]]
    options = {} if affine is None else {"transform": affine}
    if not shapes:
        return np.full(shape, -1)
    return features.rasterize(shapes, out_shape=shape, fill=-1, dtype="int32", **options)


def check_rfc_7946(found: dict) -> None:
    assert found["type"] == "FeatureCollection"
    assert not {"coordinates", "geometries", "geometry", "properties", "crs"} & set(found)
    for feature in found["features"]:
        rings = feature["geometry"]["coordinates"]
        polygon = shapely.geometry.shape(feature["geometry"])
        assert polygon.is_valid, shapely.is_valid_reason(polygon)
        assert all(ring[0] == ring[-1] for ring in rings)
        assert shapely.LinearRing(rings[0]).is_ccw
        assert not any(shapely.LinearRing(ring).is_ccw for ring in rings[1:])


@settings(max_examples=100, deadline=None)
@given(maps)
def test_rasterio_paints_the_same_label_map_from_pixel_coordinates(tmp_path_factory, labels):
    image = labelled(Path("photos/a.jpg"), labels)
    found = collection("geojson", image, tmp_path_factory.mktemp("out"))
    check_rfc_7946(found)
    assert np.array_equal(rasterized(found, labels.shape), labels)
    for feature in found["features"]:
        assert shapely.geometry.shape(feature["geometry"]).area == feature["properties"]["area"]


def test_a_feature_has_name_colour_area_and_mean_confidence(tmp_path):
    labels = np.array([[0, 2, 2], [-1, 2, 2]], np.int32)
    confidence = np.array([[0.5, 1, 0], [0.9, 1, 0]], np.float32)
    found = collection("geojson", labelled(Path("x/a.jpg"), labels, confidence), tmp_path)
    assert [feature["properties"] for feature in found["features"]] == [
        {"id": 0, "name": "water", "colour": "#0000ff", "area": 1, "score": 0.5},
        {"id": 2, "name": "road", "colour": "#090909", "area": 4, "score": 0.5},
    ]
    assert found["image"] == {"file_name": "a.jpg", "height": 2, "width": 3}
    assert found["coordinate_system"].startswith("pixels")


def test_a_projected_picture_becomes_longitude_and_latitude_and_comes_back(tmp_path):
    labels = blobs()
    path = save_tiff(tmp_path / "utm.tif", labels, crs="EPSG:32632", affine=AFFINE)
    found = collection("geojson-world", labelled(path, labels), tmp_path / "out")
    check_rfc_7946(found)
    assert "EPSG:4326" in found["coordinate_system"]
    longitudes, latitudes = np.array(found["features"][0]["geometry"]["coordinates"][0]).T
    assert 8.9 < longitudes.min() < longitudes.max() < 9.1
    assert 48.7 < latitudes.min() < latitudes.max() < 48.8

    def back(geometry):
        return warp.transform_geom("EPSG:4326", "EPSG:32632", geometry)

    assert np.array_equal(rasterized(found, labels.shape, AFFINE, back), labels)


def test_neighbours_do_not_part_when_a_projection_bends_their_border(tmp_path):
    labels = blobs(400, 300)
    labels[labels < 0] = 0
    coarse = rasterio.Affine(1000, 0, 200_000, 0, -1000, 7_000_000)
    path = save_tiff(tmp_path / "coarse.tif", labels, crs="EPSG:32632", affine=coarse)
    found = collection("geojson-world", labelled(path, labels), tmp_path)
    polygons = [shapely.geometry.shape(feature["geometry"]) for feature in found["features"]]
    whole = shapely.union_all(polygons)
    assert whole.geom_type == "Polygon"
    assert not whole.interiors
    assert sum(polygon.area for polygon in polygons) == pytest.approx(whole.area, rel=1e-9)


def test_a_picture_in_degrees_keeps_its_coordinates(tmp_path):
    labels = blobs()
    affine = rasterio.Affine(0.001, 0, 9, 0, -0.001, 48)
    path = save_tiff(tmp_path / "degrees.tif", labels, crs="EPSG:4326", affine=affine)
    found = collection("geojson-world", labelled(path, labels), tmp_path)
    check_rfc_7946(found)
    assert np.array_equal(rasterized(found, labels.shape, affine), labels)


def test_a_world_file_without_coordinate_system_gives_its_own_coordinates_and_says_so(tmp_path):
    labels = blobs()
    path = tmp_path / "map.png"
    Image.fromarray(np.zeros(labels.shape, np.uint8)).save(path)
    path.with_suffix(".wld").write_text("10\n0\n0\n-10\n500005\n5399995\n")
    found = collection("geojson-world", labelled(path, labels), tmp_path)
    check_rfc_7946(found)
    assert "does not name a coordinate system" in found["coordinate_system"]
    assert np.array_equal(rasterized(found, labels.shape, AFFINE), labels)


def test_a_picture_without_georeference_is_refused_before_the_run(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "photo.png")
    with pytest.raises(OutputError, match=r"photo.png' has no georeference.*choose the format"):
        format_named("geojson-world").check([tmp_path / "photo.png"])
    (tmp_path / "text.tif").write_text("no picture")
    with pytest.raises(OutputError, match="cannot read the georeference"):
        format_named("geojson-world").check([tmp_path / "text.tif"])


@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        ("EPSG:32660", rasterio.Affine(10_000, 0, 400_000, 0, -10_000, 7_000_000)),
        ("EPSG:3832", rasterio.Affine(50_000, 0, 2_000_000, 0, -50_000, 1_000_000)),
        ("EPSG:4326", rasterio.Affine(0.5, 0, 170, 0, -0.5, 40)),
        ("EPSG:3995", rasterio.Affine(50_000, 0, -1_000_000, 0, -50_000, 1_000_000)),
    ],
    ids=["UTM zone 60", "Pacific Mercator", "degrees beyond 180", "around the pole"],
)
def test_a_picture_across_the_antimeridian_is_refused_before_the_run(tmp_path, crs, affine):
    path = save_tiff(tmp_path / "fiji.tif", np.zeros((40, 40)), crs=crs, affine=affine)
    with pytest.raises(OutputError, match=r"fiji.tif' lies across the anti.*--format geojson,"):
        format_named("geojson-world").check([path])


@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        ("EPSG:4326", rasterio.Affine(360, 0, -180, 0, -180, 90)),
        ("EPSG:4326", rasterio.Affine(0.25, 0, 170, 0, -0.25, 40)),
        ("EPSG:32601", rasterio.Affine(1_000, 0, 400_000, 0, -1_000, 7_000_000)),
    ],
    ids=["whole world", "up to 180", "UTM zone 1"],
)
def test_a_picture_that_ends_at_the_antimeridian_is_accepted(tmp_path, crs, affine):
    side = 1 if affine.a == 360 else 40
    path = save_tiff(tmp_path / "a.tif", np.zeros((side, side)), crs=crs, affine=affine)
    format_named("geojson-world").check([path])


def test_a_picture_that_reaches_beyond_its_coordinate_system_is_refused(tmp_path):
    affine = rasterio.Affine(1_000_000, 0, -9_000_000, 0, -1_000_000, 9_000_000)
    path = save_tiff(tmp_path / "disc.tif", np.zeros((18, 18)), crs=DISC, affine=affine)
    with pytest.raises(OutputError, match="or a part of it has no longitude"):
        format_named("geojson-world").check([path])


def test_a_coordinate_system_that_is_not_of_the_earth_is_refused(tmp_path):
    plan = 'LOCAL_CS["plan of a house",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    path = save_tiff(tmp_path / "house.tif", np.zeros((4, 4)), crs=plan, affine=AFFINE)
    with pytest.raises(OutputError, match="has no longitude and latitude"):
        format_named("geojson-world").check([path])


def test_a_label_map_of_another_size_than_the_georeference_is_refused(tmp_path):
    path = save_tiff(tmp_path / "a.tif", blobs(), crs="EPSG:32632", affine=AFFINE)
    with pytest.raises(OutputError, match="its georeference does not fit"):
        format_named("geojson-world").write([labelled(path, blobs(9, 9))], LEGEND, tmp_path)


def test_the_missing_geo_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    with pytest.raises(ConfigError, match=r'pip install "zegment\[geo\]"'):
        format_named("geojson-world").check([tmp_path / "a.tif"])
