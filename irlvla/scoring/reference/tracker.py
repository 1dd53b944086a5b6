"""The LQR tracker and the bicycle, by matrices as textbooks write them."""

import numpy as np

from irlvla.geometry import EGO_WHEEL_BASE_M, wrap_angle
from irlvla.simulation.tracker import speed_fit_matrices
from irlvla.types import Array

_STEP_S = 0.1
_HORIZON = 10


def profiles(reference: Array) -> tuple[Array, Array]:
    """Speed (m/s) and curvature (1/m) [40] that reference poses [41, 3] ask for."""
    moved = np.diff(reference, axis=0)
    along = np.cos(reference[:-1, 2]) * moved[:, 0] + np.sin(reference[:-1, 2]) * moved[:, 1]
    normal, to_rhs = speed_fit_matrices()
    integrate = np.tri(40) * _STEP_S
    integrate[:, 0] = 1.0
    speed = integrate @ np.linalg.solve(normal, to_rhs @ along)
    turned = (speed * _STEP_S)[:, None] * integrate
    penalty = np.diag([1e-10] + [1e-2] * 39)
    curvature = integrate @ np.linalg.solve(turned.T @ turned + penalty, turned.T @ wrap_angle(moved[:, 2]))
    return speed, curvature


def _command(state: Array, step: int, reference: Array, speed: Array, curvature: Array) -> tuple[float, float]:
    """Acceleration and steering rate at one step."""
    last = min(step + _HORIZON, 39)
    wanted = speed[last]
    if wanted <= 0.2 and state[3] <= 0.2:
        return -0.5 * (state[3] - wanted), 0.0
    acceleration = -10.0 / 11.0 * (state[3] - wanted)
    to_lateral = np.array([-np.sin(reference[step, 2]), np.cos(reference[step, 2])])
    error = np.array(
        [to_lateral @ (state[:2] - reference[step, :2]), wrap_angle(state[2] - reference[step, 2]), state[7]]
    )
    response = np.zeros(3)
    for i in range(_HORIZON):
        speed_then = state[3] + i * _STEP_S * acceleration
        propagate = np.eye(3)
        propagate[0, 1], propagate[1, 2] = speed_then * _STEP_S, speed_then * _STEP_S / EGO_WHEEL_BASE_M
        turn = speed_then * _STEP_S * curvature[min(step + i, last)]
        error = propagate @ error - np.array([0.0, turn, 0.0])
        response = propagate @ response + np.array([0.0, 0.0, _STEP_S])
    error[1:] = wrap_angle(error[1:])
    weights = np.diag([1.0, 10.0, 0.0])
    return acceleration, float(-(response @ weights @ error) / (response @ weights @ response + 1.0))


def simulate(reference: Array, ego_state: Array) -> Array:
    """States [41, 11] of the ego vehicle when it tracks reference poses [41, 3]."""
    speed, curvature = profiles(reference)
    states = np.zeros((41, 11))
    states[0] = ego_state
    for step in range(40):
        now, then = states[step], states[step + 1]
        acceleration, steering_rate = _command(now, step, reference, speed, curvature)
        then[0] = now[0] + _STEP_S * now[3] * np.cos(now[2])
        then[1] = now[1] + _STEP_S * now[3] * np.sin(now[2])
        then[2] = wrap_angle(now[2] + _STEP_S * now[3] * np.tan(now[7]) / EGO_WHEEL_BASE_M)
        then[5] = now[5] + _STEP_S / (_STEP_S + 0.2) * (acceleration - now[5])
        then[3] = now[3] + _STEP_S * then[5]
        then[8] = steering_rate * _STEP_S / (_STEP_S + 0.05)
        then[7] = np.clip(now[7] + _STEP_S * then[8], -np.pi / 3, np.pi / 3)
        then[9] = then[3] * np.tan(then[7]) / EGO_WHEEL_BASE_M
        then[10] = (then[9] - now[9]) / _STEP_S
    return states
