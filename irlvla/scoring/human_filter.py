"""The human filter: what the human driver failed as well is not held against a plan."""

from dataclasses import replace

import numpy as np

from irlvla.types import SubScores

FILTERED = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "traffic_light_compliance",
    "time_to_collision_within_bound",
    "lane_keeping",
)
"""Sub-scores the filter can lift. The human's progress and history comfort are 1 by construction (the human is scored
alone and without history), and extended comfort is never filtered, although the official formula says so."""


def apply_human_filter(scores: SubScores, human: SubScores) -> SubScores:
    """Lift to 1 every sub-score that the human scores 0 in; the human's 0.5 lifts nothing.

    Args:
        scores: Sub-scores [...] of plans.
        human: Sub-scores of the human driver in the same scenes, broadcastable to [...].
    Source: navsim main 0a380a9 `pdm_score` with `apply_human_filter`.
    """
    lifted = {name: np.where(getattr(human, name) == 0.0, 1.0, getattr(scores, name)) for name in FILTERED}
    return replace(scores, **lifted)
