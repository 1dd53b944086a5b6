"""A spinning LiDAR on the roof: rays against the ground, road users, furniture, buildings and trees."""

import numba
import numpy as np
from numpy.typing import NDArray

from irlvla.geometry import GROUND_Z_M
from irlvla.world.logs import KeyFrame
from irlvla.world.rig import LIDAR_FORWARD_M, LIDAR_HEIGHT_M
from irlvla.world.scenery import Scenery

Array = NDArray[np.float64]

AZIMUTHS = 360
ELEVATIONS_RAD = np.radians(np.linspace(-20.0, 5.0, 16))
RANGE_M = 60.0
RANGE_NOISE_M = 0.02
DROPOUT = 0.04


@numba.njit(cache=True)
def _cast(
    boxes: Array, sensor: Array, azimuths: Array, slopes: Array, range_m: float
) -> tuple[Array, NDArray[np.int64]]:
    """Distances over ground [A, E] of the first hit of each ray (inf: none) and what was hit (-1: the ground)."""
    distance = np.full((len(azimuths), len(slopes)), np.inf)
    hit = np.full((len(azimuths), len(slopes)), -1, dtype=np.int64)
    for a in range(len(azimuths)):
        dx, dy = np.cos(azimuths[a]), np.sin(azimuths[a])
        for e in range(len(slopes)):
            if slopes[e] < 0:
                ground = -sensor[2] / slopes[e]
                if ground < range_m:
                    distance[a, e] = ground
        for b in range(len(boxes)):
            rx, ry = boxes[b, 0] - sensor[0], boxes[b, 1] - sensor[1]
            half_length, half_width = boxes[b, 3] / 2, boxes[b, 4] / 2
            reach = np.sqrt(half_length * half_length + half_width * half_width)
            if abs(rx * dy - ry * dx) > reach or rx * dx + ry * dy < -reach:
                continue
            cos, sin = np.cos(boxes[b, 6]), np.sin(boxes[b, 6])
            ox, oy = -(cos * rx + sin * ry), -(-sin * rx + cos * ry)
            vx, vy = cos * dx + sin * dy, -sin * dx + cos * dy
            enter, leave = 0.0, range_m
            for axis in range(2):
                o, v, half = (ox, vx, half_length) if axis == 0 else (oy, vy, half_width)
                if abs(v) < 1e-9:
                    if abs(o) > half:
                        enter = np.inf
                else:
                    t0, t1 = (-half - o) / v, (half - o) / v
                    enter, leave = max(enter, min(t0, t1)), min(leave, max(t0, t1))
            if enter >= leave or enter <= 0.0:
                continue
            low, high = boxes[b, 2] - boxes[b, 5] / 2, boxes[b, 2] + boxes[b, 5] / 2
            for e in range(len(slopes)):
                at = enter
                z = sensor[2] + slopes[e] * at
                if z > high and slopes[e] < 0:
                    # The ray passes over the near edge; it may still come down on the top.
                    at = (high - sensor[2]) / slopes[e]
                    z = high
                    if at > leave:
                        continue
                if low <= z <= high and at < distance[a, e]:
                    distance[a, e] = at
                    hit[a, e] = b
    return distance, hit


def sweep(frame: KeyFrame, scenery: Scenery, rng: np.random.Generator) -> NDArray[np.float32]:
    """One LiDAR sweep at a keyframe.

    Returns:
        [N, 6] x, y, z (m, ego frame), intensity (0-255), ring, LiDAR id; rays without return are left out.
    """
    boxes = _boxes(frame, scenery)
    azimuths = np.linspace(-np.pi, np.pi, AZIMUTHS, endpoint=False)
    slopes = np.tan(ELEVATIONS_RAD)
    sensor = np.array([LIDAR_FORWARD_M, 0.0, LIDAR_HEIGHT_M])
    distance, hit = _cast(boxes, sensor, azimuths, slopes, RANGE_M)
    noisy = distance + rng.normal(0.0, RANGE_NOISE_M, distance.shape)
    seen = np.isfinite(distance) & (rng.uniform(size=distance.shape) >= DROPOUT)
    a, e = np.nonzero(seen)
    r = noisy[a, e]
    points = np.zeros((len(a), 6), dtype=np.float32)
    points[:, 0] = sensor[0] + r * np.cos(azimuths[a])
    points[:, 1] = sensor[1] + r * np.sin(azimuths[a])
    points[:, 2] = sensor[2] + r * slopes[e] + GROUND_Z_M
    brightness = np.where(hit[a, e] < 0, 12.0, 40.0 + 25.0 * (hit[a, e] % 5))
    points[:, 3] = np.clip(np.round(brightness * np.exp(-r / 80.0)), 0, 255)
    points[:, 4] = e
    return points


def _boxes(frame: KeyFrame, scenery: Scenery) -> Array:
    """[N, 7] everything solid near the ego, in the ego frame."""
    x, y, heading = frame.ego_pose
    cos, sin = np.cos(heading), np.sin(heading)
    solid = [np.array([item.box for item in frame.objects]).reshape(-1, 7)]
    houses = scenery.buildings
    houses = houses[np.hypot(houses[:, 0] - x, houses[:, 1] - y) < RANGE_M + 20.0]
    trees = scenery.trees
    trees = trees[np.hypot(trees[:, 0] - x, trees[:, 1] - y) < RANGE_M]
    for rows in (houses, trees):
        if not len(rows):
            continue
        dx, dy = rows[:, 0] - x, rows[:, 1] - y
        out = np.zeros((len(rows), 7))
        out[:, 0], out[:, 1] = cos * dx + sin * dy, -sin * dx + cos * dy
        if rows is houses:
            out[:, 2], out[:, 3], out[:, 4], out[:, 5] = rows[:, 5] / 2, rows[:, 3], rows[:, 4], rows[:, 5]
            out[:, 6] = rows[:, 2] - heading
        else:
            # Only the trunk is solid enough for a sure return.
            out[:, 2], out[:, 3], out[:, 4], out[:, 5] = rows[:, 2] / 4, 0.3, 0.3, rows[:, 2] / 2
        solid.append(out)
    return np.concatenate(solid)
