"""Comfort, history comfort and extended comfort: is the ride smooth, by itself and against the plan made 0.5 s earlier?

All smooth the simulated states with Savitzky-Golay filters, which are fixed linear maps; they are laid out once per
number of states and applied by a kernel.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irlvla.geometry import REAR_AXLE_TO_CENTER_M
from irlvla.simulation.bicycle import AX, AY, HEADING, YAW_ACCELERATION, YAW_RATE
from irlvla.simulation.kernels import kernel
from irlvla.types import ROLLOUT_STATES, ROLLOUT_STEP_S, Array

_MIN_LON_MPS2, _MAX_LON_MPS2 = -4.05, 2.40
_MAX_LAT_MPS2 = 4.89
_MAX_JERK_MPS3 = 8.37
_MAX_LON_JERK_MPS3 = 4.13
_MAX_YAW_ACCELERATION_RADPS2 = 1.93
_MAX_YAW_RATE_RADPS = 0.95

_MAX_RMS_ACCELERATION_MPS2 = 0.7
_MAX_RMS_JERK_MPS3 = 0.5
_MAX_RMS_YAW_RATE_RADPS = 0.1
_MAX_RMS_YAW_ACCELERATION_RADPS2 = 0.1


class SmoothingFilter(NamedTuple):
    """A Savitzky-Golay filter over T samples: sample i becomes a weighted sum of samples first[i], first[i] + 1, ..."""

    first: NDArray[np.int64]
    """[T]"""
    weights: Array
    """[T, W]"""


class ComfortFilters(NamedTuple):
    """The filters that the comfort sub-scores take, for one number of states."""

    bounded_acceleration: SmoothingFilter
    """For what is held against the bounds of acceleration, ..."""
    acceleration: SmoothingFilter
    """... and for what jerk is the derivative of."""
    jerk: SmoothingFilter
    yaw_rate: SmoothingFilter
    yaw_acceleration_cubic: SmoothingFilter
    """Comfort and history comfort fit cubics to the heading, ..."""
    yaw_acceleration_parabolic: SmoothingFilter
    """... extended comfort parabolas."""


def smoothing_filter(samples: int, window: int, order: int, derivative: int) -> SmoothingFilter:
    """Local polynomial fits as weights; at both ends the outermost fit is read off its middle.

    Args:
        samples: T, at least `window`.
        window: Samples per fit; an even one is read half a step late, which is how the official filter does it.
        order: Degree of the polynomials.
        derivative: 0 for values, 1 or 2 for derivatives by time, at 0.1 s a sample.
    Source: scipy `savgol_filter(mode="interp")`, compared in tests/scoring/test_comfort.py.
    """
    half = window // 2
    middle = (window - 1) / 2

    def weights_at(place: float) -> Array:
        powers = (np.arange(window) - place)[:, None] ** np.arange(order + 1)
        return math.factorial(derivative) * np.linalg.pinv(powers)[derivative] / ROLLOUT_STEP_S**derivative

    inner = weights_at(middle)
    first = np.clip(np.arange(samples) - (window - 1) // 2, 0, samples - window)
    weights = np.tile(inner, (samples, 1))
    for i in range(half):
        weights[i] = weights_at(i)
        weights[samples - 1 - i] = weights_at(window - 1 - i)
    first[:half] = 0
    first[samples - half :] = samples - window
    return SmoothingFilter(first.astype(np.int64), weights)


@lru_cache(maxsize=64)
def comfort_filters(samples: int) -> ComfortFilters:
    """The filters of NAVSIM v2's comfort sub-scores for T states."""
    acceleration = smoothing_filter(samples, 8, 2, 0)
    return ComfortFilters(
        bounded_acceleration=acceleration,
        acceleration=acceleration,
        jerk=smoothing_filter(samples, 15, 2, 1),
        yaw_rate=smoothing_filter(samples, 5, 2, 1),
        yaw_acceleration_cubic=smoothing_filter(samples, 5, 3, 2),
        yaw_acceleration_parabolic=smoothing_filter(samples, 5, 2, 2),
    )


