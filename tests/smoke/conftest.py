"""A data root small enough to train on in seconds: two logs of the golden data, with sensors drawn at random."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from irlvla.data.pickles import load_pickle
from irlvla.data.sensors import write_point_cloud

FRAMES = 20
CAMERAS = ("CAM_L0", "CAM_F0", "CAM_R0")


@pytest.fixture(scope="session")
def tiny_root(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny_root")
    (root / "maps").symlink_to(golden / "alpha" / "maps")
    logs = root / "navsim_logs" / "test"
    logs.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for path in sorted((golden / "alpha" / "navsim_logs" / "test").glob("*.pkl"))[:2]:
        frames = load_pickle(path)[10 : 10 + FRAMES]
        assert isinstance(frames, list)
        blobs = root / "sensor_blobs" / "test"
        for frame in frames:
            for name in CAMERAS:
                camera = frame["cams"][name]
                camera["cam_intrinsic"] = np.array([[150.0, 0, 128], [0, 150.0, 72], [0, 0, 1]])
                camera["sensor2lidar_rotation"] = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
                camera["sensor2lidar_translation"] = np.array([1.7, 0.0, 1.5])
                image = blobs / camera["data_path"]
                image.parent.mkdir(parents=True, exist_ok=True)
                image.write_bytes(simplejpeg.encode_jpeg(rng.integers(0, 255, (144, 256, 3), dtype=np.uint8)))
            cloud = blobs / frame["lidar_path"]
            cloud.parent.mkdir(parents=True, exist_ok=True)
            points = np.zeros((50, 6), dtype=np.float32)
            points[:, :3] = rng.uniform((-10, -20, 0), (40, 20, 2), (50, 3))
            write_point_cloud(cloud, points)
        (logs / path.name).write_bytes(pickle.dumps(frames))
    return root
