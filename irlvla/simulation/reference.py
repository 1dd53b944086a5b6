"""From a plan in the ego frame to the 41 world poses that the tracker follows."""

import math

import numpy as np
from numpy.typing import NDArray

from irlvla.geometry import REAR_AXLE_TO_CENTER_M
from irlvla.simulation.bicycle import wrap_half_open
from irlvla.simulation.kernels import kernel
from irlvla.types import Array

_HORIZON_S = 4.0


def plan_times_us(now_us: int, poses: int) -> NDArray[np.int64]:
    """Times (us) of the current pose and of a plan's 8 or 40 poses: [poses + 1].

    The official devkit adds seconds as floats and truncates, so some times come out one microsecond early.
    """
    step_s = _HORIZON_S / poses
    seconds = np.arange(0.0, poses * step_s, step_s) + step_s + now_us * 1e-6
    return np.concatenate([[now_us], (seconds * 1e6).astype(np.int64)])


def rollout_times_us(now_us: int) -> NDArray[np.int64]:
    """Times (us) of the 41 simulated states, truncated like the plan's."""
    seconds = np.arange(0.0, _HORIZON_S + 0.1, 0.1) + now_us * 1e-6
    return (seconds * 1e6).astype(np.int64)


@kernel
def through_center(x: float, y: float, heading: float) -> tuple[float, float]:
    """Rear axle after a detour over the vehicle's center, which is what nuPlan's EgoState stores.

    Costs one rounding (about 1e-9 m in UTM), kept because strict comparisons downstream can see it.
    """
    cos, sin = math.cos(heading), math.sin(heading)
    center_x, center_y = x + REAR_AXLE_TO_CENTER_M * cos, y + REAR_AXLE_TO_CENTER_M * sin
    return center_x + (-REAR_AXLE_TO_CENTER_M) * cos, center_y + (-REAR_AXLE_TO_CENTER_M) * sin


@kernel
def _interpolate(knots: Array, knot_us: NDArray[np.int64], query_us: NDArray[np.int64], out: Array) -> None:
    """Poses at the query times, linear between knots [K, 3] whose headings are unwrapped in place."""
    for i in range(1, len(knots)):
        turn = knots[i, 2] - knots[i - 1, 2]
        wrapped = wrap_half_open(turn)
        if wrapped == -math.pi and turn > 0:
            wrapped = math.pi
        if abs(turn) >= math.pi:
            knots[i:, 2] += wrapped - turn
    interval = 1
    for q in range(len(query_us)):
        time = min(max(query_us[q], knot_us[0]), knot_us[-1])
        while knot_us[interval] < time:
            interval += 1
        span = float(knot_us[interval] - knot_us[interval - 1])
        along = float(time - knot_us[interval - 1])
        before, after = knots[interval - 1], knots[interval]
        x = (after[0] - before[0]) / span * along + before[0]
        y = (after[1] - before[1]) / span * along + before[1]
        heading = wrap_half_open((after[2] - before[2]) / span * along + before[2])
        out[q, 0], out[q, 1] = through_center(x, y, heading)
        out[q, 2] = heading


@kernel
def _references(
    poses_ego: Array, ego_pose_world: Array, knot_us: NDArray[np.int64], query_us: NDArray[np.int64]
) -> Array:
    out = np.empty((len(poses_ego), len(query_us), 3))
    knots = np.empty((poses_ego.shape[1] + 1, 3))
    cos, sin = math.cos(ego_pose_world[2]), math.sin(ego_pose_world[2])
    for plan in range(len(poses_ego)):
        knots[0] = ego_pose_world
        for i in range(poses_ego.shape[1]):
            x, y, heading = poses_ego[plan, i, 0], poses_ego[plan, i, 1], poses_ego[plan, i, 2]
            heading_cos = cos * math.cos(heading) - sin * math.sin(heading)
            heading_sin = sin * math.cos(heading) + cos * math.sin(heading)
            world_heading = math.atan2(heading_sin, heading_cos)
            world_x, world_y = cos * x - sin * y + ego_pose_world[0], sin * x + cos * y + ego_pose_world[1]
            knots[i + 1, 0], knots[i + 1, 1] = through_center(world_x, world_y, world_heading)
            knots[i + 1, 2] = world_heading
        _interpolate(knots, knot_us, query_us, out[plan])
    return out


def reference_poses(poses_ego: Array, ego_pose_world: Array, now_us: int) -> Array:
    """World poses every 0.1 s that a plan asks for.

    Args:
        poses_ego: [C, 8, 3] poses 0.5 s apart or [C, 40, 3] poses 0.1 s apart, in the ego frame (m, rad).
        ego_pose_world: [3] rear axle now.
        now_us: Time of the current frame (us); the official devkit's rounding depends on it.
    Returns:
        [C, 41, 3] the current pose first.
    Source: navsim `transform_trajectory`, `get_trajectory_as_array`; nuplan-devkit v1.2 `InterpolatedTrajectory`.
    """
    poses_ego = np.ascontiguousarray(poses_ego, dtype=np.float64)
    return _references(
        poses_ego,
        np.ascontiguousarray(ego_pose_world, dtype=np.float64),
        plan_times_us(now_us, poses_ego.shape[1]),
        rollout_times_us(now_us),
    )


def resample_poses(poses: Array, times_us: NDArray[np.int64], query_us: NDArray[np.int64]) -> Array:
    """Poses [Q, 3] at the query times (clipped to the ends), linear between given world poses [K, 3]."""
    out = np.empty((len(query_us), 3))
    _interpolate(np.array(poses, dtype=np.float64), times_us, query_us, out)
    return out
