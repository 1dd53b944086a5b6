"""Lane keeping: the ego vehicle does not linger beside its centerline."""

import numpy as np

from irlvla.scoring.drivable_area import EgoAreas
from irlvla.scoring.footprint import Footprints
from irlvla.simulation.kernels import kernel
from irlvla.simulation.paths import PIECE_SEGMENTS, path_pieces
from irlvla.simulation.polygons import point_segment_distance
from irlvla.types import Array

_TOLERATED_M = 0.5
_LINGERING_STEPS = 20
_REACH_M = _TOLERATED_M + 1e-6
"""Beyond this from a rectangle nothing in it is within the tolerance, rounding included."""


@kernel
def _near_segment(path: Array, pieces: Array, likely: int, x: float, y: float) -> int:
    """A segment of the path within the tolerance of a point, the likely one if it is; -1 where there is none."""
    first, last = likely, min(likely + 3, len(path) - 1)
    for piece in range(-1, len(pieces)):
        if piece >= 0:
            bounds = pieces[piece]
            if (
                x < bounds[0] - _REACH_M
                or x > bounds[2] + _REACH_M
                or y < bounds[1] - _REACH_M
                or y > bounds[3] + _REACH_M
            ):
                continue
            first, last = piece * PIECE_SEGMENTS, min((piece + 1) * PIECE_SEGMENTS, len(path) - 1)
        for i in range(first, last):
            if point_segment_distance(x, y, path[i, 0], path[i, 1], path[i + 1, 0], path[i + 1, 1]) <= _TOLERATED_M:
                return i
    return -1


@kernel
def _lane_keeping(centerline: Array, ego: Footprints, areas: EgoAreas, scores: Array) -> None:
    pieces = path_pieces(centerline)
    plans, steps = ego.speed_mps.shape
    for plan in range(plans):
        lingering, likely = 0, 0
        for step in range(steps):
            if areas.center_in_intersection[plan, step]:
                continue
            near = _near_segment(centerline, pieces, likely, ego.center[plan, step, 0], ego.center[plan, step, 1])
            if near >= 0:
                lingering, likely = 0, near
                continue
            lingering += 1
            if lingering >= _LINGERING_STEPS:
                scores[plan] = 0.0
                break


def lane_keeping(centerline: Array, ego: Footprints, areas: EgoAreas) -> Array:
    """Lane keeping [C]: 0 where the center is over 0.5 m off the centerline for 20 steps running, else 1.

    Steps within intersections are left out of the count; they do not restart it.

    Source: navsim `PDMScorer._calculate_lane_keeping`.
    """
    scores = np.ones(len(ego.speed_mps))
    _lane_keeping(centerline, ego, areas, scores)
    return scores
