"""The LQR tracker: how the simulated ego vehicle follows a reference.

From 41 reference poses it first estimates what speed and curvature they ask for (two regularised least-squares fits),
then at each step looks one second ahead and commands acceleration and steering rate.
"""

import math

import numpy as np

from irlvla.geometry import EGO_WHEEL_BASE_M
from irlvla.simulation.bicycle import HEADING, STEERING, VX, X, Y, step_bicycle
from irlvla.simulation.kernels import kernel
from irlvla.types import ROLLOUT_STATES, ROLLOUT_STEP_S, Array

INTERVALS = ROLLOUT_STATES - 1
_STEP_S = ROLLOUT_STEP_S
_HORIZON = 10
"""Steps the tracker looks ahead."""
_SPEED_SMOOTHING = 1e-4
_CURVATURE_RATE_PENALTY = 1e-2
_INITIAL_CURVATURE_PENALTY = 1e-10
_SPEED_WEIGHT = 10.0
_LATERAL_WEIGHT, _HEADING_WEIGHT = 1.0, 10.0
"""State weights of the lateral regulator; steering itself is free, both inputs weigh 1."""
_STOPPING_SPEED_MPS = 0.2
_STOPPING_GAIN = 0.5


def speed_fit_matrices() -> tuple[Array, Array]:
    """The speed profile's least-squares problem over x = (initial speed, 39 accelerations).

    Returns:
        Normal matrix [40, 40] and the matrix [40, 40] that takes the displacements along the reference headings (m,
        one per 0.1 s) to its right-hand side. Neither depends on the plan: cos^2 + sin^2 = 1.
    Source: navsim `_get_velocity_and_curvature_profiles`. Its regulariser is meant to penalise jerk but overwrites its
        own upper diagonal; what remains penalises acceleration, and only the last row a difference. Copied as it is.
    """
    forward = np.tri(INTERVALS) * _STEP_S**2
    forward[:, 0] = _STEP_S
    regulariser = np.zeros((INTERVALS - 2, INTERVALS))
    regulariser[:, 2:] = np.eye(INTERVALS - 2)
    regulariser[:, 1:-1] = -np.eye(INTERVALS - 2)
    return forward.T @ forward + _SPEED_SMOOTHING * regulariser.T @ regulariser, forward.T


def _speed_smoother() -> Array:
    """[40, 40] speeds (m/s) from displacements (m) along the reference headings."""
    normal, to_rhs = speed_fit_matrices()
    # The devkit's pseudo-inverse of this system fails on some platforms; it is well conditioned for a direct solve.
    solution = np.linalg.solve(normal, to_rhs)
    integrate = np.tri(INTERVALS) * _STEP_S
    integrate[:, 0] = 1.0
    return np.ascontiguousarray(integrate @ solution)


_SPEED_SMOOTHER = _speed_smoother()


@kernel
def _speed_and_curvature(reference: Array, smoother: Array) -> tuple[Array, Array]:
    """Speed (m/s) and curvature (1/m) [40] that the reference poses [41, 3] ask for."""
    along = np.empty(INTERVALS)
    turn = np.empty(INTERVALS)
    for i in range(INTERVALS):
        dx, dy = reference[i + 1, 0] - reference[i, 0], reference[i + 1, 1] - reference[i, 1]
        along[i] = math.cos(reference[i, 2]) * dx + math.sin(reference[i, 2]) * dy
        difference = reference[i + 1, 2] - reference[i, 2]
        turn[i] = math.atan2(math.sin(difference), math.cos(difference))
    speed = np.empty(INTERVALS)
    for i in range(INTERVALS):
        total = 0.0
        for j in range(INTERVALS):
            total += smoother[i, j] * along[j]
        speed[i] = total

    # Curvatures k minimise sum (v dt k - turn)^2 + penalty * sum (dk / dt)^2 + 1e-10 k0^2: a chain, so eliminate it
    # from its end. Every pivot is a sum of positive terms: no cancellation, whatever the speeds.
    coupling = _CURVATURE_RATE_PENALTY / _STEP_S**2
    pivot = np.empty(INTERVALS)
    right = np.empty(INTERVALS)
    for i in range(INTERVALS - 1, -1, -1):
        moved = speed[i] * _STEP_S
        pivot[i] = moved * moved
        right[i] = moved * turn[i]
        if i < INTERVALS - 1:
            share = coupling / (coupling + pivot[i + 1])
            pivot[i] += share * pivot[i + 1]
            right[i] += share * right[i + 1]
    curvature = np.empty(INTERVALS)
    curvature[0] = right[0] / (pivot[0] + _INITIAL_CURVATURE_PENALTY)
    for i in range(1, INTERVALS):
        curvature[i] = (coupling * curvature[i - 1] + right[i]) / (coupling + pivot[i])
    return speed, curvature


