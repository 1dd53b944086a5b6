"""All sub-scores of simulated drives through one scene, before anything compares them with one another."""

from dataclasses import dataclass

import numpy as np

from irlvla.scoring.collision import collision
from irlvla.scoring.comfort import history_comfort
from irlvla.scoring.drivable_area import EgoAreas, drivable_area, ego_areas
from irlvla.scoring.driving_direction import driving_direction
from irlvla.scoring.epdms import epdms, gate
from irlvla.scoring.footprint import Footprints, footprints
from irlvla.scoring.lane_keeping import lane_keeping
from irlvla.scoring.progress import ego_progress, progress_along_route
from irlvla.scoring.time_to_collision import time_to_collision
from irlvla.scoring.traffic_light import traffic_light
from irlvla.simulation.drivable import Road
from irlvla.simulation.traffic import RedLights, Traffic
from irlvla.types import Array, SubScores


@dataclass(frozen=True)
class RolloutScores:
    """Sub-scores of C rollouts, each by itself; all [C]."""

    no_at_fault_collisions: Array
    drivable_area_compliance: Array
    driving_direction_compliance: Array
    traffic_light_compliance: Array
    time_to_collision_within_bound: Array
    lane_keeping: Array
    history_comfort: Array
    progress_m: Array
    """Distance along the route."""

    @property
    def gate(self) -> Array:
        """Product of the sub-scores that void a plan."""
        return gate(self)

    def score(self, reference_m: float, reference_gate: float) -> Array:
        """EPDMS [C] without extended comfort, progress compared with a reference's progress (m) and gate."""
        return epdms(self.with_progress(ego_progress(self.progress_m, self.gate, reference_m, reference_gate)))

    def with_progress(self, ego_progress: Array) -> SubScores:
        """The nine sub-scores, given ego progress [C]; extended comfort is left open."""
        return SubScores(
            no_at_fault_collisions=self.no_at_fault_collisions,
            drivable_area_compliance=self.drivable_area_compliance,
            driving_direction_compliance=self.driving_direction_compliance,
            traffic_light_compliance=self.traffic_light_compliance,
            ego_progress=ego_progress,
            time_to_collision_within_bound=self.time_to_collision_within_bound,
            lane_keeping=self.lane_keeping,
            history_comfort=self.history_comfort,
            two_frame_extended_comfort=np.zeros(len(ego_progress)),
            has_earlier_frame=np.zeros(len(ego_progress), dtype=np.bool_),
        )


def score_rollouts(
    road: Road, traffic: Traffic, lights: RedLights, rollouts: Array, history: Array | None
) -> RolloutScores:
    """Score drives [C, 41, 11] through one scene.

    Args:
        road: Polygons and centerline around the ego vehicle.
        traffic: Everything else on the road.
        lights: Red-light connectors.
        rollouts: Simulated states.
        history: [H, 11] states driven before; None grants history comfort, as for the human and PDM-Closed's proposals.
    Source: navsim `PDMScorer.score_proposals`.
    """
    rollouts = np.ascontiguousarray(rollouts)
    ego = footprints(rollouts)
    return score_footprints(road, traffic, lights, rollouts, history, ego, ego_areas(road, ego))


def score_footprints(
    road: Road,
    traffic: Traffic,
    lights: RedLights,
    rollouts: Array,
    history: Array | None,
    ego: Footprints,
    areas: EgoAreas,
) -> RolloutScores:
    """`score_rollouts` where the footprints, and the areas that they lie in, are known already."""
    return RolloutScores(
        no_at_fault_collisions=collision(traffic, ego, areas),
        drivable_area_compliance=drivable_area(areas),
        driving_direction_compliance=driving_direction(ego, areas),
        traffic_light_compliance=traffic_light(lights, ego),
        time_to_collision_within_bound=time_to_collision(traffic, ego, areas),
        lane_keeping=lane_keeping(road.centerline, ego, areas),
        history_comfort=np.ones(len(rollouts)) if history is None else history_comfort(history, rollouts),
        progress_m=progress_along_route(road.centerline, ego),
    )
