"""Lane keeping: the ego vehicle does not linger beside its centerline."""

import numpy as np

from irlvla.scoring.drivable_area import EgoAreas
from irlvla.scoring.footprint import Footprints
from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import point_segment_distance
from irlvla.types import Array

_TOLERATED_M = 0.5
_LINGERING_STEPS = 20


@kernel
def _far_from(path: Array, longest_m: float, x: float, y: float) -> bool:
    near_m = longest_m + _TOLERATED_M
    for i in range(len(path) - 1):
        dx, dy = x - path[i, 0], y - path[i, 1]
        if (
            abs(dx) <= near_m
            and abs(dy) <= near_m
            and point_segment_distance(x, y, path[i, 0], path[i, 1], path[i + 1, 0], path[i + 1, 1]) <= _TOLERATED_M
        ):
            return False
    return True


@kernel
def _lane_keeping(centerline: Array, ego: Footprints, areas: EgoAreas, scores: Array) -> None:
    longest_m = 0.0
    for i in range(len(centerline) - 1):
        step_x, step_y = centerline[i + 1, 0] - centerline[i, 0], centerline[i + 1, 1] - centerline[i, 1]
        longest_m = max(longest_m, np.hypot(step_x, step_y))
    plans, steps = ego.speed_mps.shape
    for plan in range(plans):
        lingering = 0
        for step in range(steps):
            if areas.center_in_intersection[plan, step]:
                continue
            far = _far_from(centerline, longest_m, ego.center[plan, step, 0], ego.center[plan, step, 1])
            lingering = lingering + 1 if far else 0
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
