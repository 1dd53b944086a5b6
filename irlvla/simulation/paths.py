"""Polylines as paths: progress along them, distance to them, poses on them."""

import math

import numpy as np

from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import point_segment_distance
from irlvla.types import Array


def path_progress(path: Array) -> Array:
    """Arc length (m) at each vertex of a path [L, 2 or more]."""
    return np.append(0.0, np.cumsum(np.hypot(*np.diff(path[:, :2], axis=0).T)))


@kernel
def project(path: Array, x: float, y: float) -> tuple[float, float]:
    """Nearest place on a path.

    Args:
        path: [L, 2 or more] x, y (m).
    Returns:
        Arc length (m) of the first nearest place, and the distance (m) to it.
    Source: GEOS `LengthIndexOfPoint` (shapely `project`).
    """
    nearest = np.inf
    progress = 0.0
    passed = 0.0
    for i in range(len(path) - 1):
        ax, ay, bx, by = path[i, 0], path[i, 1], path[i + 1, 0], path[i + 1, 1]
        dx, dy = bx - ax, by - ay
        length = math.sqrt(dx * dx + dy * dy)
        distance = point_segment_distance(x, y, ax, ay, bx, by)
        if distance < nearest:
            nearest = distance
            along = 0.0 if length == 0.0 else ((x - ax) * dx + (y - ay) * dy) / (length * length)
            progress = passed + min(max(along, 0.0), 1.0) * length
        passed += length
    return progress, nearest


@kernel
def pose_at(path: Array, progress_m: Array, at_m: float) -> tuple[float, float, float]:
    """Pose on a path at an arc length, linear between vertices.

    Args:
        path: [L, 3] x, y (m), unwrapped heading (rad).
        progress_m: [L] arc length at the vertices.
        at_m: Wanted arc length; brought into [1e-5, path length] as the official PDMPath does.
    Returns:
        x, y, heading in [-pi, pi].
    """
    at_m = min(max(at_m, 1e-5), progress_m[-1])
    i = min(max(int(np.searchsorted(progress_m, at_m)), 1), len(progress_m) - 1)
    gap = progress_m[i] - progress_m[i - 1]
    if gap == 0.0:
        # The official path replaces the NaN of a zero-length segment by zeros.
        return 0.0, 0.0, 0.0
    along = at_m - progress_m[i - 1]
    x = (path[i, 0] - path[i - 1, 0]) / gap * along + path[i - 1, 0]
    y = (path[i, 1] - path[i - 1, 1]) / gap * along + path[i - 1, 1]
    heading = (path[i, 2] - path[i - 1, 2]) / gap * along + path[i - 1, 2]
    return x, y, math.atan2(math.sin(heading), math.cos(heading))
