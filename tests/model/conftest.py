"""Golden scenes given synthetic eyes: the golden logs come without sensors, so pictures and sweeps are made up."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from cameras import camera_at

from irlvla.data.maps import CityMap, load_map
from irlvla.data.scenes import human_plan, open_scenes
from irlvla.data.sensors import write_point_cloud
from irlvla.geometry import box_corners
from irlvla.model.config import ModelConfig
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.inputs import SceneInputs, SceneTargets, derive_answer
from irlvla.model.language import train_tokenizer
from irlvla.model.plan_space import PlanSpace
from irlvla.types import HISTORY_FRAMES, Array, Frame, Scene

YAWS_RAD = {"CAM_F0": 0.0, "CAM_L0": 0.96, "CAM_R0": -0.96}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_plans(golden: Path) -> Array:
    """Human plans [N, 8, 3] of all golden scenes."""
    scenes = [scene for part in ("alpha", "beta") for scene in open_scenes(golden / part, "test")]
    return np.stack([human_plan(scene) for scene in scenes])


@pytest.fixture(scope="session")
def scenes(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    """Six golden scenes of different logs, with three cameras and LiDAR on disk."""
    folder = tmp_path_factory.mktemp("sensors")
    golden_scenes = open_scenes(golden / "alpha", "test")
    picked = [golden_scenes[index] for index in range(0, len(golden_scenes), len(golden_scenes) // 6)][:6]
    return [with_sensors(scene, folder) for scene in picked]


@pytest.fixture(scope="session")
def maps(golden: Path, scenes: Sequence[Scene]) -> dict[str, CityMap]:
    return {scene.map_location: load_map(golden / "alpha", scene.map_location) for scene in scenes}


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return ModelConfig()


@pytest.fixture(scope="session")
def inputs(scenes: Sequence[Scene], config: ModelConfig) -> SceneInputs:
    return SceneInputs.from_observations([scene.observation() for scene in scenes], config)


@pytest.fixture(scope="session")
def targets(scenes: Sequence[Scene], maps: Mapping[str, CityMap], config: ModelConfig) -> SceneTargets:
    return SceneTargets.from_scenes(scenes, maps, config)


@pytest.fixture
def model(scenes: Sequence[Scene], golden_plans: Array, config: ModelConfig) -> DrivingVLA:
    """A fresh tiny driver."""
    torch.manual_seed(0)
    corpus = [derive_answer(scene).answer for scene in scenes] + [scene.instruction for scene in scenes]
    return DrivingVLA(config, train_tokenizer(corpus, config.vocabulary), PlanSpace.fit(golden_plans))


def with_sensors(scene: Scene, folder: Path) -> Scene:
    """The scene with made-up sensors: pictures unlike any other scene's, and points on the ground and on objects."""
    history = [_sense(frame, folder) for frame in scene.history]
    return replace(scene, frames=(*history, *scene.frames[HISTORY_FRAMES:]))


def _sense(frame: Frame, folder: Path) -> Frame:
    generator = np.random.default_rng(int(frame.token, 16) % 2**32)
    cameras = {}
    for name, yaw in YAWS_RAD.items():
        path = folder / f"{frame.token}_{name}.jpg"
        coarse = generator.integers(0, 256, (9, 16, 3), dtype=np.uint8)
        image = np.ascontiguousarray(coarse.repeat(16, axis=0).repeat(16, axis=1))
        path.write_bytes(simplejpeg.encode_jpeg(image, quality=90))
        cameras[name] = camera_at(name, yaw, path)
    ground = np.zeros((800, 6), dtype=np.float32)
    ground[:, 0] = generator.uniform(-16, 48, len(ground))
    ground[:, 1] = generator.uniform(-32, 32, len(ground))
    corners = box_corners(frame.boxes.boxes[:, [0, 1, 6, 3, 4]]).reshape(-1, 2)
    edges = np.zeros((3 * len(corners), 6), dtype=np.float32)
    edges[:, :2] = np.repeat(corners, 3, axis=0)
    edges[:, 2] = np.tile([0.2, 0.8, 1.4], len(corners))
    sweep = folder / f"{frame.token}.pcd"
    write_point_cloud(sweep, np.concatenate([ground, edges]))
    return replace(frame, cameras=cameras, lidar_path=sweep)
