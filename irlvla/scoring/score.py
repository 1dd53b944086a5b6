"""Plans in, sub-scores out: the scorer's front door."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from irlvla.scoring.comfort import extended_comfort
from irlvla.scoring.context import ScoringContext
from irlvla.scoring.editions import NAVSIM_V1, NAVSIM_V2, Edition
from irlvla.scoring.human_filter import apply_human_filter
from irlvla.scoring.pdms import score_rollouts_pdms
from irlvla.scoring.progress import ego_progress
from irlvla.scoring.rollout_scores import score_rollouts
from irlvla.simulation.reference import reference_poses
from irlvla.simulation.tracker import simulate
from irlvla.types import ROLLOUT_STATES, Array, PDMSubScores, Rollout, SubScores

_Scores = TypeVar("_Scores", SubScores, PDMSubScores)


def _checked(contexts: Sequence[ScoringContext], poses: Array) -> Array:
    poses = np.asarray(poses, dtype=np.float64)
    if poses.ndim != 4 or poses.shape[0] != len(contexts) or poses.shape[2:] not in {(8, 3), (40, 3)}:
        raise ValueError(
            f"plans must be [{len(contexts)}, C, 8, 3] or [{len(contexts)}, C, 40, 3] for as many contexts, "
            f"got {poses.shape}"
        )
    broken = ~np.isfinite(poses).all(axis=(2, 3))
    if broken.any():
        scene, plan = np.argwhere(broken)[0]
        raise ValueError(f"plan {plan} of scene {scene} ({contexts[scene].token}) holds NaN or infinite poses")
    return poses


def _rollouts(context: ScoringContext, poses: Array) -> Array:
    return simulate(reference_poses(poses, context.ego_state[:3], context.now_us), context.ego_state)


def simulate_plans(contexts: Sequence[ScoringContext], poses: Array) -> Rollout:
    """Drive plans through the simulator.

    Args:
        contexts: S scenes.
        poses: [S, C, 8, 3] or [S, C, 40, 3] in each scene's ego frame (m, rad).
    Returns:
        Rollout with states [S, C, 41, 11].
    Raises:
        ValueError: The shape is wrong or a pose is not finite; the message names the plan.
    """
    poses = _checked(contexts, poses)
    states = np.empty((*poses.shape[:2], ROLLOUT_STATES, 11))
    for scene, context in enumerate(contexts):
        states[scene] = _rollouts(context, poses[scene])
    return Rollout(states)


def require_edition(context: ScoringContext, edition: Edition) -> None:
    """Refuse a context of another edition of the benchmark with a ValueError that names both."""
    if context.edition != edition.name:
        raise ValueError(f"the context of scene {context.token} is for {context.edition}, build one for {edition.name}")


def score_rollout(context: ScoringContext, rollouts: Array) -> SubScores:
    """Raw sub-scores [C] of rollouts [C, 41, 11] in one scene, with log-replay traffic.

    Raises:
        ValueError: The context is for NAVSIM v1.
    """
    require_edition(context, NAVSIM_V2)
    scores = score_rollouts(context.road, context.traffic, context.lights, rollouts, context.history_states)
    share = ego_progress(scores.progress_m, scores.gate, context.pdm_progress_m, context.pdm_gate)
    return scores.with_progress(share)


def score_rollout_pdms(context: ScoringContext, rollouts: Array) -> PDMSubScores:
    """NAVSIM v1's sub-scores [C] of rollouts [C, 41, 11] in one scene.

    Raises:
        ValueError: The context is not for NAVSIM v1.
    """
    require_edition(context, NAVSIM_V1)
    scores = score_rollouts_pdms(context.road, context.traffic, rollouts)
    return scores.compared(context.pdm_progress_m, context.pdm_gate)


def stack_sub_scores(parts: Sequence[_Scores]) -> _Scores:
    """Join sub-scores, at least one, along a new first axis."""
    kind = type(parts[0])
    return kind(**{f.name: np.stack([getattr(part, f.name) for part in parts]) for f in fields(kind)})


def score(contexts: Sequence[ScoringContext], poses: Array, *, human_filter: bool = True) -> SubScores:
    """Score plans, any number of candidates in each of many scenes, in log-replay traffic.

    Args:
        contexts: S scenes.
        poses: [S, C, 8, 3] or [S, C, 40, 3] in each scene's ego frame (m, rad).
        human_filter: Lift what the human driver failed as well; never applies to synthetic scenes.
    Returns:
        Sub-scores [S, C]. Extended comfort compares frames and is left open: `score_frames` or `extended_comfort`.
    Raises:
        ValueError: The shape is wrong or a pose is not finite; the message names the plan.

    Example: the human's plan and one that stays, in a scene of a log.
        >>> from irlvla.data.scenes import open_scenes
        >>> from irlvla.scoring.context import build_contexts
        >>> scenes = open_scenes(Path("tests/golden/alpha"), "test", num_future_frames=8)[:1]
        >>> contexts, failures = build_contexts(scenes)
        >>> context = contexts[scenes.tokens[0]]
        >>> plans = np.stack([context.human_plan, np.zeros((8, 3))])
        >>> sub_scores = score([context], plans[None])
        >>> sub_scores.ego_progress.round(3)
        array([[1.   , 0.206]])
        >>> score([context], plans[None] * np.nan)
        Traceback (most recent call last):
        ValueError: plan 0 of scene 0 (567921105a202303) holds NaN or infinite poses
    """
    return score_simulated(contexts, simulate_plans(contexts, poses), human_filter=human_filter)


def score_pdms(contexts: Sequence[ScoringContext], poses: Array) -> PDMSubScores:
    """Score plans for NAVSIM v1, any number of candidates in each of many scenes.

    Args:
        contexts: S scenes, at least one, built for `irlvla.scoring.editions.NAVSIM_V1`.
        poses: [S, C, 8, 3] or [S, C, 40, 3] in each scene's ego frame (m, rad).
    Returns:
        Sub-scores [S, C]; `irlvla.scoring.pdms.pdms` makes one score of them.
    Raises:
        ValueError: The shape is wrong, a pose is not finite, or a context is for another edition.
    """
    rollouts = simulate_plans(contexts, poses).states_world
    return stack_sub_scores([score_rollout_pdms(c, states) for c, states in zip(contexts, rollouts, strict=True)])


def score_simulated(contexts: Sequence[ScoringContext], rollout: Rollout, *, human_filter: bool = True) -> SubScores:
    """Score plans that have been simulated already; states [S, C, 41, 11], else as `score`."""
    if not contexts:
        empty = np.zeros(rollout.states_world.shape[:2])
        return SubScores(
            **{f.name: empty.astype(np.bool_ if f.name == "has_earlier_frame" else float) for f in fields(SubScores)}
        )
    parts = []
    for context, states in zip(contexts, rollout.states_world, strict=True):
        scores = score_rollout(context, states)
        parts.append(apply_human_filter(scores, context.human_scores) if human_filter else scores)
    return stack_sub_scores(parts)


def score_frames(
    contexts: Sequence[ScoringContext],
    poses: Array,
    earlier_index: NDArray[np.int64],
    *,
    human_filter: bool = True,
) -> SubScores:
    """Score one plan per scene, extended comfort included.

    Args:
        contexts: S scenes.
        poses: [S, 8, 3] or [S, 40, 3] in each scene's ego frame (m, rad).
        earlier_index: [S] which of these scenes is 0.5 s earlier in the same log; -1 for none.
        human_filter: As in `score`.
    Returns:
        Sub-scores [S].
    """
    rollout = simulate_plans(contexts, np.asarray(poses)[:, None])
    scores = score_simulated(contexts, rollout, human_filter=human_filter)
    scores = SubScores(**{f.name: getattr(scores, f.name)[:, 0] for f in fields(SubScores)})
    return with_extended_comfort(contexts, rollout.states_world[:, 0], earlier_index, scores)


def with_extended_comfort(
    contexts: Sequence[ScoringContext], rollouts: Array, earlier_index: NDArray[np.int64], scores: SubScores
) -> SubScores:
    """Fill in extended comfort of S plans from their rollouts [S, 41, 11], each against the one at `earlier_index`."""
    earlier_index = np.asarray(earlier_index)
    comfort = np.zeros(len(contexts))
    for now in np.flatnonzero(earlier_index >= 0).tolist():
        earlier = int(earlier_index[now])
        dt_s = (contexts[now].now_us - contexts[earlier].now_us) * 1e-6
        comfort[now] = extended_comfort(rollouts[now], rollouts[earlier], dt_s)
    return replace(scores, two_frame_extended_comfort=comfort, has_earlier_frame=earlier_index >= 0)


def score_parallel(
    contexts: Sequence[ScoringContext], poses: Array, workers: int, *, human_filter: bool = True
) -> SubScores:
    """`score` on several cores, for collecting rewards of many plans.

    The kernels leave the interpreter lock alone, so threads do: contexts are neither copied nor sent anywhere.

    Args:
        contexts, poses, human_filter: As in `score`.
        workers: Threads.
    """
    poses = _checked(contexts, poses)
    if workers <= 1 or len(contexts) <= 1:
        return score(contexts, poses, human_filter=human_filter)

    def score_one(scene: int) -> SubScores:
        return score(contexts[scene : scene + 1], poses[scene : scene + 1], human_filter=human_filter)

    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(score_one, range(len(contexts))))
    return SubScores(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(SubScores)})
