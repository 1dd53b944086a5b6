"""Driving direction compliance: how far the ego vehicle drives off its route's lanes within a second."""

import math

import numpy as np

from irlvla.scoring.drivable_area import EgoAreas
from irlvla.scoring.footprint import Footprints
from irlvla.simulation.kernels import kernel
from irlvla.types import ROLLOUT_STEP_S, Array

_WINDOW_S = 1.0
_WINDOW_STEPS = round(_WINDOW_S / ROLLOUT_STEP_S)
_TOLERATED_M = 2.0
_FORBIDDEN_M = 6.0


@kernel
def _sum(values: Array) -> float:
    """Sum in the order in which NumPy adds up to 15 numbers, so that thresholds fall alike."""
    if len(values) < 8:
        total = 0.0
        for value in values:
            total += value
        return total
    total = ((values[0] + values[1]) + (values[2] + values[3])) + ((values[4] + values[5]) + (values[6] + values[7]))
    for value in values[8:]:
        total += value
    return total


@kernel
def _driving_direction(ego: Footprints, areas: EgoAreas, forgiven_in_intersections: bool, scores: Array) -> None:
    plans, steps = ego.speed_mps.shape
    travelled_m = np.zeros(steps)
    for plan in range(plans):
        worst_m = 0.0
        for step in range(1, steps):
            travelled_m[step] = 0.0
            is_forgiven = forgiven_in_intersections and areas.center_in_intersection[plan, step]
            if areas.oncoming[plan, step] and not is_forgiven:
                dx = ego.center[plan, step, 0] - ego.center[plan, step - 1, 0]
                dy = ego.center[plan, step, 1] - ego.center[plan, step - 1, 1]
                travelled_m[step] = math.sqrt(dx * dx + dy * dy)
            worst_m = max(worst_m, _sum(travelled_m[max(step - _WINDOW_STEPS, 0) : step + 1]))
        scores[plan] = 1.0 if worst_m < _TOLERATED_M else (0.5 if worst_m < _FORBIDDEN_M else 0.0)


def driving_direction(ego: Footprints, areas: EgoAreas, *, forgiven_in_intersections: bool = True) -> Array:
    """Driving direction compliance [C]: 1 below 2 m of wrong-way driving in any second, 0.5 below 6 m, else 0.

    Wrong way is where the center lies in no lane of the route; within intersections NAVSIM v2 forgives it, v1 did not.

    Source: navsim `PDMScorer._calculate_driving_direction_compliance`.
    """
    scores = np.empty(len(ego.speed_mps))
    _driving_direction(ego, areas, forgiven_in_intersections, scores)
    return scores
