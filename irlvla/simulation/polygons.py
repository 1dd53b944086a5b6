"""Exact planar predicates for the scorer's kernels: points, boxes and map polygons.

The official devkit decides every "inside" and "touches" with GEOS, whose orientation test is exact. Coordinates here
are UTM metres, where one float64 step is about 1e-9 m and a car may stand on a lane's edge, so these predicates are
exact as well: a filtered determinant with a double-double fallback.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from irlvla.simulation.kernels import kernel
from irlvla.types import Array

CHAIN_EDGES = 8
"""Edges that share one bounding box; a ray test skips or settles most chains without looking at their edges."""


class PolygonSet(NamedTuple):
    """Many polygons (holes and parts allowed) in one flat layout that Numba kernels can read.

    A polygon owns consecutive chains, a chain owns consecutive vertices of one closed ring.
    """

    vertices: Array
    """[V, 2] x, y (m); each ring's first vertex is repeated at its end."""
    chain_start: NDArray[np.int64]
    """[K] first vertex of each chain."""
    chain_end: NDArray[np.int64]
    """[K] last vertex of each chain, shared with the next chain of the ring."""
    chain_box: Array
    """[K, 4] x min, y min, x max, y max."""
    polygon_chain: NDArray[np.int64]
    """[P + 1] polygon p owns the chains polygon_chain[p] ... polygon_chain[p + 1] - 1."""
    polygon_box: Array
    """[P, 4] x min, y min, x max, y max."""

    @property
    def number(self) -> int:
        """P, how many polygons there are."""
        return len(self.polygon_box)


