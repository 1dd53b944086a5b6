"""One plan, scored slowly and plainly, from start to end."""

import numpy as np

from irlvla.geometry import ego_to_world
from irlvla.scoring.context import ScoringContext
from irlvla.scoring.reference.collision import collision
from irlvla.scoring.reference.comfort import comfort, history_comfort
from irlvla.scoring.reference.drivable_area import drivable_area, ego_areas
from irlvla.scoring.reference.driving_direction import driving_direction
from irlvla.scoring.reference.lane_keeping import lane_keeping
from irlvla.scoring.reference.progress import ego_progress, ego_progress_pdms, progress_along_route
from irlvla.scoring.reference.surroundings import Surroundings
from irlvla.scoring.reference.time_to_collision import time_to_collision
from irlvla.scoring.reference.tracker import simulate
from irlvla.scoring.reference.traffic_light import traffic_light
from irlvla.types import Array, PDMSubScores, SubScores


def reference_poses(plan: Array, ego_pose_world: Array) -> Array:
    """World poses [41, 3] every 0.1 s of a plan [8 or 40, 3], linear between its poses.

    Differs: takes times as exact, where the devkit truncates some to the microsecond before.
    """
    knots = np.concatenate([ego_pose_world[None, :3], ego_to_world(plan, ego_pose_world[:3])])
    knots[:, 2] = np.unwrap(knots[:, 2])
    times_s, knot_s = np.linspace(0.0, 4.0, 41), np.linspace(0.0, 4.0, len(knots))
    return np.stack([np.interp(times_s, knot_s, knots[:, column]) for column in range(3)], axis=-1)


def score_rollout(context: ScoringContext, scene: Surroundings, states: Array) -> SubScores:
    """Raw sub-scores (scalars) of a rollout [41, 11]; `scene` is the context's `surroundings`."""
    areas = [ego_areas(scene, state) for state in states]
    gates = {
        "no_at_fault_collisions": collision(scene, states, areas),
        "drivable_area_compliance": drivable_area(areas),
        "driving_direction_compliance": driving_direction(states, areas),
        "traffic_light_compliance": traffic_light(scene, states),
    }
    progress_m = progress_along_route(scene, states)
    share = ego_progress(progress_m, float(np.prod(list(gates.values()))), context.pdm_progress_m, context.pdm_gate)
    scores = gates | {
        "ego_progress": share,
        "time_to_collision_within_bound": time_to_collision(scene, states, areas),
        "lane_keeping": lane_keeping(scene, states, areas),
        "history_comfort": history_comfort(context.history_states, states),
        "two_frame_extended_comfort": 0.0,
    }
    return SubScores(
        **{name: np.array(value) for name, value in scores.items()}, has_earlier_frame=np.zeros((), dtype=np.bool_)
    )


def score_rollout_pdms(context: ScoringContext, scene: Surroundings, states: Array) -> PDMSubScores:
    """NAVSIM v1's sub-scores (scalars) of a rollout [41, 11]; `scene` is the context's `surroundings`."""
    areas = [ego_areas(scene, state) for state in states]
    collisions, on_road = collision(scene, states, areas), drivable_area(areas)
    progress_m = progress_along_route(scene, states)
    share = ego_progress_pdms(progress_m, collisions * on_road, context.pdm_progress_m, context.pdm_gate)
    return PDMSubScores(
        no_at_fault_collisions=np.array(collisions),
        drivable_area_compliance=np.array(on_road),
        ego_progress=np.array(share),
        time_to_collision_within_bound=np.array(time_to_collision(scene, states, areas)),
        comfort=np.array(comfort(states)),
        driving_direction_compliance=np.array(driving_direction(states, areas, forgiven_in_intersections=False)),
    )


def score(context: ScoringContext, scene: Surroundings, plan: Array) -> SubScores:
    """Raw sub-scores (scalars) of a plan [8 or 40, 3]."""
    return score_rollout(context, scene, simulate(reference_poses(plan, context.ego_state), context.ego_state))
