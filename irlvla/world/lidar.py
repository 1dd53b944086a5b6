"""Five spinning LiDARs: every ray ends on the shape that a view from the sensor shows in its direction.

Rays and images thus see the very same bodies, crowns and fences. What comes back depends on distance, on the angle at
which the surface is struck, on what it is made of, and on rain and fog.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from irlvla.geometry import EGO_LENGTH_M, EGO_WIDTH_M, GROUND_Z_M, REAR_AXLE_TO_CENTER_M
from irlvla.world.appearance import Weather
from irlvla.world.raster import (
    ASPHALT,
    CONCRETE,
    FOLIAGE,
    GLASS,
    GLOSS,
    GLOW,
    LAND,
    LAWN,
    PAINT,
    PAVING,
    SIGN,
    SKY,
    Mesh,
    View,
    blank,
    draw,
)
from irlvla.world.rig import LIDARS, MountedLidar

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

SAMPLES_A_RADIAN = 200.0
RANGE_NOISE_M = 0.015
_FACE_RAD = np.pi / 2


@dataclass(frozen=True)
class _Face:
    """A quarter of a turn, as one pinhole view."""

    rotation_ego: Array
    focal: float
    center_column: float
    center_row: float
    rows: int
    columns: int
    rays: Floats
    """[R, 2] x and y of rays (x, y, 1) in the face's camera axes."""
    ring: NDArray[np.int64]
    """[R]"""


def _faces(lidar: MountedLidar) -> list[_Face]:
    around = lidar.facing_rad is None
    middle = 0.0 if lidar.facing_rad is None else lidar.facing_rad
    turns = (
        [middle + k * _FACE_RAD for k in (0, 1, 2, 3)] if around else [middle - _FACE_RAD / 2, middle + _FACE_RAD / 2]
    )
    elevations = np.radians(lidar.elevations_deg)
    count = lidar.azimuths // 4
    azimuths = (np.arange(count) + 0.5) / count * _FACE_RAD - _FACE_RAD / 2
    faces = []
    for turn in turns:
        ring, azimuth = np.meshgrid(np.arange(len(elevations)), azimuths, indexing="ij")
        rays = np.stack([-np.tan(azimuth), -np.tan(elevations[ring]) / np.cos(azimuth)], axis=-1).reshape(-1, 2)
        focal = SAMPLES_A_RADIAN
        low, high = rays.min(axis=0), rays.max(axis=0)
        center_column, center_row = np.ceil(-low[0] * focal) + 1, np.ceil(-low[1] * focal) + 1
        cos, sin = np.cos(turn), np.sin(turn)
        rotation = np.array([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, -1.0, 0.0]])
        faces.append(
            _Face(
                rotation, focal, float(center_column), float(center_row), int(center_row + high[1] * focal) + 3,
                int(center_column + high[0] * focal) + 3, rays.astype(np.float32), ring.reshape(-1),
            )
        )  # fmt: skip
    return faces


_MOUNTED = tuple((lidar, _faces(lidar)) for lidar in LIDARS)