def polygon_set(geometries: Sequence[shapely.Geometry] | NDArray[np.object_]) -> PolygonSet:
    """Lay out shapely polygons or multipolygons for the kernels.

    Example:
        >>> polygon_set([shapely.box(0, 0, 1, 1)]).polygon_box.tolist()
        [[0.0, 0.0, 1.0, 1.0]]
        >>> polygon_set([]).number
        0
    """
    geometries = np.asarray(geometries, dtype=object)
    parts, part_polygon = shapely.get_parts(geometries, return_index=True)
    rings, ring_part = shapely.get_rings(parts, return_index=True)
    vertices, vertex_ring = shapely.get_coordinates(rings, return_index=True)
    ring_polygon = part_polygon[ring_part] if len(rings) else np.zeros(0, dtype=np.int64)
    ring_start = np.searchsorted(vertex_ring, np.arange(len(rings) + 1))

    edges = np.diff(ring_start) - 1
    chains = np.maximum(-(-edges // CHAIN_EDGES), 0)
    chain_ring = np.repeat(np.arange(len(rings)), chains)
    chain_in_ring = np.arange(len(chain_ring)) - np.repeat(np.cumsum(chains) - chains, chains)
    chain_start = ring_start[chain_ring] + CHAIN_EDGES * chain_in_ring
    chain_end = np.minimum(chain_start + CHAIN_EDGES, ring_start[chain_ring + 1] - 1)
    # Clipping repeats a chain's last vertex, which leaves its bounds as they are.
    members = vertices[np.minimum(chain_start[:, None] + np.arange(CHAIN_EDGES + 1), chain_end[:, None])]
    chain_box = np.concatenate([members.min(axis=1), members.max(axis=1)], axis=1) if len(members) else np.zeros((0, 4))
    polygon_chain = np.searchsorted(ring_polygon[chain_ring], np.arange(len(geometries) + 1))
    polygon_box = shapely.bounds(geometries) if len(geometries) else np.zeros((0, 4))
    return PolygonSet(
        np.ascontiguousarray(vertices, dtype=np.float64),
        chain_start.astype(np.int64),
        chain_end.astype(np.int64),
        chain_box,
        polygon_chain.astype(np.int64),
        polygon_box,
    )


@kernel
def _two_product(a: float, b: float) -> tuple[float, float]:
    product = a * b
    split_a = 134217729.0 * a
    a_high = split_a - (split_a - a)
    a_low = a - a_high
    split_b = 134217729.0 * b
    b_high = split_b - (split_b - b)
    b_low = b - b_high
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


@kernel
def _two_difference(a: float, b: float) -> tuple[float, float]:
    difference = a - b
    b_virtual = a - difference
    return difference, (a - (difference + b_virtual)) + (b_virtual - b)


@kernel
def _double_double_orientation(ax: float, ay: float, bx: float, by: float, px: float, py: float) -> int:
    x1, x1_low = _two_difference(bx, ax)
    y1, y1_low = _two_difference(by, ay)
    x2, x2_low = _two_difference(px, bx)
    y2, y2_low = _two_difference(py, by)
    left, left_low = _two_product(x1, y2)
    left_low += x1 * y2_low + x1_low * y2
    right, right_low = _two_product(y1, x2)
    right_low += y1 * x2_low + y1_low * x2
    difference, low = _two_difference(left, right)
    determinant = difference + (low + (left_low - right_low))
    return 1 if determinant > 0 else (-1 if determinant < 0 else 0)


@kernel
def orientation(ax: float, ay: float, bx: float, by: float, px: float, py: float) -> int:
    """On which side of the directed line a-b point p lies: 1 left, -1 right, 0 on the line.

    Source: Shewchuk's orient2d filter with GEOS's double-double fallback (`CGAlgorithmsDD::orientationIndex`).
    """
    left = (ax - px) * (by - py)
    right = (ay - py) * (bx - px)
    determinant = left - right
    if abs(determinant) > 3.3306690738754706e-16 * (abs(left) + abs(right)):
        return 1 if determinant > 0 else -1
    return _double_double_orientation(ax, ay, bx, by, px, py)


@kernel
def _on_edge_or_crossed(ax: float, ay: float, bx: float, by: float, x: float, y: float) -> int:
    """How the ray from a point to the right meets the edge a-b: -1 the point lies on it, 1 it crosses, 0 it misses."""
    if ax < x and bx < x:
        return 0
    if (ax == x and ay == y) or (bx == x and by == y):
        return -1
    if ay == y and by == y:
        return -1 if min(ax, bx) <= x <= max(ax, bx) else 0
    if (ay > y) == (by > y):
        return 0
    side = orientation(ax, ay, bx, by, x, y)
    if side == 0:
        return -1
    return 1 if (side > 0) == (by > ay) else 0


@kernel
def locate(polygons: PolygonSet, polygon: int, points: Array) -> tuple[int, int]:
    """Where points [K, 2] lie, K at most 32.

    Returns:
        Two sets as bits, point k being bit k: those strictly inside the polygon, and those on its boundary.
    """
    left, right = points[0, 0], points[0, 0]
    low, high = points[0, 1], points[0, 1]
    for k in range(1, len(points)):
        left, right = min(left, points[k, 0]), max(right, points[k, 0])
        low, high = min(low, points[k, 1]), max(high, points[k, 1])
    inside, on_edge = 0, 0
    for chain in range(polygons.polygon_chain[polygon], polygons.polygon_chain[polygon + 1]):
        bounds = polygons.chain_box[chain]
        if high < bounds[1] or low > bounds[3] or left > bounds[2]:
            continue
        start, end = polygons.chain_start[chain], polygons.chain_end[chain]
        for k in range(len(points)):
            x, y = points[k, 0], points[k, 1]
            if y < bounds[1] or y > bounds[3] or x > bounds[2]:
                continue
            if x < bounds[0]:
                # Wholly to the right: a ray crosses it an odd number of times iff its ends lie on either side.
                crossed = (polygons.vertices[start, 1] > y) != (polygons.vertices[end, 1] > y)
                inside ^= crossed << k
                continue
            for edge in range(start, end):
                ax, ay = polygons.vertices[edge, 0], polygons.vertices[edge, 1]
                meets = _on_edge_or_crossed(
                    ax, ay, polygons.vertices[edge + 1, 0], polygons.vertices[edge + 1, 1], x, y
                )
                if meets < 0:
                    on_edge |= 1 << k
                elif meets > 0:
                    inside ^= 1 << k
    return inside & ~on_edge, on_edge


@kernel
def _separates(edges_of: Array, corners: Array) -> bool:
    """Whether a side of one box has all corners of the other strictly outside."""
    for i in range(4):
        j = (i + 1) % 4
        ax, ay, bx, by = edges_of[i, 0], edges_of[i, 1], edges_of[j, 0], edges_of[j, 1]
        outside = 0
        for k in range(4):
            if orientation(ax, ay, bx, by, corners[k, 0], corners[k, 1]) >= 0:
                break
            outside += 1
        if outside == 4:
            return True
    return False


@kernel
def boxes_touch(a: Array, b: Array) -> bool:
    """Whether two boxes share a point; corners [4, 2] ordered as by `irlvla.geometry.box_corners`."""
    return not (_separates(a, b) or _separates(b, a))


@kernel
def segment_touches_box(ax: float, ay: float, bx: float, by: float, corners: Array) -> bool:
    """Whether the segment a-b shares a point with a box [4, 2]."""
    for i in range(4):
        j = (i + 1) % 4
        cx, cy, dx, dy = corners[i, 0], corners[i, 1], corners[j, 0], corners[j, 1]
        if orientation(cx, cy, dx, dy, ax, ay) < 0 and orientation(cx, cy, dx, dy, bx, by) < 0:
            return False
    sides = 0
    for i in range(4):
        sides += orientation(ax, ay, bx, by, corners[i, 0], corners[i, 1])
    return abs(sides) != 4


@kernel
def box_touches_polygon(corners: Array, polygons: PolygonSet, polygon: int) -> bool:
    """Whether a box [4, 2] shares a point with a polygon of the set."""
    x_min, x_max = corners[:, 0].min(), corners[:, 0].max()
    y_min, y_max = corners[:, 1].min(), corners[:, 1].max()
    box = polygons.polygon_box[polygon]
    if x_max < box[0] or y_max < box[1] or x_min > box[2] or y_min > box[3]:
        return False
    inside, on_edge = locate(polygons, polygon, corners[:1])
    if inside | on_edge:
        return True
    for chain in range(polygons.polygon_chain[polygon], polygons.polygon_chain[polygon + 1]):
        bounds = polygons.chain_box[chain]
        if x_max < bounds[0] or y_max < bounds[1] or x_min > bounds[2] or y_min > bounds[3]:
            continue
        for edge in range(polygons.chain_start[chain], polygons.chain_end[chain]):
            ax, ay = polygons.vertices[edge, 0], polygons.vertices[edge, 1]
            bx, by = polygons.vertices[edge + 1, 0], polygons.vertices[edge + 1, 1]
            if segment_touches_box(ax, ay, bx, by, corners):
                return True
    return False


@kernel
def point_segment_distance(x: float, y: float, ax: float, ay: float, bx: float, by: float) -> float:
    """Distance (m) of a point to the segment a-b."""
    dx, dy = bx - ax, by - ay
    length2 = dx * dx + dy * dy
    if length2 == 0.0:
        return math.hypot(x - ax, y - ay)
    along = ((x - ax) * dx + (y - ay) * dy) / length2
    if along <= 0.0:
        return math.hypot(x - ax, y - ay)
    if along >= 1.0:
        return math.hypot(x - bx, y - by)
    return abs((ay - y) * dx - (ax - x) * dy) / math.sqrt(length2)


@kernel
def box_distance(a: Array, b: Array) -> float:
    """Distance (m) between two boxes [4, 2]; 0 where they share a point."""
    if boxes_touch(a, b):
        return 0.0
    nearest = np.inf
    for i in range(4):
        j = (i + 1) % 4
        for k in range(4):
            nearest = min(nearest, point_segment_distance(b[k, 0], b[k, 1], a[i, 0], a[i, 1], a[j, 0], a[j, 1]))
            nearest = min(nearest, point_segment_distance(a[k, 0], a[k, 1], b[i, 0], b[i, 1], b[j, 0], b[j, 1]))
    return nearest


@kernel
def box_polygon_distance(corners: Array, polygons: PolygonSet, polygon: int) -> float:
    """Distance (m) between a box [4, 2] and a polygon of the set; 0 where they share a point."""
    if box_touches_polygon(corners, polygons, polygon):
        return 0.0
    nearest = np.inf
    for chain in range(polygons.polygon_chain[polygon], polygons.polygon_chain[polygon + 1]):
        for edge in range(polygons.chain_start[chain], polygons.chain_end[chain]):
            ax, ay = polygons.vertices[edge, 0], polygons.vertices[edge, 1]
            bx, by = polygons.vertices[edge + 1, 0], polygons.vertices[edge + 1, 1]
            for i in range(4):
                j = (i + 1) % 4
                x, y, x_next, y_next = corners[i, 0], corners[i, 1], corners[j, 0], corners[j, 1]
                nearest = min(nearest, point_segment_distance(x, y, ax, ay, bx, by))
                nearest = min(nearest, point_segment_distance(ax, ay, x, y, x_next, y_next))
    return nearest
