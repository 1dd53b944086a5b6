"""Comfort, history comfort and extended comfort."""

import numpy as np
from scipy.signal import savgol_filter

from irlvla.geometry import REAR_AXLE_TO_CENTER_M
from irlvla.simulation.bicycle import AX, AY, HEADING, YAW_ACCELERATION, YAW_RATE
from irlvla.types import Array


def _smooth(values: Array, window: int, order: int, derivative: int = 0) -> Array:
    return np.round(savgol_filter(values, window, order, deriv=derivative, delta=0.1), 8)


def _headings(states: Array) -> Array:
    turns = np.round(np.diff(states[:, HEADING]) / (2 * np.pi))
    return states[:, HEADING] - 2 * np.pi * np.concatenate([[0.0], np.cumsum(turns)])


def comfort(states: Array) -> float:
    """NAVSIM v1's: 1 where accelerations, jerks and yaw motion of the rollout's rear axle stay within bounds."""
    whole = len(states)
    magnitude = np.hypot(states[:, AX], states[:, AY])
    lon, lat = _smooth(states[:, AX], whole, 2), _smooth(states[:, AY], whole, 2)
    within = (
        (lon > -4.05).all() and (lon < 2.40).all(),
        (abs(lat) < 4.89).all(),
        (abs(_smooth(_smooth(magnitude, 8, 2), whole, 2, 1)) < 8.37).all(),
        (abs(_smooth(_smooth(states[:, AX], 8, 2), whole, 2, 1)) < 4.13).all(),
        (abs(_smooth(_headings(states), 5, 3, 2)) < 1.93).all(),
        (abs(_smooth(_headings(states), 5, 2, 1)) < 0.95).all(),
    )
    return float(all(within))


def history_comfort(history: Array, states: Array) -> float:
    """1 where accelerations, jerks and yaw motion of history and rollout together stay within bounds."""
    drive = np.concatenate([history, states])
    at_center = drive[:, AX] + REAR_AXLE_TO_CENTER_M * (drive[:, YAW_RATE] ** 2 + drive[:, YAW_ACCELERATION])
    lon, lat = _smooth(at_center, 8, 2), _smooth(drive[:, AY], 8, 2)
    magnitude = _smooth(np.hypot(drive[:, AX], drive[:, AY]), 8, 2)
    within = (
        (lon > -4.05).all() and (lon < 2.40).all(),
        (abs(lat) < 4.89).all(),
        (abs(_smooth(magnitude, 15, 2, 1)) < 8.37).all(),
        (abs(_smooth(lon, 15, 2, 1)) < 4.13).all(),
        (abs(_smooth(_headings(drive), 5, 3, 2)) < 1.93).all(),
        (abs(_smooth(_headings(drive), 5, 2, 1)) < 0.95).all(),
    )
    return float(all(within))


def extended_comfort(now: Array, earlier: Array, dt_s: float = 0.5) -> float:
    """1 where the plans of two neighbouring frames [41, 11] ask for the same motion where they overlap."""
    shift = round(dt_s / 0.1)
    now, earlier = now[:-shift], earlier[shift:]

    def features(states: Array) -> tuple[Array, Array, Array, Array]:
        acceleration = _smooth(np.hypot(states[:, AX], states[:, AY]), 8, 2)
        headings = _headings(states)
        return acceleration, _smooth(acceleration, 15, 2, 1), _smooth(headings, 5, 2, 1), _smooth(headings, 5, 2, 2)

    changes = zip(features(now), features(earlier), (0.7, 0.5, 0.1, 0.1), strict=True)
    return float(all(np.sqrt(np.mean((a - b) ** 2)) <= bound for a, b, bound in changes))
