"""Smooth motion: what SUMO drove, turned into poses that a car could have driven.

SUMO moves front bumpers along lane polylines and jerks its speed a little; here the front bumper's path and progress
are smoothed, and the body follows as a kinematic bicycle does: the rear axle trails a guide point ahead of it.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from irlvla.geometry import EGO_LENGTH_M, REAR_AXLE_TO_CENTER_M

Array = NDArray[np.float64]

STEP_S = 0.1
PATH_STEP_M = 0.25
SMOOTHING_STEPS = 5.0
# Rear overhang of the ego vehicle: its box reaches this far behind the rear axle.
EGO_REAR_OVERHANG_M = EGO_LENGTH_M / 2 - REAR_AXLE_TO_CENTER_M


@dataclass(frozen=True)
class Track:
    """One road user over time, in network coordinates, every 0.1 s."""

    name: str
    kind: str
    """SUMO vehicle type, or "pedestrian"."""
    first_step: int
    size_m: tuple[float, float, float]
    """Length, width, height."""
    rear_axle: Array
    """[T, 3] x, y, heading (unwrapped)."""
    center: Array
    """[T, 3] box center x, y and heading (unwrapped)."""
    velocity_mps: Array
    """[T, 2] of the box center."""
    speed_mps: Array
    """[T] of the rear axle along its heading."""
    lanes: NDArray[np.object_]
    """[T] SUMO lane of the front bumper."""

    def __len__(self) -> int:
        return len(self.center)

    @property
    def last_step(self) -> int:
        return self.first_step + len(self) - 1


@numba.njit(cache=True)
def _trail(guide: Array, tangent: Array, guide_to_axle_m: float, step_m: float) -> Array:
    """Headings of a body whose rear axle trails a guide point: d heading / ds = sin(tangent - heading) / distance."""
    heading = np.empty(len(guide))
    heading[0] = tangent[0]
    for k in range(1, len(guide)):
        heading[k] = heading[k - 1] + step_m * np.sin(tangent[k - 1] - heading[k - 1]) / guide_to_axle_m
    return heading


def resampled(points: Array) -> tuple[Array, Array]:
    """Arc length [M] about every PATH_STEP_M of a polyline [N, 2], and its points [M, 2] there."""
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    at = np.linspace(0.0, length[-1], max(2, round(length[-1] / PATH_STEP_M) + 1))
    return at, np.stack([np.interp(at, length, points[:, 0]), np.interp(at, length, points[:, 1])], axis=1)


def smooth_path(points: Array, sigma_m: float) -> tuple[Array, Array]:
    """Resample a polyline every PATH_STEP_M and round its corners, keeping both ends in place.

    Args:
        points: [N, 2] distinct consecutive points.
    Returns:
        [M, 2] points, and [M] arc length of the *original* polyline at each of them.
    """
    at, dense = resampled(points)
    if sigma_m <= 0 or len(dense) < 5:
        return dense, at
    reach = min(len(dense) - 1, round(4 * sigma_m / PATH_STEP_M))
    # Point reflection at the ends is odd, so the Gaussian leaves both end points where they are.
    before = 2 * dense[0] - dense[reach:0:-1]
    after = 2 * dense[-1] - dense[-2 : -reach - 2 : -1]
    smooth = gaussian_filter1d(np.concatenate([before, dense, after]), sigma_m / PATH_STEP_M, axis=0, mode="nearest")
    return smooth[reach : reach + len(dense)], at


@dataclass(frozen=True)
class Outline:
    """A vehicle's measures along its length."""

    is_ego: bool
    size_m: tuple[float, float, float]
    rear_overhang_m: float
    guide_to_axle_m: float
    """The rear axle trails a guide point this far ahead of it."""

    @staticmethod
    def of(kind: str, size_m: tuple[float, ...]) -> "Outline":
        """Outline of a vehicle of a SUMO type."""
        length = size_m[0]
        is_ego = kind.startswith("ego")
        return Outline(
            is_ego,
            (size_m[0], size_m[1], size_m[2]),
            EGO_REAR_OVERHANG_M if is_ego else 0.2 * length,
            2.0 if is_ego else max(0.4, 0.4 * length),
        )

    @property
    def front_to_axle_m(self) -> float:
        return self.size_m[0] - self.rear_overhang_m

    def guide_points(self, front: Array) -> tuple[Array, Array, float]:
        """The line of the front bumper, with a lead-in for the body behind it.

        Args:
            front: [T, 2] front bumper.
        Returns:
            [N, 2] distinct points, [T] distance driven, and the lead-in's length.
        """
        moved = np.hypot(*np.diff(front, axis=0).T)
        progress = np.concatenate([[0.0], np.cumsum(moved)])
        # Points closer than this are standing still with lateral jitter; they would give wild tangents.
        points = front[np.r_[True, moved > 0.02]]
        if len(points) < 2:
            points = np.stack([front[0], front[0] + _lane_start_direction(front)])
        ahead = _unit(points[min(len(points) - 1, 5)] - points[0])
        origin = points[0] - ahead * (self.front_to_axle_m + 0.5)
        return np.concatenate([[origin], points]), progress, float(np.hypot(*(points[0] - origin)))


