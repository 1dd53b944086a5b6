"""The ego vehicle's eight cameras and its LiDARs, mounted as nuPlan mounts them (rounded)."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from irlvla.types import CAMERA_NAMES
from irlvla.world.presets import WorldPreset

Array = NDArray[np.float64]

FULL_WIDTH_PX, FULL_HEIGHT_PX = 1920, 1080
FULL_FOCAL_PX = 1545.0

# Name to (x, y, z of the lens in the ego frame in m, viewing direction in degrees counter-clockwise from ahead).
_MOUNTS = {
    "CAM_F0": (1.67, 0.0, 1.52, 0.0),
    "CAM_L0": (1.64, 0.15, 1.52, 55.0),
    "CAM_R0": (1.64, -0.15, 1.52, -55.0),
    "CAM_L1": (1.28, 0.65, 1.41, 112.0),
    "CAM_R1": (1.28, -0.65, 1.41, -112.0),
    "CAM_L2": (-0.49, 0.52, 1.39, 141.0),
    "CAM_R2": (-0.49, -0.52, 1.39, -141.0),
    "CAM_B0": (-0.49, 0.0, 1.48, 180.0),
}

NUPLAN_CENTER_PX = (960.0, 560.0)
NUPLAN_DISTORTION = (-0.356123, 0.172545, -0.00213, 0.000464, -0.05231)
"""k1, k2, p1, p2, k3 of all eight cameras."""
# How one real vehicle's cameras are turned: name to (direction, pitch up, roll) in degrees.
_TURNED = {
    "CAM_F0": (0.2, -1.4, 0.5),
    "CAM_L0": (55.2, -0.5, 0.8),
    "CAM_R0": (-55.5, 0.4, -0.6),
    "CAM_L1": (112.2, -2.0, 0.7),
    "CAM_R1": (-112.0, -1.4, 0.1),
    "CAM_L2": (140.9, -1.1, 0.1),
    "CAM_R2": (-141.3, -0.9, -0.9),
    "CAM_B0": (179.7, -0.2, -0.4),
}
CAMERA_SPREAD_M, CAMERA_SPREAD_RAD = 0.012, 0.006
"""How much the mountings of two vehicles differ (standard deviation)."""


@dataclass(frozen=True)
class MountedLidar:
    """One spinning LiDAR."""

    number: int
    """What NAVSIM's point clouds store as LiDAR id."""
    position_ego: tuple[float, float, float]
    """m, above the street where z is concerned."""
    azimuths: int
    """Rays a turn; half of them where it only looks outward."""
    facing_rad: float | None
    """Middle of the half circle that it sees; None sees all around."""
    elevations_deg: tuple[float, ...]
    """One a ring, from below."""
    range_m: float


def _evenly(*spans: tuple[float, float, int]) -> tuple[float, ...]:
    """Elevations in spans of (first, last, count)."""
    return tuple(float(value) for span in spans for value in np.linspace(*span))


# nuPlan merges five; these have fewer rays than the real ones, in like directions, most of them towards the horizon.
_ROOF = _evenly((-22.0, -6.5, 10), (-5.4, 1.5, 17), (3.0, 10.0, 5))
_DOWN = _evenly((-42.0, -2.0, 10))
LIDARS = (
    MountedLidar(0, (0.9, 0.0, 2.1), 540, None, _ROOF, 90.0),
    MountedLidar(1, (1.2, -0.75, 1.9), 180, -np.pi / 2, _DOWN, 40.0),
    MountedLidar(2, (1.2, 0.75, 1.9), 180, np.pi / 2, _DOWN, 40.0),
    MountedLidar(3, (-0.9, 0.0, 1.85), 180, np.pi, _DOWN, 40.0),
    MountedLidar(4, (3.95, 0.0, 0.75), 180, 0.0, _evenly((-16.0, 10.0, 10)), 40.0),
)


@dataclass(frozen=True)
class MountedCamera:
    """A camera on the ego vehicle; OpenCV axes (x right, y down, z forward)."""

    name: str
    rotation_ego: Array
    """[3, 3] camera to ego axes."""
    translation_ego: Array
    """[3] m."""
    intrinsic: Array
    """[3, 3] px of the rendered image."""
    width_px: int
    height_px: int
    distortion: Array = field(default_factory=lambda: np.zeros(5))
    """[5] OpenCV k1, k2, p1, p2, k3 of the rendered image."""


def nuplan_cameras(width_px: int, height_px: int, *, vehicle: int, distorted: bool) -> dict[str, MountedCamera]:
    """All eight cameras of one of nuPlan's vehicles, for images of a given size, by name.

    Args:
        vehicle: Number of the vehicle; each has its cameras mounted a little differently.
        distorted: Whether images keep the lens distortion, as NAVSIM's do.
    """
    scale_x, scale_y = width_px / FULL_WIDTH_PX, height_px / FULL_HEIGHT_PX
    # Pixel centers lie at whole numbers, so that scaling is about (-0.5, -0.5).
    center_x = (NUPLAN_CENTER_PX[0] + 0.5) * scale_x - 0.5
    center_y = (NUPLAN_CENTER_PX[1] + 0.5) * scale_y - 0.5
    intrinsic = np.array([[FULL_FOCAL_PX * scale_x, 0, center_x], [0, FULL_FOCAL_PX * scale_y, center_y], [0, 0, 1.0]])
    distortion = np.array(NUPLAN_DISTORTION if distorted else np.zeros(5))
    rng = np.random.default_rng([vehicle, 19])
    cameras = {}
    for name in CAMERA_NAMES:
        turn = np.radians(_TURNED[name]) + rng.normal(0.0, CAMERA_SPREAD_RAD, 3)
        position = np.array(_MOUNTS[name][:3]) + rng.normal(0.0, CAMERA_SPREAD_M, 3)
        cameras[name] = MountedCamera(
            name, _camera_rotation(*turn), position, intrinsic, width_px, height_px, distortion
        )  # fmt: skip
    return cameras


def cameras_of(preset: WorldPreset, vehicle: int) -> dict[str, MountedCamera]:
    """All eight cameras of the vehicle that drives a log, by name."""
    width, height = preset.image_width_px, preset.image_height_px
    return nuplan_cameras(width, height, vehicle=vehicle, distorted=preset.lens_distortion)


def _camera_rotation(direction_rad: float, pitch_up_rad: float, roll_rad: float) -> Array:
    """[3, 3] camera to ego axes; a camera that rolls has its right side up."""
    cos, sin = np.cos(direction_rad), np.sin(direction_rad)
    level = np.array([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, -1.0, 0.0]])
    cos, sin = np.cos(pitch_up_rad), np.sin(pitch_up_rad)
    pitched = level @ np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    cos, sin = np.cos(roll_rad), np.sin(roll_rad)
    return pitched @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
