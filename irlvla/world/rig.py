"""The ego vehicle's eight cameras and its LiDAR, mounted as nuPlan mounts them (rounded)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from irlvla.types import CAMERA_NAMES

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

LIDAR_HEIGHT_M = 1.85
LIDAR_FORWARD_M = 0.9


@dataclass(frozen=True)
class MountedCamera:
    """A pinhole camera on the ego vehicle; OpenCV axes (x right, y down, z forward)."""

    name: str
    rotation_ego: Array
    """[3, 3] camera to ego axes."""
    translation_ego: Array
    """[3] m."""
    intrinsic: Array
    """[3, 3] px of the rendered image."""
    width_px: int
    height_px: int


def mounted_cameras(width_px: int, height_px: int) -> dict[str, MountedCamera]:
    """All eight cameras for images of a given size, by name."""
    scale_x, scale_y = width_px / FULL_WIDTH_PX, height_px / FULL_HEIGHT_PX
    intrinsic = np.array(
        [[FULL_FOCAL_PX * scale_x, 0.0, width_px / 2], [0.0, FULL_FOCAL_PX * scale_y, height_px / 2], [0.0, 0.0, 1.0]]
    )
    cameras = {}
    for name in CAMERA_NAMES:
        x, y, z, degrees = _MOUNTS[name]
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        rotation = np.array([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, -1.0, 0.0]])
        cameras[name] = MountedCamera(name, rotation, np.array([x, y, z]), intrinsic, width_px, height_px)
    return cameras
