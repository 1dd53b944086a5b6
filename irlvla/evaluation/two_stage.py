"""Two-stage evaluation: plans in traffic that reacts to each of them, in their scenes and in those they may lead to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from irlvla.data.scenes import SceneSet
from irlvla.data.splits import TwoStageGroup
from irlvla.errors import DataError, SceneDataError
from irlvla.scoring.context import ScoringContext
from irlvla.scoring.human_filter import apply_human_filter
from irlvla.scoring.reactive import human_scores_reactive, score_rollout_reactive, traffic_start
from irlvla.scoring.score import simulate_plans, stack_sub_scores
from irlvla.scoring.two_stage import DrivenPlans, compare_group, group_rows, group_tokens, mapped_groups
from irlvla.types import Array, SceneFailure, SubScores


@dataclass(frozen=True)
class PlanScores:
    """One policy's plans, R rows."""

    poses: Array
    """[R, 8 or 40, 3]"""
    filtered: SubScores
    raw: SubScores
    weights: Array | None = None
    """[R] of a follow-up scene among its siblings, 1 in the first stage; None in one stage."""


def score_two_stage(
    plans: Sequence[Array],
    scenes: SceneSet,
    contexts: Sequence[ScoringContext],
    failed: list[SceneFailure],
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[TwoStageGroup, ...], NDArray[np.int64], list[PlanScores]]:
    """Score the plans of policies in the groups of which every scene can be scored for every policy.

    Args:
        plans: [S, 8 or 40, 3] of each policy, in each scene's ego frame.
        scenes: Set of a split with a mapping.
        contexts: S scenes.
        failed: Takes in why a scene is left out, and which scenes that costs.
        on_progress: Told how many scenes are scored, of how many.
    Returns:
        Groups, [R] which of the scenes are in them, and every policy's scores there.
    Raises:
        DataError: No group is complete.
    Source: navsim 0a380a9 `run_pdm_score`.
    """
    mapped = mapped_groups(scenes)
    row_of = {context.token: row for row, context in enumerate(contexts)}
    rollouts = [simulate_plans(contexts, poses[:, None]).states_world[:, 0] for poses in plans]
    raw: dict[str, list[SubScores]] = {}
    human: dict[str, SubScores] = {}
    groups: list[TwoStageGroup] = []
    for done, group in enumerate(mapped, start=1):
        try:
            for token in group_tokens(group):
                if token not in row_of:
                    raise SceneDataError(token, "has no plan or no scoring context")
                if token not in raw:
                    row = row_of[token]
                    start = traffic_start(scenes, contexts[row])
                    scored = [score_rollout_reactive(contexts[row], start, of[row][None]) for of in rollouts]
                    human[token] = human_scores_reactive(contexts[row], start)
                    raw[token] = [SubScores(*(value[0] for value in vars(one).values())) for one in scored]
            groups.append(group)
        except SceneDataError as error:
            if error.token in row_of:
                failed.append(SceneFailure(error.token, error.reason))
            reason = f"its two-stage group cannot be scored without scene {error.token}"
            failed += [SceneFailure(t, reason) for t in group_tokens(group) if t in row_of and t != error.token]
        if on_progress is not None:
            on_progress(done, len(mapped))
    if not groups:
        raise DataError(
            f"no two-stage group of split {scenes.split.name!r} in {scenes.root} can be evaluated; "
            f"first: scene {failed[0].token}: {failed[0].reason}"
        )
    tokens = dict.fromkeys(token for group in groups for token in group_tokens(group))
    rows = np.array(sorted(row_of[token] for token in tokens), dtype=np.int64)
    chosen = [contexts[row] for row in rows]
    place = {context.token: index for index, context in enumerate(chosen)}
    human_R = stack_sub_scores([human[token] for token in place])
    results = []
    for number, poses in enumerate(plans):
        driven = DrivenPlans(
            tuple(place),
            poses[rows],
            rollouts[number][rows],
            np.stack([context.ego_state[:3] for context in chosen]),
            np.array([context.now_us for context in chosen], dtype=np.int64),
        )
        comfort, weights = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        for group in groups:
            compare_group(group_rows(group, place), driven, comfort, weights)
        scores = stack_sub_scores([raw[token][number] for token in place])
        scores = replace(
            scores, two_frame_extended_comfort=comfort, has_earlier_frame=np.ones(len(rows), dtype=np.bool_)
        )
        results.append(PlanScores(driven.poses, apply_human_filter(scores, human_R), scores, weights))
    return tuple(groups), rows, results