@lru_cache(maxsize=1)
def _whole_rollout_filters() -> ComfortFilters:
    """NAVSIM v1's filters: one parabola for the acceleration of the whole rollout, and one for its jerk.

    The official code asks for such windows for yaw rate and yaw acceleration as well, but does not pass them on.
    """
    whole = ROLLOUT_STATES
    return comfort_filters(whole)._replace(
        bounded_acceleration=smoothing_filter(whole, whole, 2, 0), jerk=smoothing_filter(whole, whole, 2, 1)
    )


@kernel
def _smooth(values: Array, by: SmoothingFilter) -> Array:
    """Filtered values [T], rounded to 8 decimals as the official features are."""
    smoothed = np.empty(len(values))
    for i in range(len(values)):
        total = 0.0
        for k in range(by.weights.shape[1]):
            total += by.weights[i, k] * values[by.first[i] + k]
        smoothed[i] = np.rint(total * 1e8) / 1e8
    return smoothed


@kernel
def _within(values: Array, low: float, high: float) -> bool:
    for value in values:  # noqa: SIM110 (Numba compiles no generator)
        if not low < value < high:
            return False
    return True


@kernel
def _unwrapped_headings(states: Array) -> Array:
    headings = states[:, HEADING].copy()
    turns = 0.0
    for i in range(1, len(headings)):
        turns += np.rint((states[i, HEADING] - states[i - 1, HEADING]) / (2 * math.pi))
        headings[i] -= 2 * math.pi * turns
    return headings


@kernel
def _is_comfortable(states: Array, ahead_m: float, filters: ComfortFilters) -> bool:
    """Whether a drive stays within bounds, its longitudinal acceleration taken `ahead_m` before the rear axle."""
    lon = states[:, AX] + ahead_m * states[:, YAW_RATE] ** 2 + ahead_m * states[:, YAW_ACCELERATION]
    if not _within(_smooth(lon, filters.bounded_acceleration), _MIN_LON_MPS2, _MAX_LON_MPS2):
        return False
    lon_jerk = _smooth(_smooth(lon, filters.acceleration), filters.jerk)
    if not _within(lon_jerk, -_MAX_LON_JERK_MPS3, _MAX_LON_JERK_MPS3):
        return False
    if not _within(_smooth(states[:, AY], filters.bounded_acceleration), -_MAX_LAT_MPS2, _MAX_LAT_MPS2):
        return False
    magnitude = _smooth(np.hypot(states[:, AX], states[:, AY]), filters.acceleration)
    if not _within(_smooth(magnitude, filters.jerk), -_MAX_JERK_MPS3, _MAX_JERK_MPS3):
        return False
    headings = _unwrapped_headings(states)
    if not _within(_smooth(headings, filters.yaw_rate), -_MAX_YAW_RATE_RADPS, _MAX_YAW_RATE_RADPS):
        return False
    yaw_acceleration = _smooth(headings, filters.yaw_acceleration_cubic)
    return _within(yaw_acceleration, -_MAX_YAW_ACCELERATION_RADPS2, _MAX_YAW_ACCELERATION_RADPS2)


@kernel
def _comfort(history: Array, rollouts: Array, ahead_m: float, filters: ComfortFilters, scores: Array) -> None:
    states = np.empty((len(history) + rollouts.shape[1], rollouts.shape[2]))
    states[: len(history)] = history
    for plan in range(len(rollouts)):
        states[len(history) :] = rollouts[plan]
        scores[plan] = 1.0 if _is_comfortable(states, ahead_m, filters) else 0.0


def comfort(rollouts: Array) -> Array:
    """NAVSIM v1's comfort [C]: 1 where the rollout by itself stays within the bounds, else 0.

    Accelerations and their jerks are the rear axle's and fitted over the whole rollout, so a short jolt hardly shows.

    Args:
        rollouts: [C, 41, 11].
    Source: navsim v1.1 `ego_is_comfortable` on `PDMScorer._calculate_is_comfortable`.
    """
    scores = np.empty(len(rollouts))
    _comfort(np.empty((0, rollouts.shape[2])), np.ascontiguousarray(rollouts), 0.0, _whole_rollout_filters(), scores)
    return scores


