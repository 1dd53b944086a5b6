"""EPDMS, NAVSIM v2's score: the one home of its formula."""

from typing import Protocol

import numpy as np

from irlvla.types import Array, SubScores

PROGRESS_WEIGHT = 5.0
TIME_TO_COLLISION_WEIGHT = 5.0
LANE_KEEPING_WEIGHT = 2.0
HISTORY_COMFORT_WEIGHT = 2.0
EXTENDED_COMFORT_WEIGHT = 2.0


class Gated(Protocol):
    """Anything that holds the four sub-scores that void a plan."""

    @property
    def no_at_fault_collisions(self) -> Array: ...
    @property
    def drivable_area_compliance(self) -> Array: ...
    @property
    def driving_direction_compliance(self) -> Array: ...
    @property
    def traffic_light_compliance(self) -> Array: ...


def gate(scores: Gated) -> Array:
    """Product [...] of the sub-scores that void a plan: collisions, drivable area, direction, traffic lights."""
    return (
        scores.no_at_fault_collisions
        * scores.drivable_area_compliance
        * scores.driving_direction_compliance
        * scores.traffic_light_compliance
    )


def epdms(scores: SubScores) -> Array:
    """Extended PDM score [...] in [0, 1].

    Args:
        scores: Sub-scores, human-filtered where the benchmark asks for that.
    Source: navsim v2.2 `PDMScorer._aggregate_pdm_scores` with `compute_final_scores`.

    Example:
        >>> import dataclasses
        >>> perfect = SubScores(*np.ones((9, 1)), np.array([False]))
        >>> epdms(perfect)
        array([1.])
        >>> epdms(dataclasses.replace(perfect, lane_keeping=np.zeros(1))).round(4)
        array([0.8571])
    """
    # Extended comfort compares two frames; a frame whose predecessor is not scored has none.
    extended_weight = np.where(scores.has_earlier_frame, EXTENDED_COMFORT_WEIGHT, 0.0)
    quality = (
        PROGRESS_WEIGHT * scores.ego_progress
        + TIME_TO_COLLISION_WEIGHT * scores.time_to_collision_within_bound
        + LANE_KEEPING_WEIGHT * scores.lane_keeping
        + HISTORY_COMFORT_WEIGHT * scores.history_comfort
        + extended_weight * scores.two_frame_extended_comfort
    )
    weight = PROGRESS_WEIGHT + TIME_TO_COLLISION_WEIGHT + LANE_KEEPING_WEIGHT + HISTORY_COMFORT_WEIGHT + extended_weight
    return gate(scores) * quality / weight
