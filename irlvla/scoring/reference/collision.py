"""No at-fault collisions."""

import math

import numpy as np
import shapely

from irlvla.scoring.reference.drivable_area import EgoAreas
from irlvla.scoring.reference.surroundings import RoadUser, Surroundings, bearing, body
from irlvla.types import Array

_STOPPED_MPS = 0.05


def _is_at_fault(state: Array, other: RoadUser, areas: EgoAreas) -> bool:
    if np.hypot(state[3], state[4]) <= _STOPPED_MPS:
        return False
    if other.is_static or other.first_speed_mps <= _STOPPED_MPS:
        return True
    if bearing(state, other.box.centroid) > math.radians(150):
        return False
    front_left, _, _, front_right = body(state).exterior.coords[:4]
    if shapely.LineString([front_left, front_right]).intersects(other.box):
        return True
    return areas.multiple_lanes or areas.non_drivable


def collision(scene: Surroundings, states: Array, areas: list[EgoAreas]) -> float:
    """1, 0.5 after an at-fault hit of something static, 0 after one of a road user."""
    score = 1.0
    forgiven = set()
    for step, state in enumerate(states):
        for other in scene.objects[step]:
            if other.number in forgiven or not body(state).intersects(other.box):
                continue
            if _is_at_fault(state, other, areas[step]):
                score = min(score, 0.5 if other.is_static else 0.0)
            else:
                forgiven.add(other.number)
    return score
