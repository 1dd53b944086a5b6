"""Ego progress: how far the plan gets along the route, measured against PDM-Closed."""

import numpy as np

from irlvla.scoring.footprint import Footprints
from irlvla.simulation.kernels import kernel
from irlvla.simulation.paths import path_pieces, project_near
from irlvla.types import Array

NEGLIGIBLE_M = 5.0


@kernel
def _progress(centerline: Array, ego: Footprints, progress_m: Array) -> None:
    last = ego.speed_mps.shape[1] - 1
    pieces = path_pieces(centerline)
    start_x, start_y, start_m = np.nan, np.nan, 0.0
    for plan in range(len(progress_m)):
        x, y = ego.center[plan, 0, 0], ego.center[plan, 0, 1]
        if x != start_x or y != start_y:
            # All plans of a scene start at one place.
            start_x, start_y = x, y
            start_m, _ = project_near(centerline, pieces, x, y)
        end_m, _ = project_near(centerline, pieces, ego.center[plan, last, 0], ego.center[plan, last, 1])
        progress_m[plan] = max(end_m - start_m, 0.0)


def progress_along_route(centerline: Array, ego: Footprints) -> Array:
    """Distance (m) [C] that the vehicle's center gets along the centerline; never negative."""
    progress_m = np.empty(len(ego.speed_mps))
    _progress(centerline, ego, progress_m)
    return progress_m


def ego_progress(progress_m: Array, gate: Array, reference_m: float | Array, reference_gate: float | Array) -> Array:
    """Ego progress [...]: the plan's share of the best admissible progress, PDM-Closed's or its own.

    Args:
        progress_m: Progress along the route.
        gate: Product of the plan's multiplicative sub-scores; what fails them earns no progress.
        reference_m: PDM-Closed's progress along the route; one for all plans or one for each.
        reference_gate: Product of PDM-Closed's multiplicative sub-scores, likewise.
    Returns:
        Share in [0, 1]; 1 for every plan where the best admissible progress is 5 m or less.
    Source: navsim `PDMScorer._calculate_progress`.
    """
    best_m = np.maximum(progress_m * gate, reference_m * reference_gate)
    matters = best_m > NEGLIGIBLE_M
    share = np.clip(progress_m / np.where(matters, best_m, 1.0), 0.0, 1.0)
    return np.where(matters, share, 1.0)
