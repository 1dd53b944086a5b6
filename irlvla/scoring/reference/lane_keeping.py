"""Lane keeping."""

from irlvla.scoring.reference.drivable_area import EgoAreas
from irlvla.scoring.reference.surroundings import Surroundings, center
from irlvla.types import Array


def lane_keeping(scene: Surroundings, states: Array, areas: list[EgoAreas]) -> float:
    """0 where the center is over 0.5 m off the centerline for 20 steps running, intersections left out."""
    lingering = 0
    for state, area in zip(states, areas, strict=True):
        if area.center_in_intersection:
            continue
        lingering = lingering + 1 if center(state).distance(scene.centerline) > 0.5 else 0
        if lingering == 20:
            return 0.0
    return 1.0
