"""Ego progress."""

from irlvla.scoring.reference.surroundings import Surroundings, center
from irlvla.types import Array


def progress_along_route(scene: Surroundings, states: Array) -> float:
    """Distance (m) the center gets along the centerline; never negative."""
    return max(0.0, scene.centerline.project(center(states[-1])) - scene.centerline.project(center(states[0])))


def ego_progress(progress_m: float, gate: float, reference_m: float, reference_gate: float) -> float:
    """The plan's share of the best admissible progress; 1 where that is 5 m or less."""
    best_m = max(progress_m * gate, reference_m * reference_gate)
    return min(progress_m / best_m, 1.0) if best_m > 5.0 else 1.0


def ego_progress_pdms(progress_m: float, gate: float, reference_m: float, reference_gate: float) -> float:
    """NAVSIM v1's: the plan's admissible share of the best admissible progress; where that is 5 m or less, 1 or 0."""
    best_m = max(progress_m * gate, reference_m * reference_gate)
    return progress_m * gate / best_m if best_m > 5.0 else float(gate > 0.0)
