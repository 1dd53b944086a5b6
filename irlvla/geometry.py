"""Frames and shapes: poses, boxes and the ego vehicle's outline.

Frames: *world* is the map's projected (UTM) frame in metres; *ego* has its origin at the rear axle at t=0,
x forward, y left; headings are radians, counter-clockwise from x.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Chrysler Pacifica as nuPlan and NAVSIM model it (nuplan-devkit v1.2, `get_pacifica_parameters`).
EGO_LENGTH_M = 5.176
EGO_WIDTH_M = 2.297
EGO_WHEEL_BASE_M = 3.089
REAR_AXLE_TO_CENTER_M = 1.461
EGO_FRONT_M = EGO_LENGTH_M / 2 + REAR_AXLE_TO_CENTER_M
"""Front bumper ahead of the rear axle."""
GROUND_Z_M = -0.35
"""Height of the street in the ego frame, whose origin is the rear axle; measured at the boxes of nuPlan's logs."""


def wrap_angle(angle_rad: Array) -> Array:
    """Bring angles into [-pi, pi] the way the official devkit does, by arctan2 of sine and cosine."""
    return np.arctan2(np.sin(angle_rad), np.cos(angle_rad))


def yaw_from_quaternion(quaternion_wxyz: Array) -> Array:
    """Heading (rad, counter-clockwise from x) of unit quaternions.

    Args:
        quaternion_wxyz: [..., 4] scalar first.
    Returns:
        [...] yaw; equals pyquaternion's `yaw_pitch_roll[0]`.
    """
    w, x, y, z = np.moveaxis(np.asarray(quaternion_wxyz, dtype=np.float64), -1, 0)
    return np.arctan2(2 * (w * z - x * y), 1 - 2 * (y * y + z * z))


def rotation_from_quaternion(quaternion_wxyz: Array) -> Array:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4], scalar first."""
    q = np.asarray(quaternion_wxyz, dtype=np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def ego_to_world(poses_ego: Array, ego_pose_world: Array) -> Array:
    """Move poses from the ego frame into the world frame.

    Args:
        poses_ego: [..., 3] x forward (m), y left (m), heading (rad).
        ego_pose_world: [3], or broadcastable to [..., 3]: rear axle at t=0.
    Returns:
        [..., 3] in the world frame, heading in [-pi, pi].
    """
    x, y, heading = np.moveaxis(np.asarray(poses_ego, dtype=np.float64), -1, 0)
    ego_x, ego_y, ego_heading = np.moveaxis(np.asarray(ego_pose_world, dtype=np.float64), -1, 0)
    cos, sin = np.cos(ego_heading), np.sin(ego_heading)
    return np.stack([ego_x + cos * x - sin * y, ego_y + sin * x + cos * y, wrap_angle(heading + ego_heading)], axis=-1)


def world_to_ego(poses_world: Array, ego_pose_world: Array) -> Array:
    """Move poses from the world frame into the ego frame; inverse of `ego_to_world`, same shapes."""
    x, y, heading = np.moveaxis(np.asarray(poses_world, dtype=np.float64), -1, 0)
    ego_x, ego_y, ego_heading = np.moveaxis(np.asarray(ego_pose_world, dtype=np.float64), -1, 0)
    cos, sin = np.cos(ego_heading), np.sin(ego_heading)
    dx, dy = x - ego_x, y - ego_y
    return np.stack([cos * dx + sin * dy, -sin * dx + cos * dy, wrap_angle(heading - ego_heading)], axis=-1)


def box_corners(boxes: Array) -> Array:
    """Corners of oriented boxes.

    Args:
        boxes: [..., 5] center x, y, heading, length, width (m, rad), any frame.
    Returns:
        [..., 4, 2] front-left, rear-left, rear-right, front-right (the devkit's order).
    """
    x, y, heading, length, width = np.moveaxis(np.asarray(boxes, dtype=np.float64), -1, 0)
    lon = np.stack([length, -length, -length, length], axis=-1) / 2
    lat = np.stack([width, width, -width, -width], axis=-1) / 2
    cos, sin = np.cos(heading)[..., None], np.sin(heading)[..., None]
    return np.stack([x[..., None] + lon * cos - lat * sin, y[..., None] + lon * sin + lat * cos], axis=-1)


def ego_boxes(poses: Array) -> Array:
    """Boxes [..., 5] (center x, y, heading, length, width) of the ego vehicle at rear-axle poses [..., 3]."""
    poses = np.asarray(poses, dtype=np.float64)
    heading = poses[..., 2]
    size = np.broadcast_to([EGO_LENGTH_M, EGO_WIDTH_M], (*poses.shape[:-1], 2))
    center = poses[..., :2] + REAR_AXLE_TO_CENTER_M * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    return np.concatenate([center, heading[..., None], size], axis=-1)


def headings_along(positions_ego: Array) -> Array:
    """Poses of plans that are given as positions only: headed as the path runs, exact on circular arcs.

    A step shorter than 5 cm has no direction of its own and keeps the one before it, at first straight ahead.

    Args:
        positions_ego: [..., P, 2] in the ego frame (m), evenly spaced in time; the path starts at the origin.
    Returns:
        [..., P, 3] with headings (rad).

    Example:
        >>> headings_along(np.array([[2.0, 0.0], [4.0, 0.0], [4.0, 2.0], [4.0, 2.0]])).round(2)
        array([[2.  , 0.  , 0.  ],
               [4.  , 0.  , 0.79],
               [4.  , 2.  , 1.57],
               [4.  , 2.  , 1.57]])
    """
    positions = np.asarray(positions_ego, dtype=np.float64)
    start = np.zeros((*positions.shape[:-2], 1, 2))
    dx, dy = np.moveaxis(np.diff(np.concatenate([start, positions], axis=-2), axis=-2), -1, 0)
    directions = np.arctan2(dy, dx)
    for step in range(positions.shape[-2]):
        before = directions[..., step - 1] if step else np.zeros(positions.shape[:-2])
        stands = np.hypot(dx[..., step], dy[..., step]) < 0.05
        directions[..., step] = np.where(stands, before, directions[..., step])
    directions = np.unwrap(directions, axis=-1)
    # A pose lies between the steps that lead to it and away from it; the last one turns on as the one before did.
    turns = np.diff(directions, axis=-1)
    turns = np.concatenate([turns, turns[..., -1:]], axis=-1) if turns.shape[-1] else np.zeros_like(directions)
    return np.concatenate([positions, wrap_angle(directions + turns / 2)[..., None]], axis=-1)
