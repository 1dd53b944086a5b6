"""Our predicates against GEOS, touching cases included."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from irlvla.geometry import box_corners
from irlvla.simulation.polygons import (
    PolygonSet,
    box_distance,
    box_polygon_distance,
    box_touches_polygon,
    boxes_touch,
    locate,
    polygon_set,
    segment_touches_box,
)

# Small integers make corners and edges coincide all the time.
coordinate = st.integers(0, 6)
point = st.tuples(coordinate, coordinate)
FAR = np.array([664_400.0, 3_996_800.0])
GRID = [(x / 2, y / 2) for x in range(-1, 14) for y in range(-1, 14)]


def place_of(polygons: PolygonSet, polygon: int, x: float, y: float) -> int:
    """1 inside, 0 on the boundary, -1 outside; asked for several points at once, of which one matters."""
    others = np.array([[x + 1.0, y], [x, y - 0.5], [x, y]])
    inside, on_edge = locate(polygons, polygon, others)
    return 1 if inside & 0b100 else (0 if on_edge & 0b100 else -1)


def l_shape_with_hole() -> shapely.Polygon:
    shell = [(0, 0), (6, 0), (6, 3), (3, 3), (3, 6), (0, 6)]
    return shapely.Polygon(shell, [[(1, 1), (2, 1), (2, 2), (1, 2)]])


@settings(max_examples=60, deadline=None)
@given(st.lists(point, min_size=3, max_size=14, unique=True))
def test_a_point_is_inside_on_the_edge_or_outside_as_geos_says(corners: list[tuple[int, int]]) -> None:
    polygon = shapely.Polygon(np.array(corners) + FAR)
    if not polygon.is_valid:
        return
    ours = polygon_set([polygon])
    for x, y in np.array(GRID) + FAR:
        place = shapely.Point(x, y)
        theirs = 1 if polygon.contains(place) else (0 if polygon.intersects(place) else -1)
        assert place_of(ours, 0, x, y) == theirs


def test_holes_and_parts_are_respected() -> None:
    two = shapely.MultiPolygon([l_shape_with_hole(), shapely.box(10, 0, 12, 2)])
    ours = polygon_set([shapely.box(50, 50, 51, 51), two])
    assert [place_of(ours, 1, x, y) for x, y in [(1.5, 1.5), (0.5, 0.5), (2.0, 1.5), (11.0, 1.0), (8.0, 1.0)]] == [
        -1,
        1,
        0,
        1,
        -1,
    ]


def test_many_edges_give_the_same_verdicts_as_few() -> None:
    circle = shapely.Point(*FAR).buffer(20.0, quad_segs=100)
    ours = polygon_set([circle])
    for x, y in np.random.default_rng(0).uniform(-25, 25, size=(400, 2)) + FAR:
        assert (place_of(ours, 0, x, y) == 1) == circle.contains(shapely.Point(x, y))


axis_aligned = st.tuples(
    coordinate, coordinate, st.sampled_from([0.0, np.pi / 2]), st.integers(1, 4), st.integers(1, 4)
)
turned = st.tuples(st.floats(0, 6), st.floats(0, 6), st.floats(-3.2, 3.2), st.floats(0.3, 5.0), st.floats(0.3, 3.0))
box = st.one_of(axis_aligned, turned)


@settings(max_examples=150, deadline=None)
@given(box, box)
def test_boxes_touch_and_lie_apart_as_geos_says(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    a, b = (box_corners(np.array(row, dtype=float)) + FAR for row in (first, second))
    p, q = shapely.Polygon(a), shapely.Polygon(b)
    assert boxes_touch(a, b) == p.intersects(q)
    assert box_distance(a, b) == pytest.approx(p.distance(q), abs=1e-9)
    front = shapely.LineString([a[0], a[3]])
    assert segment_touches_box(*a[0], *a[3], b) == front.intersects(q)


@settings(max_examples=100, deadline=None)
@given(box)
def test_a_box_meets_a_polygon_as_geos_says(row: tuple[float, ...]) -> None:
    corners = box_corners(np.array(row, dtype=float)) + FAR
    polygon = shapely.transform(l_shape_with_hole(), lambda xy: xy + FAR)
    ours, body = polygon_set([polygon]), shapely.Polygon(corners)
    assert box_touches_polygon(corners, ours, 0) == body.intersects(polygon)
    assert box_polygon_distance(corners, ours, 0) == pytest.approx(body.distance(polygon), abs=1e-9)


def test_a_box_around_a_whole_polygon_touches_it() -> None:
    small = polygon_set([shapely.box(1.0, 1.0, 1.1, 1.1)])
    assert box_touches_polygon(box_corners(np.array([1.0, 1.0, 0.3, 8.0, 8.0])), small, 0)
