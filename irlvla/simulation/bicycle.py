"""The kinematic bicycle that carries the simulated ego vehicle from one state to the next."""

import math

from irlvla.geometry import EGO_WHEEL_BASE_M
from irlvla.simulation.kernels import kernel
from irlvla.types import Array

# The state's entries, in NAVSIM's order.
X, Y, HEADING, VX, VY, AX, AY, STEERING, STEERING_RATE, YAW_RATE, YAW_ACCELERATION = range(11)

# nuplan-devkit counts time in microseconds; 0.1 s comes back as 0.09999999999999999 s.
_STEP_S = 100_000 * 1e-6
_ACCELERATION_LAG_S = 0.2
_STEERING_LAG_S = 0.05
_MAX_STEERING_RAD = math.pi / 3


@kernel
def wrap_half_open(angle_rad: float) -> float:
    """Bring an angle into [-pi, pi) by modulo, as nuPlan's `principal_value` does."""
    return (angle_rad + math.pi) % (2 * math.pi) - math.pi


@kernel
def step_bicycle(state: Array, acceleration_mps2: float, steering_rate_radps: float, next_state: Array) -> None:
    """Advance the ego vehicle by 0.1 s under low-pass filtered commands.

    Args:
        state: [11] state now.
        acceleration_mps2: Commanded longitudinal acceleration at the rear axle.
        steering_rate_radps: Commanded steering rate.
        next_state: [11] written in place.
    Source: nuplan-devkit v1.2 `KinematicBicycleModel`, navsim `BatchKinematicBicycleModel`.
    """
    speed, heading, steering = state[VX], state[HEADING], state[STEERING]
    acceleration = _STEP_S / (_STEP_S + _ACCELERATION_LAG_S) * (acceleration_mps2 - state[AX]) + state[AX]
    wanted_steering = _STEP_S * steering_rate_radps + steering
    lagged_steering = _STEP_S / (_STEP_S + _STEERING_LAG_S) * (wanted_steering - steering) + steering
    steering_rate = (lagged_steering - steering) / _STEP_S

    next_state[X] = state[X] + speed * math.cos(heading) * _STEP_S
    next_state[Y] = state[Y] + speed * math.sin(heading) * _STEP_S
    next_state[HEADING] = wrap_half_open(heading + speed * math.tan(steering) / EGO_WHEEL_BASE_M * _STEP_S)
    next_state[VX] = speed + acceleration * _STEP_S
    next_state[VY] = 0.0
    next_state[AX] = acceleration
    next_state[AY] = 0.0
    next_state[STEERING] = min(max(steering + steering_rate * _STEP_S, -_MAX_STEERING_RAD), _MAX_STEERING_RAD)
    next_state[STEERING_RATE] = steering_rate
    next_state[YAW_RATE] = next_state[VX] * math.tan(next_state[STEERING]) / EGO_WHEEL_BASE_M
    next_state[YAW_ACCELERATION] = (next_state[YAW_RATE] - state[YAW_RATE]) / _STEP_S
