"""PDMS, NAVSIM v1's score: the one home of its formula, and of its sub-scores where they differ from EPDMS's."""

from dataclasses import dataclass

import numpy as np

from irlvla.scoring.collision import collision
from irlvla.scoring.comfort import comfort
from irlvla.scoring.drivable_area import drivable_area, ego_areas
from irlvla.scoring.driving_direction import driving_direction
from irlvla.scoring.footprint import footprints
from irlvla.scoring.progress import NEGLIGIBLE_M, progress_along_route
from irlvla.scoring.time_to_collision import time_to_collision
from irlvla.simulation.drivable import Road
from irlvla.simulation.traffic import Traffic
from irlvla.types import Array, PDMSubScores

PROGRESS_WEIGHT = 5.0
TIME_TO_COLLISION_WEIGHT = 5.0
COMFORT_WEIGHT = 2.0


def pdms(scores: PDMSubScores) -> Array:
    """PDM score [...] in [0, 1]. Driving direction compliance has no weight in it.

    Source: navsim v1.1 `PDMScorer._aggregate_scores`.

    Example:
        >>> import dataclasses
        >>> perfect = PDMSubScores(*np.ones((6, 1)))
        >>> pdms(perfect)
        array([1.])
        >>> pdms(dataclasses.replace(perfect, comfort=np.zeros(1), no_at_fault_collisions=np.array([0.5]))).round(4)
        array([0.4167])
    """
    quality = (
        PROGRESS_WEIGHT * scores.ego_progress
        + TIME_TO_COLLISION_WEIGHT * scores.time_to_collision_within_bound
        + COMFORT_WEIGHT * scores.comfort
    )
    weight = PROGRESS_WEIGHT + TIME_TO_COLLISION_WEIGHT + COMFORT_WEIGHT
    return scores.no_at_fault_collisions * scores.drivable_area_compliance * (quality / weight)


@dataclass(frozen=True)
class PDMRolloutScores:
    """Sub-scores of C rollouts, each by itself; all [C]."""

    no_at_fault_collisions: Array
    drivable_area_compliance: Array
    time_to_collision_within_bound: Array
    comfort: Array
    driving_direction_compliance: Array
    progress_m: Array
    """Distance along the route."""

    @property
    def gate(self) -> Array:
        """Product of the sub-scores that void a plan."""
        return self.no_at_fault_collisions * self.drivable_area_compliance

    def score(self, reference_m: float, reference_gate: float) -> Array:
        """PDMS [C], progress compared with a reference's progress (m) and gate."""
        return pdms(self.compared(reference_m, reference_gate))

    def compared(self, reference_m: float, reference_gate: float) -> PDMSubScores:
        """The six sub-scores, progress compared with a reference's progress (m) and gate.

        Here what voids a plan takes away its progress too, also where nobody gets beyond 5 m.

        Source: navsim v1.1 `PDMScorer._aggregate_scores`.
        """
        admissible_m = self.progress_m * self.gate
        best_m = np.maximum(admissible_m, reference_m * reference_gate)
        matters = best_m > NEGLIGIBLE_M
        share = np.where(matters, admissible_m / np.where(matters, best_m, 1.0), self.gate != 0.0)
        return PDMSubScores(
            no_at_fault_collisions=self.no_at_fault_collisions,
            drivable_area_compliance=self.drivable_area_compliance,
            ego_progress=share,
            time_to_collision_within_bound=self.time_to_collision_within_bound,
            comfort=self.comfort,
            driving_direction_compliance=self.driving_direction_compliance,
        )


def score_rollouts_pdms(road: Road, traffic: Traffic, rollouts: Array) -> PDMRolloutScores:
    """Score drives [C, 41, 11] through one scene for NAVSIM v1, which has neither red lights nor history in it.

    Args:
        road: Polygons and centerline around the ego vehicle.
        traffic: Everything else on the road, for a second longer than the rollouts.
        rollouts: Simulated states.
    Source: navsim v1.1 `PDMScorer.score_proposals`.
    """
    rollouts = np.ascontiguousarray(rollouts)
    ego = footprints(rollouts)
    areas = ego_areas(road, ego)
    return PDMRolloutScores(
        no_at_fault_collisions=collision(traffic, ego, areas),
        drivable_area_compliance=drivable_area(areas),
        time_to_collision_within_bound=time_to_collision(traffic, ego, areas),
        comfort=comfort(rollouts),
        driving_direction_compliance=driving_direction(ego, areas, forgiven_in_intersections=False),
        progress_m=progress_along_route(road.centerline, ego),
    )