def history_comfort(history: Array, rollouts: Array) -> Array:
    """History comfort [C]: 1 where accelerations, jerks and yaw motion stay within bounds, else 0.

    Args:
        history: [H, 11] the 1.5 s driven before, at 0.1 s; the bounds hold across the seam.
        rollouts: [C, 41, 11].
    Source: navsim `ego_is_comfortable` on `PDMScorer._calculate_history_comfort`.
    """
    scores = np.empty(len(rollouts))
    filters = comfort_filters(len(history) + rollouts.shape[1])
    _comfort(history, np.ascontiguousarray(rollouts), REAR_AXLE_TO_CENTER_M, filters, scores)
    return scores


@kernel
def _root_mean_square_change(now: Array, earlier: Array) -> float:
    total = 0.0
    for i in range(len(now)):
        total += (now[i] - earlier[i]) ** 2
    return math.sqrt(total / len(now))


@kernel
def _extended_comfort(now: Array, earlier: Array, filters: ComfortFilters, scores: Array) -> None:
    for pair in range(len(now)):
        a, b = now[pair], earlier[pair]
        acceleration_a = _smooth(np.hypot(a[:, AX], a[:, AY]), filters.acceleration)
        acceleration_b = _smooth(np.hypot(b[:, AX], b[:, AY]), filters.acceleration)
        headings_a, headings_b = _unwrapped_headings(a), _unwrapped_headings(b)
        comfortable = (
            _root_mean_square_change(acceleration_a, acceleration_b) <= _MAX_RMS_ACCELERATION_MPS2
            and _root_mean_square_change(_smooth(acceleration_a, filters.jerk), _smooth(acceleration_b, filters.jerk))
            <= _MAX_RMS_JERK_MPS3
            and _root_mean_square_change(_smooth(headings_a, filters.yaw_rate), _smooth(headings_b, filters.yaw_rate))
            <= _MAX_RMS_YAW_RATE_RADPS
            and _root_mean_square_change(
                _smooth(headings_a, filters.yaw_acceleration_parabolic),
                _smooth(headings_b, filters.yaw_acceleration_parabolic),
            )
            <= _MAX_RMS_YAW_ACCELERATION_RADPS2
        )
        scores[pair] = 1.0 if comfortable else 0.0


def extended_comfort(rollout_now: Array, rollout_earlier: Array, dt_s: float = 0.5) -> Array:
    """Two-frame extended comfort: do the plans of two neighbouring frames ask for the same motion where they overlap?

    Args:
        rollout_now: [..., 41, 11] simulated states of the later frame.
        rollout_earlier: [..., 41, 11] simulated states of the earlier frame; broadcast against the other.
        dt_s: Time between the frames, 0.1 s to 0.55 s.
    Returns:
        [...] 1 where the root mean square changes of acceleration, jerk, yaw rate and yaw acceleration over the
        overlap stay within bounds, else 0.
    Raises:
        ValueError: `dt_s` is out of range.
    Source: navsim `ego_is_two_frame_extended_comfort`.
    """
    if not 0.05 < dt_s <= 0.55:
        raise ValueError(f"extended comfort compares frames 0.1 s to 0.55 s apart, got {dt_s:g} s")
    shift = round(dt_s / ROLLOUT_STEP_S)
    now, earlier = np.broadcast_arrays(rollout_now, rollout_earlier)
    lead_shape, steps = now.shape[:-2], now.shape[-2] - shift
    now = np.ascontiguousarray(now[..., :-shift, :].reshape(-1, steps, now.shape[-1]))
    earlier = np.ascontiguousarray(earlier[..., shift:, :].reshape(-1, steps, earlier.shape[-1]))
    scores = np.empty(len(now))
    _extended_comfort(now, earlier, comfort_filters(steps), scores)
    return scores.reshape(lead_shape)
