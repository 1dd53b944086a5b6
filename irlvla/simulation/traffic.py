"""Everything else on the road during a rollout, in the layout the scoring kernels read."""

from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from irlvla.geometry import box_corners
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


def traffic_from_corners(
    corners: Array, present: NDArray[np.bool_], types: NDArray[np.int64], first_speed_mps: Array
) -> Traffic:
    """Lay out objects given by their corners [N, T, 4, 2] over any number of steps T."""
    closed = np.concatenate([corners, corners[..., :1, :]], axis=-2)
    # Angles to objects dead ahead hang on the centroid's last bit, so it comes from the same library.
    centroid = shapely.get_coordinates(shapely.centroid(shapely.polygons(closed.reshape(-1, 5, 2))))
    return Traffic(
        np.ascontiguousarray(corners),
        centroid.reshape(*corners.shape[:2], 2),
        np.ascontiguousarray(present),
        types >= FIRST_STATIC_TYPE,
        np.ascontiguousarray(first_speed_mps, dtype=np.float64),
    )