def sweep(
    mesh: Mesh, order: NDArray[np.int64], place: Array, heading: float, weather: Weather, noise: Floats,
    rng: np.random.Generator,
) -> NDArray[np.float32]:  # fmt: skip
    """All LiDARs' points of one moment.

    Args:
        mesh: Everything near, street level at height 0.
        order: Its shapes in drawing order.
        place: [2] rear axle in the frame of the mesh.
        heading: Of the ego.
    Returns:
        [N, 6] x, y, z (m, ego frame), intensity (0-255), ring, LiDAR id; rays without return are left out.
    """
    cos, sin = np.cos(heading), np.sin(heading)
    # The ego itself is not seen.
    x, y = mesh.center[order, 0] - place[0], mesh.center[order, 1] - place[1]
    along, across = cos * x + sin * y - REAR_AXLE_TO_CENTER_M, cos * y - sin * x
    own = (np.abs(along) < EGO_LENGTH_M / 2 + 0.05) & (np.abs(across) < EGO_WIDTH_M / 2) & (order >= mesh.flat)
    order = order[~own]
    far = np.hypot(mesh.center[order, 0] - place[0], mesh.center[order, 1] - place[1]) - mesh.radius[order]
    to_mesh = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    planes = np.zeros((len(mesh.start) - 1, 3))
    clouds = []
    for lidar, faces in _MOUNTED:
        near = order[far < lidar.range_m]
        position = np.array(lidar.position_ego)
        origin = to_mesh @ position + np.array([*place, 0.0])
        for face in faces:
            rotation = to_mesh @ face.rotation_ego
            view = View(rotation, origin, face.focal, face.center_column, face.center_row, face.rows, face.columns)
            ids, nearness = blank(view)
            draw(ids, nearness, planes, mesh, near, view, noise)
            luck = rng.random((len(face.rays), 4), dtype=np.float32)
            points = np.empty((len(face.rays), 4), dtype=np.float32)
            kept = _echoes(points, ids, planes, mesh, view, face.rays, luck, lidar.range_m, weather.rain, weather.wet,
                           weather.haze_m)  # fmt: skip
            rows = np.flatnonzero(kept)
            cloud = np.empty((len(rows), 6), dtype=np.float32)
            cloud[:, :3] = points[rows, :3] @ face.rotation_ego.T.astype(np.float32) + position.astype(np.float32)
            cloud[:, 2] += np.float32(GROUND_Z_M)
            cloud[:, 3] = points[rows, 3]
            cloud[:, 4] = face.ring[rows]
            cloud[:, 5] = lidar.number
            clouds.append(cloud)
    return np.concatenate(clouds)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _echoes(
    points: Floats, ids: NDArray[np.int32], planes: Array, mesh: Mesh, view: View, rays: Floats, luck: Floats,
    range_m: float, rain: float, wet: float, haze_m: float,
) -> NDArray[np.bool_]:  # fmt: skip
    """Returns of rays, in the view's camera axes, with their intensity; and which rays have one.

    Args:
        points: [R, 4] out.
        luck: [R, 4] random numbers in [0, 1): two for the noise of the range, for dropout, for drops in the air.
    """
    kept = np.zeros(len(rays), dtype=np.bool_)
    polygons = len(mesh.start) - 1
    rotation, origin = view.rotation, view.origin
    for k in range(len(rays)):
        ray_x, ray_y = rays[k, 0], rays[k, 1]
        size = np.sqrt(ray_x * ray_x + ray_y * ray_y + 1.0)
        # Drops near the sensor answer before anything else does.
        scatter = 0.012 * rain + min(0.25, 6.0 / haze_m if haze_m < 260.0 else 0.0)
        if luck[k, 3] < scatter:
            distance = 1.5 + 14.0 * (luck[k, 3] / scatter) ** 2
            points[k, 0], points[k, 1] = ray_x / size * distance, ray_y / size * distance
            points[k, 2], points[k, 3] = distance / size, 3.0
            kept[k] = True
            continue
        p = ids[int(view.center_row + ray_y * view.focal + 0.5), int(view.center_column + ray_x * view.focal + 0.5)]
        if p == SKY:
            continue
        wx = rotation[0, 0] * ray_x + rotation[0, 1] * ray_y + rotation[0, 2]
        wy = rotation[1, 0] * ray_x + rotation[1, 1] * ray_y + rotation[1, 2]
        wz = rotation[2, 0] * ray_x + rotation[2, 1] * ray_y + rotation[2, 2]
        level = p == LAND or p < mesh.flat
        if level:
            if wz > -1e-4:
                continue
            t, facing = -origin[2] / wz, -wz / size
        elif p < polygons:
            c0, c1, c2 = planes[p, 0], planes[p, 1], planes[p, 2]
            near = c0 * ray_x + c1 * ray_y + c2
            if near < 1e-3:
                continue
            t, facing = 1.0 / near, near / np.sqrt(c0 * c0 + c1 * c1 + c2 * c2) / size
        else:
            blob = mesh.blobs[p - polygons]
            ox, oy, oz = (
                (origin[0] - blob[0]) / blob[3],
                (origin[1] - blob[1]) / blob[3],
                (origin[2] - blob[2]) / blob[4],
            )
            dx, dy, dz = wx / blob[3], wy / blob[3], wz / blob[4]
            a, b = dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz
            t = (-b - np.sqrt(max(0.0, b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)))) / a
            facing = 0.6
        distance = t * size
        if distance > range_m or distance < 0.4:
            continue
        # Share of the infrared that comes back, against a white wall struck head-on.
        material = LAWN if p == LAND else mesh.material[p]
        grey = 0.2 if p == LAND else (mesh.colour[p, 0] + mesh.colour[p, 1] + mesh.colour[p, 2]) / 3.0
        back = 0.1 + 0.7 * grey
        if material == ASPHALT:
            back = 0.10 * (1.0 - 0.75 * wet)
        elif material == PAINT:
            back = 0.55 * (1.0 - 0.5 * wet)
        elif material in (PAVING, CONCRETE):
            back = 0.3
        elif material in (LAWN, FOLIAGE):
            back = 0.45
        elif material == GLASS:
            back = 0.03
        elif material == GLOSS:
            back *= 0.7
        elif material in (SIGN, GLOW):
            # Retroreflective: it answers from afar and at any angle.
            back, facing = 1.6, max(facing, 0.8)
        if material == FOLIAGE:
            # Leaves answer from within the crown, and let some rays pass.
            distance += 0.5 * luck[k, 0] * min(mesh.blobs[p - polygons, 3], 1.0)
            if luck[k, 2] < 0.25:
                continue
        strength = (
            back
            * np.sqrt(max(0.0, facing))
            * np.exp(-2.0 * distance / (1.6 * haze_m))
            * np.exp(-rain * distance / 35.0)
        )
        chance = 1.0 - np.exp(-strength * 9000.0 / (distance * distance + 30.0))
        if luck[k, 2] > 0.985 * chance:
            continue
        wobble = (luck[k, 0] + luck[k, 1] - 1.0) * 2.45 * RANGE_NOISE_M
        distance += wobble
        points[k, 0], points[k, 1], points[k, 2] = ray_x / size * distance, ray_y / size * distance, distance / size
        points[k, 3] = min(255.0, np.floor(255.0 * min(1.0, strength * 0.75)))
        kept[k] = True
    return kept
