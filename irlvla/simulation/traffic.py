"""Everything else on the road during a rollout, in the layout the scoring kernels read."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irlvla.geometry import box_corners
from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import PolygonSet
from irlvla.types import Array

FIRST_STATIC_TYPE = 3
"""Index into OBJECT_TYPES from which on objects are static: cones, barriers, signs, generic objects."""


class Traffic(NamedTuple):
    """Objects at T steps (10 Hz): the 41 of a rollout, and the second after it where that is known."""

    corners: Array
    """[N, T, 4, 2] box corners, counter-clockwise from front-left (m, world)."""
    centroid: Array
    """[N, T, 2] centroid of the corners as GEOS rounds it (m, world)."""
    present: NDArray[np.bool_]
    """[N, T] whether the object exists at a step."""
    is_static: NDArray[np.bool_]
    """[N] cones, barriers, signs and generic objects, as opposed to vehicles, pedestrians and bicycles."""
    first_speed_mps: Array
    """[N] speed when the object was first present; the official scorer judges by it ever after."""


class RedLights(NamedTuple):
    """Lane-connector polygons behind red lights."""

    polygons: PolygonSet
    red: NDArray[np.bool_]
    """[R, 41] whether polygon r is red at a step."""


def traffic_from_boxes(
    boxes: Array, present: NDArray[np.bool_], types: NDArray[np.int64], first_speed_mps: Array
) -> Traffic:
    """Lay out objects for the scoring kernels.

    Args:
        boxes: [N, T, 5] center x, y, heading, length, width (m, rad, world); absent steps may hold anything finite.
        present: [N, T].
        types: [N] index into OBJECT_TYPES.
        first_speed_mps: [N].
    """
    return traffic_from_corners(box_corners(boxes), present, types, first_speed_mps)


@kernel
def box_centroid(corners: Array, centroid: Array) -> None:
    """Centroid [2] of a box [4, 2], rounded as GEOS rounds it: angles to objects dead ahead hang on its last bit.

    Source: GEOS `Centroid::addShell`.
    """
    x, y = corners[0, 0], corners[0, 1]
    sum_x, sum_y, area = 0.0, 0.0, 0.0
    for corner in range(4):
        ax, ay = corners[corner, 0], corners[corner, 1]
        bx, by = corners[(corner + 1) % 4, 0], corners[(corner + 1) % 4, 1]
        # Boxes run counter-clockwise, which GEOS subtracts.
        part = -((ax - x) * (by - y) - (bx - x) * (ay - y))
        sum_x += part * (x + ax + bx)
        sum_y += part * (y + ay + by)
        area += part
    if area == 0.0:
        centroid[0], centroid[1] = corners[:, 0].mean(), corners[:, 1].mean()
        return
    centroid[0], centroid[1] = sum_x / 3 / area, sum_y / 3 / area


@kernel
def _centroids(corners: Array, centroids: Array) -> None:
    for track in range(corners.shape[0]):
        for step in range(corners.shape[1]):
            box_centroid(corners[track, step], centroids[track, step])


def traffic_from_corners(
    corners: Array, present: NDArray[np.bool_], types: NDArray[np.int64], first_speed_mps: Array
) -> Traffic:
    """Lay out objects given by their corners [N, T, 4, 2] over any number of steps T."""
    corners = np.ascontiguousarray(corners)
    centroid = np.empty((*corners.shape[:2], 2))
    _centroids(corners, centroid)
    return Traffic(
        corners,
        centroid,
        np.ascontiguousarray(present),
        types >= FIRST_STATIC_TYPE,
        np.ascontiguousarray(first_speed_mps, dtype=np.float64),
    )
