"""Polylines as paths: progress along them, distance to them, poses on them."""

import math

import numpy as np

from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import point_segment_distance
from irlvla.types import Array

PIECE_SEGMENTS = 16
"""Segments of a path that share one rectangle: a point far from it is far from all of them."""


def path_progress(path: Array) -> Array:
    """Arc length (m) at each vertex of a path [L, 2 or more]."""
    return np.append(0.0, np.cumsum(np.hypot(*np.diff(path[:, :2], axis=0).T)))


@kernel
def path_pieces(path: Array) -> Array:
    """Rectangles [P, 4] (x min, y min, x max, y max) around every PIECE_SEGMENTS segments of a path [L, 2 or more]."""
    count = (len(path) - 1 + PIECE_SEGMENTS - 1) // PIECE_SEGMENTS
    pieces = np.empty((count, 4))
    for piece in range(count):
        first = piece * PIECE_SEGMENTS
        last = min(first + PIECE_SEGMENTS, len(path) - 1)
        pieces[piece, 0], pieces[piece, 1] = path[first : last + 1, 0].min(), path[first : last + 1, 1].min()
        pieces[piece, 2], pieces[piece, 3] = path[first : last + 1, 0].max(), path[first : last + 1, 1].max()
    return pieces


@kernel
def rectangle_distance(bounds: Array, x: float, y: float) -> float:
    """Distance (m) of a point to a rectangle (x min, y min, x max, y max); 0 inside."""
    dx = max(bounds[0] - x, 0.0, x - bounds[2])
    dy = max(bounds[1] - y, 0.0, y - bounds[3])
    return math.sqrt(dx * dx + dy * dy)


@kernel
def project_near(path: Array, pieces: Array, x: float, y: float) -> tuple[float, float]:
    """`project`, given the path's pieces."""
    # No segment is farther away than the first vertex of the nearest piece: what lies beyond cannot be the nearest.
    bound = np.inf
    for piece in range(len(pieces)):
        i = piece * PIECE_SEGMENTS
        bound = min(bound, math.hypot(path[i, 0] - x, path[i, 1] - y))
    bound += 1e-6
    nearest = np.inf
    where = 0
    for piece in range(len(pieces)):
        if rectangle_distance(pieces[piece], x, y) > min(bound, nearest):
            continue
        first = piece * PIECE_SEGMENTS
        for i in range(first, min(first + PIECE_SEGMENTS, len(path) - 1)):
            distance = point_segment_distance(x, y, path[i, 0], path[i, 1], path[i + 1, 0], path[i + 1, 1])
            if distance < nearest:
                nearest, where = distance, i
    passed = 0.0
    for i in range(where):
        dx, dy = path[i + 1, 0] - path[i, 0], path[i + 1, 1] - path[i, 1]
        passed += math.sqrt(dx * dx + dy * dy)
    dx, dy = path[where + 1, 0] - path[where, 0], path[where + 1, 1] - path[where, 1]
    length = math.sqrt(dx * dx + dy * dy)
    along = 0.0
    if length > 0.0:
        along = ((x - path[where, 0]) * dx + (y - path[where, 1]) * dy) / (length * length)
    return passed + min(max(along, 0.0), 1.0) * length, nearest


@kernel
def project(path: Array, x: float, y: float) -> tuple[float, float]:
    """Nearest place on a path.

    Args:
        path: [L, 2 or more] x, y (m).
    Returns:
        Arc length (m) of the first nearest place, and the distance (m) to it.
    Source: GEOS `LengthIndexOfPoint` (shapely `project`).
    """
    return project_near(path, path_pieces(path), x, y)


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