def trailed_path(guide: Array, step_m: float, guide_to_axle_m: float) -> Array:
    """Rear-axle poses [M, 3] of a body whose guide point moves along a line [M, 2] of even steps."""
    tangent = np.unwrap(np.arctan2(np.gradient(guide[:, 1]), np.gradient(guide[:, 0])))
    heading = _trail(guide, tangent, guide_to_axle_m, step_m)
    axle = guide - guide_to_axle_m * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    return np.concatenate([axle, heading[:, None]], axis=1)


def vehicle_track(
    name: str, kind: str, first_step: int, front: Array, lanes: NDArray[np.object_], size_m: tuple[float, ...]
) -> Track:
    """Track of a car, truck or bicycle from its front-bumper positions.

    Args:
        first_step: Recorded step of the first position.
        front: [T, 2] front bumper in network coordinates, 0.1 s apart.
        lanes: [T] SUMO lane ids.
        size_m: Length, width, height.
    """
    outline = Outline.of(kind, size_m)
    points, progress, lead_in_m = outline.guide_points(front)
    guide, at = smooth_path(points, 1.6)
    axle = trailed_path(guide, float(at[1] - at[0]), outline.guide_to_axle_m)
    smooth_progress = np.maximum.accumulate(_smooth_in_time(progress))
    guide_at = lead_in_m + smooth_progress - (outline.front_to_axle_m - outline.guide_to_axle_m)
    poses = np.stack([np.interp(guide_at, at, column) for column in axle.T], axis=1)
    return assembled_track(name, kind, first_step, outline, poses, lanes)


def assembled_track(
    name: str, kind: str, first_step: int, outline: Outline, poses: Array, lanes: NDArray[np.object_]
) -> Track:
    """Track of a vehicle from its rear-axle poses [T, 3], 0.1 s apart, heading unwrapped."""
    direction = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=1)
    center = poses[:, :2] + (outline.size_m[0] / 2 - outline.rear_overhang_m) * direction
    velocity = np.gradient(center, STEP_S, axis=0) if len(center) > 1 else np.zeros((1, 2))
    speed = np.sum(np.gradient(poses[:, :2], STEP_S, axis=0) * direction, axis=1)
    return Track(
        name,
        kind,
        first_step,
        outline.size_m,
        poses,
        np.concatenate([center, poses[:, 2:]], axis=1),
        velocity,
        speed,
        lanes,
    )


def standing_track(
    name: str,
    kind: str,
    first_step: int,
    front: Array,
    heading: float,
    lanes: NDArray[np.object_],
    size_m: tuple[float, ...],
) -> Track:
    """Track of a vehicle that never moves; its path cannot tell its heading.

    Args:
        front: [2] front bumper in network coordinates.
        lanes: [T] SUMO lane ids, one for every 0.1 s that it is there.
    """
    direction = np.array([np.cos(heading), np.sin(heading)])
    center = np.array([*(front - size_m[0] / 2 * direction), heading])
    rear_overhang = EGO_REAR_OVERHANG_M if kind.startswith("ego") else 0.2 * size_m[0]
    axle = np.array([*(front - (size_m[0] - rear_overhang) * direction), heading])
    count = len(lanes)
    return Track(
        name,
        kind,
        first_step,
        (size_m[0], size_m[1], size_m[2]),
        np.tile(axle, (count, 1)),
        np.tile(center, (count, 1)),
        np.zeros((count, 2)),
        np.zeros(count),
        lanes,
    )


def pedestrian_track(name: str, first_step: int, xy: Array, lanes: NDArray[np.object_]) -> Track:
    """Track of a walking person; the heading follows the smoothed walk and is held while standing."""
    smooth = _smooth_in_time(xy)
    velocity = np.gradient(smooth, STEP_S, axis=0)
    speed = np.hypot(*velocity.T)
    moving = speed > 0.15
    if moving.any():
        last = np.maximum.accumulate(np.where(moving, np.arange(len(xy)), np.flatnonzero(moving)[0]))
        heading = np.unwrap(np.arctan2(velocity[last, 1], velocity[last, 0]))
        heading = gaussian_filter1d(heading, 3.0, mode="nearest")
    else:
        heading = np.zeros(len(xy))
    pose = np.concatenate([smooth, heading[:, None]], axis=1)
    return Track(name, "pedestrian", first_step, (0.7, 0.7, 1.75), pose, pose, velocity, speed, lanes)


def _smooth_in_time(values: Array) -> Array:
    """Gaussian of 0.5 s over [T] or [T, 2] values; beyond both ends the motion goes on as it was."""
    reach = min(len(values) - 1, round(4 * SMOOTHING_STEPS))
    if reach < 1:
        return values
    before = 2 * values[0] - values[reach:0:-1]
    after = 2 * values[-1] - values[-2 : -reach - 2 : -1]
    smooth = gaussian_filter1d(np.concatenate([before, values, after]), SMOOTHING_STEPS, axis=0, mode="nearest")
    return np.asarray(smooth[reach : reach + len(values)])


def _unit(vector: Array) -> Array:
    return vector / max(float(np.hypot(*vector)), 1e-9)


def _lane_start_direction(front: Array) -> Array:
    drift = front[-1] - front[0]
    return _unit(drift) if np.hypot(*drift) > 1e-6 else np.array([1.0, 0.0])
