"""Time to collision: would the ego vehicle hit something within 0.9 s if it went straight on?"""

import math

import numpy as np

from irlvla.scoring.collision import (
    AHEAD_RAD,
    BEHIND_RAD,
    EGO_RADIUS_M,
    bearing,
    ego_bounds,
    object_bounds,
    object_radii,
    stays_away,
)
from irlvla.scoring.drivable_area import EgoAreas
from irlvla.scoring.footprint import Footprints
from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import boxes_touch
from irlvla.simulation.traffic import Traffic
from irlvla.types import ROLLOUT_STEP_S, Array

_LOOK_AHEAD_STEPS = (0, 3, 6, 9)
LOOK_AHEAD_S = _LOOK_AHEAD_STEPS[-1] * ROLLOUT_STEP_S
_STANDING_MPS = 5e-3


@kernel
def is_about_to_hit(traffic: Traffic, ego: Footprints, areas: EgoAreas, plan: int, track: int, radius_m: float) -> bool:
    """Whether one object alone puts a plan out of bound."""
    shifted, reach_m = np.empty((4, 2)), radius_m + EGO_RADIUS_M
    # The look-ahead ends where traffic does: traffic as long as the rollout leaves the last 0.9 s unchecked.
    steps = min(ego.speed_mps.shape[1], traffic.present.shape[1] - _LOOK_AHEAD_STEPS[-1])
    for step in range(steps):
        speed = ego.speed_mps[plan, step]
        if speed < _STANDING_MPS:
            continue
        pose = ego.rear_axle[plan, step]
        velocity_x, velocity_y = math.cos(pose[2]) * speed, math.sin(pose[2]) * speed
        for ahead in _LOOK_AHEAD_STEPS:
            if not traffic.present[track, step + ahead]:
                continue
            shift_x, shift_y = velocity_x * (ahead * ROLLOUT_STEP_S), velocity_y * (ahead * ROLLOUT_STEP_S)
            centroid = traffic.centroid[track, step + ahead]
            dx = centroid[0] - ego.center[plan, step, 0] - shift_x
            dy = centroid[1] - ego.center[plan, step, 1] - shift_y
            if dx * dx + dy * dy > reach_m * reach_m:
                continue
            for corner in range(4):
                shifted[corner, 0] = ego.corners[plan, step, corner, 0] + shift_x
                shifted[corner, 1] = ego.corners[plan, step, corner, 1] + shift_y
            if not boxes_touch(shifted, traffic.corners[track, step + ahead]):
                continue
            angle = bearing(pose, centroid[0], centroid[1])
            exposed = (
                areas.multiple_lanes[plan, step]
                or areas.non_drivable[plan, step]
                or areas.rear_axle_in_intersection[plan, step]
            )
            # A first harmless encounter clears the object for the rest of the rollout.
            return angle < AHEAD_RAD or (exposed and not angle > BEHIND_RAD)
    return False


@kernel
def _time_to_collision(traffic: Traffic, ego: Footprints, areas: EgoAreas, scores: Array) -> None:
    radii = object_radii(traffic)
    bounds = object_bounds(traffic, radii)
    for plan in range(len(scores)):
        foreseen = ego_bounds(ego, plan, LOOK_AHEAD_S)
        for track in range(len(radii)):
            if not stays_away(bounds, track, foreseen) and is_about_to_hit(
                traffic, ego, areas, plan, track, radii[track]
            ):
                scores[plan] = 0.0
                break


def time_to_collision(traffic: Traffic, ego: Footprints, areas: EgoAreas) -> Array:
    """Time to collision within bound [C]: 0 where going straight on would hit something ahead, else 1.

    Beside the ego vehicle counts as ahead while it stands between lanes, off the road or in an intersection. Every step
    counts whose look-ahead ends within the traffic given.

    Source: navsim `PDMScorer._calculate_ttc`.
    """
    scores = np.ones(len(ego.speed_mps))
    _time_to_collision(traffic, ego, areas, scores)
    return scores