@kernel
def _steering_rate(state: Array, pose: Array, acceleration: float, curvature: Array, step: int) -> float:
    """One-step lateral regulator: the constant steering rate that brings the car back onto the reference."""
    last = min(step + _HORIZON, INTERVALS - 1)
    dx, dy = state[X] - pose[0], state[Y] - pose[1]
    sin, cos = math.sin(pose[2]), math.cos(pose[2])
    heading_error = state[HEADING] - pose[2]
    # Error propagated without input (lateral, heading, steering), and its response to a unit steering rate.
    lateral = -dx * sin + dy * cos
    heading = math.atan2(math.sin(heading_error), math.cos(heading_error))
    steering = state[STEERING]
    lateral_gain = heading_gain = steering_gain = 0.0
    speed = state[VX]
    for i in range(_HORIZON):
        lateral += speed * _STEP_S * heading
        heading += speed * _STEP_S / EGO_WHEEL_BASE_M * steering
        heading -= speed * _STEP_S * curvature[min(step + i, last)]
        lateral_gain += speed * _STEP_S * heading_gain
        heading_gain += speed * _STEP_S / EGO_WHEEL_BASE_M * steering_gain
        steering_gain += _STEP_S
        speed += acceleration * _STEP_S
    heading = math.atan2(math.sin(heading), math.cos(heading))
    weighted_gain = _LATERAL_WEIGHT * lateral_gain**2 + _HEADING_WEIGHT * heading_gain**2
    weighted_error = _LATERAL_WEIGHT * lateral_gain * lateral + _HEADING_WEIGHT * heading_gain * heading
    return -weighted_error / (weighted_gain + 1.0)


@kernel
def _simulate(references: Array, ego_state: Array, smoother: Array) -> Array:
    states = np.empty((len(references), ROLLOUT_STATES, 11))
    look_ahead_s = _HORIZON * _STEP_S
    for plan in range(len(references)):
        reference = references[plan]
        speed, curvature = _speed_and_curvature(reference, smoother)
        states[plan, 0] = ego_state
        for step in range(INTERVALS):
            state = states[plan, step]
            wanted = speed[min(step + _HORIZON, INTERVALS - 1)]
            if wanted <= _STOPPING_SPEED_MPS and state[VX] <= _STOPPING_SPEED_MPS:
                acceleration = -_STOPPING_GAIN * (state[VX] - wanted)
                steering_rate = 0.0
            else:
                gain = look_ahead_s * _SPEED_WEIGHT / (look_ahead_s * _SPEED_WEIGHT * look_ahead_s + 1.0)
                acceleration = -gain * (state[VX] - wanted)
                steering_rate = _steering_rate(state, reference[step], acceleration, curvature, step)
            step_bicycle(state, acceleration, steering_rate, states[plan, step + 1])
    return states


def simulate(reference_world: Array, ego_state: Array) -> Array:
    """Drive the ego vehicle along reference poses.

    Args:
        reference_world: [..., 41, 3] rear-axle poses every 0.1 s, the first one now (m, rad, world frame).
        ego_state: [11] state now, in NAVSIM's order.
    Returns:
        [..., 41, 11] simulated states.
    Raises:
        ValueError: the last axes are not (41, 3).
    Source: navsim `PDMSimulator`, `BatchLQRTracker`, `BatchKinematicBicycleModel`.
    Differs: direct solves where the devkit takes pseudo-inverses (agreement below 1e-9 where those succeed).
    """
    reference_world = np.asarray(reference_world, dtype=np.float64)
    if reference_world.shape[-2:] != (ROLLOUT_STATES, 3):
        raise ValueError(f"reference poses must be [..., {ROLLOUT_STATES}, 3], got {reference_world.shape}")
    flat = np.ascontiguousarray(reference_world.reshape(-1, ROLLOUT_STATES, 3))
    states = _simulate(flat, np.ascontiguousarray(ego_state, dtype=np.float64), _SPEED_SMOOTHER)
    return states.reshape(*reference_world.shape[:-1], 11)
