"""Driving direction compliance: how far the ego vehicle drives off its route's lanes within a second."""

import numpy as np

from irlvla.scoring.drivable_area import EgoAreas
from irlvla.scoring.footprint import Footprints
from irlvla.types import ROLLOUT_STEP_S, Array

_WINDOW_S = 1.0
_TOLERATED_M = 2.0
_FORBIDDEN_M = 6.0


def driving_direction(ego: Footprints, areas: EgoAreas, *, forgiven_in_intersections: bool = True) -> Array:
    """Driving direction compliance [C]: 1 below 2 m of wrong-way driving in any second, 0.5 below 6 m, else 0.

    Wrong way is where the center lies in no lane of the route; within intersections NAVSIM v2 forgives it, v1 did not.

    Source: navsim `PDMScorer._calculate_driving_direction_compliance`.
    """
    travelled_m = np.zeros(ego.speed_mps.shape)
    moved = np.diff(ego.center, axis=1)
    travelled_m[:, 1:] = np.sqrt(moved[..., 0] ** 2 + moved[..., 1] ** 2)
    travelled_m[~areas.oncoming] = 0.0
    if forgiven_in_intersections:
        travelled_m[areas.center_in_intersection] = 0.0
    window = round(_WINDOW_S / ROLLOUT_STEP_S) + 1
    padded = np.pad(travelled_m, ((0, 0), (window - 1, 0)))
    in_window_m = np.lib.stride_tricks.sliding_window_view(padded, window, axis=1).sum(axis=-1)
    worst_m = in_window_m.max(axis=1)
    return np.where(worst_m < _TOLERATED_M, 1.0, np.where(worst_m < _FORBIDDEN_M, 0.5, 0.0))
