"""Cameras for hand-made scenes."""

from pathlib import Path

import numpy as np

from irlvla.types import Camera

IMAGE_SIZE = (144, 256)


def camera_at(name: str, yaw_rad: float, path: Path | None) -> Camera:
    """A camera 1.6 m above ground, 1.5 m ahead of the rear axle, looking level at `yaw_rad`."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    # Columns: where the camera's x (right), y (down) and z (forward) axes point in the ego frame.
    rotation = np.array([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, -1.0, 0.0]])
    height, width = IMAGE_SIZE
    intrinsic = np.array([[205.0, 0.0, width / 2], [0.0, 205.0, height / 2], [0.0, 0.0, 1.0]])
    return Camera(name, path, rotation, np.array([1.5, 0.0, 1.6]), intrinsic, np.zeros(5))
