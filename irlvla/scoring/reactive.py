"""Scoring in reactive traffic, where every plan meets its own surroundings."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from irlvla.data.maps import load_map
from irlvla.data.scenes import SceneSet
from irlvla.scoring.collision import collision_with, ego_bounds, object_bounds, object_radii, stays_away
from irlvla.scoring.context import ScoringContext
from irlvla.scoring.drivable_area import EgoAreas, ego_areas
from irlvla.scoring.editions import NAVSIM_V2
from irlvla.scoring.footprint import Footprints, footprints
from irlvla.scoring.human_filter import apply_human_filter
from irlvla.scoring.progress import ego_progress
from irlvla.scoring.rollout_scores import RolloutScores, score_footprints, score_rollouts
from irlvla.scoring.score import require_edition, simulate_plans, stack_sub_scores
from irlvla.scoring.time_to_collision import LOOK_AHEAD_S, is_about_to_hit
from irlvla.simulation.kernels import kernel
from irlvla.simulation.reactive_traffic import TrafficStart, reactive_vehicles, start_traffic
from irlvla.simulation.traffic import Traffic
from irlvla.types import Array, SubScores

_AT_ONCE = 256
"""Plans whose traffic is held in memory at a time."""


def traffic_start(scenes: SceneSet, context: ScoringContext) -> TrafficStart:
    """What reactive traffic of a scene starts from.

    Args:
        scenes: A set that holds the context's scene.
        context: The scene as the scorer sees it.
    Raises:
        SceneDataError: The set has no such scene, or a vehicle of it cannot follow its lane.
    """
    scene = scenes.by_token(context.token)
    city_map = load_map(scenes.root, scene.map_location)
    return start_traffic(context.token, scene.now, context.tracks, context.ego_state[:3], city_map)


@kernel
def _meet(
    vehicles: Traffic,
    ego: Footprints,
    areas: EgoAreas,
    first: int,
    hits: Array,
    hits_of_pdm: Array,
    about_to_hit: NDArray[np.bool_],
) -> None:
    """Set plans among the vehicles that reacted to them, and PDM-Closed, row 0 of `ego`, among those of each plan.

    Args:
        vehicles: P times V tracks, plan by plan.
        ego, areas: Of PDM-Closed and all plans.
        first: Their row of the first of the P plans.
        hits, hits_of_pdm: [P] no at-fault collisions, taken down where there is one.
        about_to_hit: [P] set where time to collision is out of bound.
    """
    radii = object_radii(vehicles)
    bounds, of_pdm = object_bounds(vehicles, radii), ego_bounds(ego, 0, 0.0)
    count = len(radii) // len(hits)
    for plan in range(len(hits)):
        foreseen = ego_bounds(ego, first + plan, LOOK_AHEAD_S)
        for track in range(plan * count, (plan + 1) * count):
            radius = radii[track]
            if not stays_away(bounds, track, of_pdm):
                hits_of_pdm[plan] = min(hits_of_pdm[plan], collision_with(vehicles, ego, areas, 0, track, radius))
            if stays_away(bounds, track, foreseen):
                continue
            hits[plan] = min(hits[plan], collision_with(vehicles, ego, areas, first + plan, track, radius))
            if not about_to_hit[plan]:
                about_to_hit[plan] = is_about_to_hit(vehicles, ego, areas, first + plan, track, radius)


def score_rollout_reactive(context: ScoringContext, start: TrafficStart, rollouts: Array) -> SubScores:
    """Raw sub-scores [C] of rollouts [C, 41, 11], each in traffic that reacted to it.

    PDM-Closed, the yardstick of progress, meets the traffic that reacted to the plan it is compared with.

    Raises:
        SceneDataError: The traffic cannot be simulated.
        ValueError: The context is for NAVSIM v1.
    """
    require_edition(context, NAVSIM_V2)
    both = np.concatenate([context.pdm_rollout[None], rollouts])
    ego = footprints(both)
    areas = ego_areas(context.road, ego)
    among_others = score_footprints(
        context.road, start.others_traffic, context.lights, both, context.history_states, ego, areas
    )
    hits, hits_of_pdm, about_to_hit = np.ones(len(rollouts)), np.ones(len(rollouts)), np.zeros(len(rollouts), np.bool_)
    for first in range(0, len(rollouts), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        vehicles = reactive_vehicles(start, rollouts[part])
        _meet(vehicles, ego, areas, first + 1, hits[part], hits_of_pdm[part], about_to_hit[part])
    pdm = RolloutScores(*(np.repeat(value[:1], len(rollouts)) for value in vars(among_others).values()))
    pdm = replace(pdm, no_at_fault_collisions=np.minimum(pdm.no_at_fault_collisions, hits_of_pdm))
    plans = RolloutScores(*(value[1:] for value in vars(among_others).values()))
    plans = replace(
        plans,
        no_at_fault_collisions=np.minimum(plans.no_at_fault_collisions, hits),
        time_to_collision_within_bound=np.where(about_to_hit, 0.0, plans.time_to_collision_within_bound),
    )
    return plans.with_progress(ego_progress(plans.progress_m, plans.gate, pdm.progress_m, pdm.gate))


def human_scores_reactive(context: ScoringContext, start: TrafficStart) -> SubScores:
    """Scalars: the human alone, in traffic that reacted to the human; all 1 in a synthetic scene.

    Raises:
        SceneDataError: The traffic cannot be simulated.
    """
    if context.is_synthetic:
        return context.human_scores
    drive = context.human_rollout[None]
    parts = [start.others_traffic, reactive_vehicles(start, drive)]
    traffic = Traffic(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    human = score_rollouts(context.road, traffic, context.lights, drive, None)
    return SubScores(*(np.squeeze(value) for value in vars(human.with_progress(np.ones(1))).values()))


def score_reactive(
    contexts: Sequence[ScoringContext], starts: Sequence[TrafficStart], poses: Array, *, human_filter: bool = True
) -> SubScores:
    """Score plans, any number of candidates in each of one or more scenes, in traffic that reacts to each of them.

    Args:
        contexts: S scenes, at least one.
        starts: What each scene's traffic starts from, see `traffic_start`.
        poses: [S, C, 8, 3] or [S, C, 40, 3] in each scene's ego frame (m, rad).
        human_filter: Lift what the human driver failed as well; never applies to synthetic scenes.
    Returns:
        Sub-scores [S, C]; extended comfort is left open.
    Raises:
        ValueError: The shape is wrong or a pose is not finite; the message names the plan.
        SceneDataError: The traffic of a scene cannot be simulated.
    Source: navsim `pdm_score` with `NavsimIDMTrafficAgents`.
    """
    rollouts = simulate_plans(contexts, poses).states_world
    parts = []
    for context, start, states in zip(contexts, starts, rollouts, strict=True):
        scores = score_rollout_reactive(context, start, states)
        parts.append(apply_human_filter(scores, human_scores_reactive(context, start)) if human_filter else scores)
    return stack_sub_scores(parts)
