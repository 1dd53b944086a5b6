"""Where the ego vehicle's body is during a rollout."""

import math
from typing import NamedTuple

import numpy as np

from irlvla.geometry import EGO_LENGTH_M, EGO_WIDTH_M, REAR_AXLE_TO_CENTER_M
from irlvla.simulation.bicycle import HEADING, VX, VY, X, Y
from irlvla.simulation.kernels import kernel
from irlvla.types import Array


class Footprints(NamedTuple):
    """Body of the ego vehicle at every step of C rollouts."""

    corners: Array
    """[C, 41, 4, 2] front-left, rear-left, rear-right, front-right (m, world)."""
    center: Array
    """[C, 41, 2] (m, world)."""
    rear_axle: Array
    """[C, 41, 3] x, y, heading (m, rad, world)."""
    speed_mps: Array
    """[C, 41] at the rear axle."""


@kernel
def _footprints(rollouts: Array, corners: Array, center: Array, speed: Array) -> None:
    half_length, half_width = EGO_LENGTH_M / 2, EGO_WIDTH_M / 2
    for plan in range(rollouts.shape[0]):
        for step in range(rollouts.shape[1]):
            state = rollouts[plan, step]
            cos, sin = math.cos(state[HEADING]), math.sin(state[HEADING])
            side_cos, side_sin = math.cos(state[HEADING] + math.pi / 2), math.sin(state[HEADING] + math.pi / 2)
            x, y = state[X] + REAR_AXLE_TO_CENTER_M * cos, state[Y] + REAR_AXLE_TO_CENTER_M * sin
            center[plan, step, 0], center[plan, step, 1] = x, y
            for corner in range(4):
                ahead = half_length if corner in (0, 3) else -half_length
                aside = half_width if corner in (0, 1) else -half_width
                corners[plan, step, corner, 0] = x + (aside * side_cos + ahead * cos)
                corners[plan, step, corner, 1] = y + (aside * side_sin + ahead * sin)
            speed[plan, step] = math.hypot(state[VX], state[VY])


def footprints(rollouts: Array) -> Footprints:
    """Body of the ego vehicle along rollouts [C, 41, 11]."""
    plans, steps = rollouts.shape[:2]
    corners, center = np.empty((plans, steps, 4, 2)), np.empty((plans, steps, 2))
    speed = np.empty((plans, steps))
    _footprints(rollouts, corners, center, speed)
    return Footprints(corners, center, np.ascontiguousarray(rollouts[..., :3]), speed)
