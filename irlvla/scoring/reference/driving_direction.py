"""Driving direction compliance."""

from irlvla.scoring.reference.drivable_area import EgoAreas
from irlvla.scoring.reference.surroundings import center
from irlvla.types import Array


def driving_direction(states: Array, areas: list[EgoAreas], *, forgiven_in_intersections: bool = True) -> float:
    """1 below 2 m of wrong-way driving in any second, 0.5 below 6 m, else 0."""
    wrong_way_m = [0.0]
    for step in range(1, len(states)):
        is_forgiven = forgiven_in_intersections and areas[step].center_in_intersection
        is_wrong = areas[step].oncoming and not is_forgiven
        wrong_way_m.append(center(states[step]).distance(center(states[step - 1])) if is_wrong else 0.0)
    worst_m = max(sum(wrong_way_m[max(0, step - 10) : step + 1]) for step in range(len(states)))
    if worst_m < 2.0:
        return 1.0
    return 0.5 if worst_m < 6.0 else 0.0
