"""Fixtures of the evaluation's tests."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irlvla.types import Array, Camera
from irlvla.world.build import build_world
from irlvla.world.presets import FRONT_CAMERAS, PRESETS, FollowUpPreset

FrontCamera = Callable[[Array], Camera]


@pytest.fixture(scope="session")
def front_camera() -> FrontCamera:
    """Makes cameras that look forward from 1.5 m above the ground, 1.7 m ahead of the rear axle, with nuPlan's lens."""

    def make(distortion: Array) -> Camera:
        rotation = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        intrinsic = np.array([[1545.0, 0.0, 960.0], [0.0, 1545.0, 560.0], [0.0, 0.0, 1.0]])
        return Camera("CAM_F0", None, rotation, np.array([1.7, 0.0, 1.5]), intrinsic, distortion)

    return make


@pytest.fixture(scope="session")
def pinhole(front_camera: FrontCamera) -> Camera:
    return front_camera(np.zeros(5))


@pytest.fixture(scope="session")
def bent(front_camera: FrontCamera) -> Camera:
    """With the distortion of nuPlan's cameras."""
    return front_camera(np.array([-0.356123, 0.172545, -0.00213, 0.000464, -0.05231]))


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root of a minimal embedded world with the front cameras, LiDAR, and follow-up scenes."""
    root = tmp_path_factory.mktemp("world") / "root"
    preset = replace(
        PRESETS["mini"],
        name="small",
        cameras=FRONT_CAMERAS,
        follow_ups=FollowUpPreset("test", scenes_per_log=1, starts_per_scene=2),
    )
    build_world(preset, root, seed=0, workers=2)
    return root
