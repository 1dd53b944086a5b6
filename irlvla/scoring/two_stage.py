"""NAVSIM's two-stage score: what a plan is worth in its scene, times what it is worth in the scenes it leads to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from irlvla.data.splits import TwoStageGroup
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


def stage_means(values: Array, weights: Array, groups: Sequence[GroupRows]) -> tuple[Array, Array, Array]:
    """Official summary of scores over two-stage groups.

    Args:
        values: [N, F] any figures of the plans, such as sub-scores or the score.
        weights: [N] weights of the follow-up plans among their siblings.
        groups: At least one.
    Returns:
        [F] mean of stage one, [F] mean over groups of stage two's weighted means, and [F] mean of their products.
    Source: navsim `calculate_individual_mapping_scores`.
    """
    one, two = [], []
    for group in groups:
        for first, following in group.follow_ups:
            one.append(values[first])
            two.append(np.average(values[following], axis=0, weights=weights[following]))
    stage_one, stage_two = np.array(one), np.array(two)
    return stage_one.mean(axis=0), stage_two.mean(axis=0), (stage_one * stage_two).mean(axis=0)
