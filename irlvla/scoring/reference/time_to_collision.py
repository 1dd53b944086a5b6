"""Time to collision within bound."""

import math

import numpy as np
from shapely.affinity import translate

from irlvla.scoring.reference.drivable_area import EgoAreas
from irlvla.scoring.reference.surroundings import Surroundings, bearing, body
from irlvla.types import Array


def time_to_collision(scene: Surroundings, states: Array, areas: list[EgoAreas]) -> float:
    """0 where going straight on would hit something ahead within 0.9 s, as far as the surroundings are known."""
    cleared = set()
    for step in range(min(len(states), len(scene.objects) - 9)):
        state, area = states[step], areas[step]
        speed = np.hypot(state[3], state[4])
        if speed < 5e-3:
            continue
        for ahead in (0, 3, 6, 9):
            moved = speed * ahead * 0.1
            shifted = translate(body(state), moved * np.cos(state[2]), moved * np.sin(state[2]))
            for other in scene.objects[step + ahead]:
                if other.number in cleared or not shifted.intersects(other.box):
                    continue
                angle = bearing(state, other.box.centroid)
                exposed = area.multiple_lanes or area.non_drivable or area.rear_axle_in_intersection
                if angle < math.radians(30) or (exposed and not angle > math.radians(150)):
                    return 0.0
                cleared.add(other.number)
    return 1.0
