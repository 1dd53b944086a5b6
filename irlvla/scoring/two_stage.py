"""NAVSIM's two-stage score: what a plan is worth in its scene, times what it is worth in the scenes it leads to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from irlvla.data.scenes import EARLIER_FRAME_MAX_S, SceneSet
from irlvla.data.splits import TwoStageGroup
from irlvla.errors import DataError
from irlvla.geometry import ego_to_world
from irlvla.scoring.comfort import extended_comfort
from irlvla.types import Array

END_POSITION_VARIANCE_M2 = 0.1
"""Variance of the Gaussian that weighs a follow-up scene by its distance from where the first plan ends."""


@dataclass(frozen=True)
class GroupRows:
    """Where the plans of a two-stage group stand in a table: two neighbouring frames and what follows each of them."""

    now: int
    earlier: int
    """The scene 0.5 s before."""
    after_now: NDArray[np.int64]
    """[K] follow-up scenes of `now`."""
    after_earlier: NDArray[np.int64]
    """[K] follow-up scenes of `earlier`; the k-th of both are neighbouring frames again."""

    @property
    def frame_pairs(self) -> list[tuple[int, int]]:
        """(later, earlier) rows that extended comfort compares."""
        return [
            (self.now, self.earlier),
            *zip(self.after_now.tolist(), self.after_earlier.tolist(), strict=True),
        ]

    @property
    def follow_ups(self) -> tuple[tuple[int, NDArray[np.int64]], tuple[int, NDArray[np.int64]]]:
        """Each first-stage row with the rows that follow it."""
        return (self.now, self.after_now), (self.earlier, self.after_earlier)


def mapped_groups(scenes: SceneSet) -> list[TwoStageGroup]:
    """The two-stage groups of a set, as its split maps them.

    Raises:
        DataError: None has a scene in the set, or one has no follow-up scenes.
    """
    split = scenes.split
    groups = [group for group in split.mapping if group[0] in scenes or group[1] in scenes]
    if not groups:
        raise DataError(f"split {split.name!r} maps no two-stage group (`reactive_all_mapping`) of its scenes")
    for now, _, pairs in groups:
        if not pairs:
            raise DataError(f"split {split.name!r} maps no follow-up scene to {now}; take it out of the mapping")
    return groups


def group_tokens(group: TwoStageGroup) -> list[str]:
    """Every scene of a group, the first stage first."""
    now, earlier, pairs = group
    return [now, earlier, *(token for pair in pairs for token in pair)]


def group_rows(group: TwoStageGroup, row_of: Mapping[str, int]) -> GroupRows:
    """Rows of a group's scenes.

    Raises:
        KeyError: A scene of the group has no row.
    """
    now, earlier, pairs = group
    return GroupRows(
        row_of[now],
        row_of[earlier],
        np.array([row_of[later] for later, _ in pairs], dtype=np.int64),
        np.array([row_of[before] for _, before in pairs], dtype=np.int64),
    )


def follow_up_weights(end_m: Array, starts_m: Array) -> Array:
    """How much each follow-up scene counts: the nearer it starts to where the plan ends, the more.

    Args:
        end_m: [2] where the first-stage plan, not its simulation, ends (world).
        starts_m: [K, 2] where the ego vehicle of each follow-up scene starts (world).
    Returns:
        [K] weights, sum 1; equal ones where every start is far away.
    Source: navsim `SceneAggregator.calculate_pseudo_closed_loop_weights`.

    Example:
        >>> follow_up_weights(np.zeros(2), np.array([[0.0, 0.0], [0.0, 0.5]])).round(3)
        array([0.777, 0.223])
    """
    squared_m2 = ((starts_m - end_m) ** 2).sum(axis=-1)
    weights = np.exp(-squared_m2 / (2 * END_POSITION_VARIANCE_M2))
    total = weights.sum()
    if np.isclose(total, 0.0):
        return np.full(len(weights), 1.0 / len(weights))
    return np.asarray(weights / total)


@dataclass(frozen=True)
class DrivenPlans:
    """Plans of one driver and how the simulator drove them, N rows."""

    tokens: Sequence[str]
    poses: Array
    """[N, 8 or 40, 3] in each scene's ego frame."""
    rollouts: Array
    """[N, 41, 11]"""
    ego_poses: Array
    """[N, 3] rear axle where each plan starts (world)."""
    now_us: NDArray[np.int64]
    """[N] time at which each plan starts."""


def compare_group(group: GroupRows, plans: DrivenPlans, comfort: Array, weights: Array) -> None:
    """Fill in what a group's scenes have to do with each other.

    Args:
        comfort: [N] gets extended comfort; both frames of a pair get the same.
        weights: [N] gets how much a follow-up scene counts among its siblings, 1 for scenes of the first stage.
    Raises:
        DataError: Frames that should be neighbours are not.
    """
    for later, earlier in group.frame_pairs:
        dt_s = (plans.now_us[later] - plans.now_us[earlier]) * 1e-6
        if not 0.0 < dt_s <= EARLIER_FRAME_MAX_S:
            raise DataError(
                f"the mapping pairs {plans.tokens[later]} with {plans.tokens[earlier]} as its earlier frame, but they "
                f"are {dt_s:g} s apart; split file and logs do not match"
            )
        comfort[[later, earlier]] = extended_comfort(plans.rollouts[later], plans.rollouts[earlier], dt_s)
    for first, following in group.follow_ups:
        weights[first] = 1.0
        end = ego_to_world(plans.poses[first, -1], plans.ego_poses[first])
        weights[following] = follow_up_weights(end[:2], plans.ego_poses[following, :2])


def group_means(values: Array, weights: Array, groups: Sequence[GroupRows]) -> tuple[Array, Array, Array]:
    """What each two-stage group is worth.

    Args:
        values: [N, F] any figures of the plans, such as sub-scores or the score.
        weights: [N] weights of the follow-up plans among their siblings.
        groups: G groups.
    Returns:
        [G, F] means of the two frames of stage one, [G, F] of what follows each of them, weighted, and [G, F] of the
        products of both.
    """
    one, two = [], []
    for group in groups:
        one.append([values[first] for first, _ in group.follow_ups])
        two.append([np.average(values[rows], axis=0, weights=weights[rows]) for _, rows in group.follow_ups])
    stage_one, stage_two = np.array(one), np.array(two)
    return stage_one.mean(axis=1), stage_two.mean(axis=1), (stage_one * stage_two).mean(axis=1)


def stage_means(values: Array, weights: Array, groups: Sequence[GroupRows]) -> tuple[Array, Array, Array]:
    """Official summary of scores over two-stage groups, at least one: the means over groups of `group_means`, [F] each.

    Source: navsim `calculate_individual_mapping_scores`.
    """
    one, two, combined = group_means(values, weights, groups)
    return one.mean(axis=0), two.mean(axis=0), combined.mean(axis=0)
