"""The grid says of every point what GEOS says, also on edges and on the borders of cells."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from irlvla.simulation.coverage import CELL_M, MAX_CELLS, Coverage, cell_of, coverage, settle
from irlvla.simulation.polygons import PolygonSet, polygon_set

FAR = np.array([664_400.0, 3_996_800.0])
NOTHING = np.uint64(0)


def held(polygons: PolygonSet, grid: Coverage, x: float, y: float) -> set[int]:
    """Polygons that strictly hold a point."""
    cell = cell_of(grid, x, y)
    found = set()
    for word in range(grid.inside.shape[1]):
        bits = settle(
            polygons, grid.chosen, word, grid.inside[cell, word], grid.unsure[cell, word], NOTHING, np.array([[x, y]])
        )
        found |= {int(grid.chosen[64 * word + bit]) for bit in range(64) if int(bits) >> bit & 1}
    return found


def expected(shapes: list[shapely.Polygon], x: float, y: float) -> set[int]:
    return {k for k, shape in enumerate(shapes) if shape.contains(shapely.Point(x, y))}


vertex = st.tuples(st.integers(-8, 8), st.integers(-8, 8))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(vertex, min_size=3, max_size=9, unique=True), min_size=1, max_size=5))
def test_every_point_is_held_by_the_polygons_that_geos_names(rings: list[list[tuple[int, int]]]) -> None:
    # Multiples of half a cell: edges run along the borders of cells and through their corners.
    shapes = [shapely.Polygon(np.array(ring) * CELL_M / 2 + FAR) for ring in rings]
    shapes = [shape for shape in shapes if shape.is_valid]
    if not shapes:
        return
    polygons = polygon_set(shapes)
    low, high = FAR - 1.5, FAR + 1.5
    grid = coverage(polygons, *low, *high)
    for x in np.arange(low[0], high[0], CELL_M / 4):
        for y in np.arange(low[1], high[1], CELL_M / 2):
            assert held(polygons, grid, x, y) == expected(shapes, x, y)


def test_more_than_64_polygons_need_more_than_one_word() -> None:
    rng = np.random.default_rng(0)
    shapes = [shapely.Point(*(FAR + rng.uniform(0, 20, 2))).buffer(rng.uniform(0.5, 6)) for _ in range(150)]
    polygons = polygon_set(shapes)
    grid = coverage(polygons, *FAR, *(FAR + 20))
    assert grid.inside.shape[1] == 3
    for x, y in FAR + rng.uniform(0, 20, (200, 2)):
        assert held(polygons, grid, x, y) == expected(shapes, x, y)


@pytest.mark.parametrize("span_m", [3.0, 500.0, 20_000.0])
def test_wide_rectangles_get_larger_cells_and_the_same_answers(span_m: float) -> None:
    rng = np.random.default_rng(1)
    shapes = [shapely.Point(*(FAR + span_m * rng.uniform(0, 1, 2))).buffer(span_m * 0.2) for _ in range(9)]
    polygons = polygon_set(shapes)
    grid = coverage(polygons, *FAR, *(FAR + span_m))
    assert grid.columns * grid.rows <= 2 * MAX_CELLS
    points = FAR + span_m * rng.uniform(0, 1, (200, 2))
    corners = FAR + span_m * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    for x, y in np.concatenate([points, corners, polygons.vertices[::7]]):
        if ([x, y] >= FAR).all() and ([x, y] <= FAR + span_m).all():
            assert held(polygons, grid, x, y) == expected(shapes, x, y)


def test_most_of_the_answers_need_no_exact_test() -> None:
    polygons = polygon_set([shapely.box(*FAR, *(FAR + 10))])
    grid = coverage(polygons, *(FAR - 5), *(FAR + 15))
    assert (grid.unsure == 0).mean() > 0.95
    assert (grid.inside != 0).mean() == pytest.approx(0.25, abs=0.04)
