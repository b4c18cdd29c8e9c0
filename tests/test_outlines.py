import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zegment.formats.outlines import regions_of
from zegment.formats.walks import area

RINGS = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 0, 0, 0, 0, 0, 1],
        [1, 0, 2, 2, 2, 0, 1],
        [1, 0, 2, -1, 2, 0, 1],
        [1, 0, 2, 2, 2, 0, 1],
        [1, 0, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1, 1],
    ]
)
PINCHED = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]])
CHAINED = np.array([[1] * 6, [1, 0, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 1], [1] * 6])
CHECKERS = np.indices((6, 7)).sum(0) % 2
SIEVE = np.where(np.indices((9, 11)).min(0) % 2 == 1, 0, 1) * (np.indices((9, 11)).sum(0) % 2 == 0)
SPECIAL = [[[0]], [[-1]], [[0, 0, 1, -1, 0]], [[0], [1], [0]], RINGS, PINCHED, CHAINED, CHECKERS]

maps = arrays(
    np.int32,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([-1, 0, 0, 0, 0, 1, 2]),
)


def components(labels):
    """Regions by a flood fill, as a label map of their own and the class of each."""
    places = np.full(labels.shape, -1)
    classes = []
    for start in zip(*np.nonzero(labels >= 0), strict=True):
        if places[start] >= 0:
            continue
        waiting = [start]
        while waiting:
            y, x = waiting.pop()
            if places[y, x] < 0:
                places[y, x] = len(classes)
                for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                    inside = 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1]
                    if inside and labels[v, u] == labels[start]:
                        waiting.append((v, u))
        classes.append(int(labels[start]))
    return places, classes


def check_against_flood_fill(labels):
    found = regions_of(labels)
    places, classes = components(labels)
    assert np.array_equal(found.places, places)
    assert [region.label for region in found.regions] == classes
    assert [region.pixels for region in found.regions] == np.bincount(
        places[places >= 0], minlength=len(classes)
    ).tolist()
    for place, region in enumerate(found.regions):
        rows, columns = np.nonzero(places == place)
        left, top = columns.min(), rows.min()
        box = (left, top, columns.max() + 1 - left, rows.max() + 1 - top)
        assert region.box == tuple(map(int, box))


@settings(max_examples=150, deadline=None)
@given(maps)
def test_regions_are_those_of_a_flood_fill(labels):
    check_against_flood_fill(labels)


@pytest.mark.parametrize("labels", SPECIAL)
def test_regions_of_special_maps_are_those_of_a_flood_fill(labels):
    check_against_flood_fill(np.array(labels, dtype=np.int32))


def check_polygons(labels):
    shapely = pytest.importorskip("shapely")
    for region in regions_of(labels).regions:
        polygon = shapely.Polygon(region.rings[0], region.rings[1:])
        assert polygon.is_valid
        assert polygon.area == region.pixels
        parts = [shapely.Polygon(piece) for piece in region.pieces]
        assert all(part.is_valid for part in parts)
        assert sum(part.area for part in parts) == region.pixels
        assert shapely.union_all(parts).equals(polygon)


@settings(max_examples=150, deadline=None)
@given(maps)
def test_outlines_and_pieces_are_valid_polygons_of_the_same_region(labels):
    check_polygons(labels)


@pytest.mark.parametrize("labels", [*SPECIAL, SIEVE])
def test_outlines_of_special_maps_are_valid_polygons(labels):
    check_polygons(np.array(labels, dtype=np.int32))


def test_a_ring_has_a_hole_and_is_cut_above_and_below_the_left_end_of_the_hole():
    (frame, *_) = regions_of(RINGS.astype(np.int32)).regions
    outer, hole = frame.rings
    assert outer.tolist() == [[0, 0], [7, 0], [7, 7], [0, 7]]
    assert area(hole) == -25
    assert len(frame.pieces) == 2
    left, right = sorted(frame.pieces, key=lambda piece: piece[:, 0].min())
    assert left.tolist() == [[0, 0], [1, 0], [1, 7], [0, 7]]
    assert area(right) == 17


def test_pixels_that_touch_diagonally_are_two_regions_and_a_notch_in_a_corner_is_a_hole():
    assert len(regions_of(np.eye(3, dtype=np.int32)).regions) == 3 + 2
    (around, *_) = regions_of(PINCHED.astype(np.int32)).regions
    assert sorted(area(ring) for ring in around.rings) == [-1, 8]


def test_neighbours_share_every_point_of_their_border_when_asked():
    labels = np.zeros((200, 130), np.int32)
    labels[50:, :] = 1
    labels[120:, 70:] = 2
    upper, lower, _ = regions_of(labels, stride=64).regions
    border = {tuple(p) for p in upper.rings[0].tolist() if p[1] == 50}
    assert border == {(0, 50), (64, 50), (128, 50), (130, 50)}
    assert border <= {tuple(p) for p in lower.rings[0].tolist()}
    meeting = {(130, 120), (70, 200)}
    assert meeting <= {tuple(p) for p in lower.rings[0].tolist()}
    assert len(regions_of(labels).regions[0].rings[0]) == 4


def test_mean_scores_are_those_of_the_pixels_of_each_region():
    labels = np.array([[0, 0, 1], [-1, 1, 1]], np.int32)
    scores = np.array([[0.5, 1, 0.25], [9, 0.5, 0]], np.float32)
    assert regions_of(labels).mean_scores(scores) == [0.75, 0.25]
    assert regions_of(np.full((2, 2), -1, np.int32)).mean_scores(scores[:, :2]) == []
