"""Scoring in reactive traffic, where every plan meets its own surroundings."""

from collections.abc import Sequence

import numpy as np

from irlvla.data.maps import load_map
from irlvla.data.scenes import SceneSet
from irlvla.scoring.context import ScoringContext
from irlvla.scoring.editions import NAVSIM_V2
from irlvla.scoring.human_filter import apply_human_filter
from irlvla.scoring.progress import ego_progress
from irlvla.scoring.rollout_scores import score_rollouts
from irlvla.scoring.score import require_edition, simulate_plans, stack_sub_scores
from irlvla.simulation.reactive_traffic import TrafficStart, reactive_traffic, start_traffic
from irlvla.types import Array, SubScores


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


def score_rollout_reactive(context: ScoringContext, start: TrafficStart, rollouts: Array) -> SubScores:
    """Raw sub-scores [C] of rollouts [C, 41, 11], each in traffic that reacted to it.

    PDM-Closed, the yardstick of progress, meets the traffic that reacted to the plan it is compared with.

    Raises:
        SceneDataError: The traffic cannot be simulated.
        ValueError: The context is for NAVSIM v1.
    """
    require_edition(context, NAVSIM_V2)
    parts = []
    for rollout in rollouts:
        both = np.stack([context.pdm_rollout, rollout])
        traffic = reactive_traffic(start, rollout)
        scores = score_rollouts(context.road, traffic, context.lights, both, context.history_states)
        share = ego_progress(scores.progress_m, scores.gate, scores.progress_m[0], scores.gate[0])
        with_progress = scores.with_progress(share)
        parts.append(SubScores(*(value[1] for value in vars(with_progress).values())))
    return stack_sub_scores(parts) if parts else _nothing()


def _nothing() -> SubScores:
    empty = np.zeros(0)
    return SubScores(**dict.fromkeys(SubScores.names(), empty), has_earlier_frame=empty.astype(np.bool_))


def human_scores_reactive(context: ScoringContext, start: TrafficStart) -> SubScores:
    """Scalars: the human alone, in traffic that reacted to the human; all 1 in a synthetic scene.

    Raises:
        SceneDataError: The traffic cannot be simulated.
    """
    if context.is_synthetic:
        return context.human_scores
    traffic = reactive_traffic(start, context.human_rollout)
    human = score_rollouts(context.road, traffic, context.lights, context.human_rollout[None], None)
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
