"""A real nuPlan drive as a NAVSIM data root: ten keyframes of Las Vegas with their eight camera images.

The drive stands at a red light. It has no map, no point clouds and no track identities, so it can be planned for and
looked at, not scored.
"""

from pathlib import Path

import numpy as np

from irlvla.data.logs import load_log
from irlvla.data.pickles import load_pickle, write_pickle
from irlvla.types import HISTORY_FRAMES

SPLIT = "test"
"""Open the root with this split and at most `FUTURE_FRAMES` future frames."""
FUTURE_FRAMES = 6

# The export left the lens out; this is nuPlan's, the same for its eight cameras.
DISTORTION = (-0.356123, 0.172545, -0.00213, 0.000464, -0.05231)


def write_keyframe_root(shared_real: Path, root: Path) -> str:
    """Convert the drive in `shared_real/nuplan_cameras` into a data root.

    Returns:
        Token of the first frame with a full history.
    """
    source = shared_real / "nuplan_cameras" / "data"
    records = {info["timestamp"]: info for info in load_pickle(source / "sample_ann.pkl")["infos"]}
    infos = [records[time_us] for time_us in sorted(records)]
    log_name = Path(infos[0]["scene_file"]).stem
    blobs = root / "sensor_blobs" / SPLIT
    blobs.mkdir(parents=True)
    (blobs / log_name).symlink_to(source / "nuplan" / "dataset" / "sensor_blobs" / log_name, target_is_directory=True)
    (root / "navsim_logs" / SPLIT).mkdir(parents=True)
    path = root / "navsim_logs" / SPLIT / f"{log_name}.pkl"
    write_pickle(path, [_frame_record(info, log_name) for info in infos])
    return load_log(path).frames[HISTORY_FRAMES - 1].token


def _frame_record(info: dict, log_name: str) -> dict:
    stored = np.asarray(info["gt_boxes"], dtype=np.float64)
    # The export gives width before length and turns headings the other way round.
    boxes = np.column_stack([stored[:, :3], stored[:, 4], stored[:, 3], stored[:, 5], -stored[:, 6]])
    velocity = np.column_stack([np.asarray(info["gt_velocity"]), np.zeros(len(stored))])
    can_bus = np.asarray(info["can_bus"], dtype=np.float64)
    tracks = [f"{info['token'][:12]}{row:04x}" for row in range(len(stored))]
    return {
        "token": info["token"][:16],
        "timestamp": int(info["timestamp"]),
        "frame_idx": int(info["frame_idx"]),
        "log_name": log_name,
        "scene_token": info["scene_token"],
        "map_location": info["map_location"],
        "roadblock_ids": [str(roadblock) for roadblock in info["roadblock_ids"]],
        "traffic_lights": [],
        "ego2global_translation": np.array([float(value) for value in info["ego2global_translation"]]),
        "ego2global_rotation": [float(value) for value in info["ego2global_rotation"]],
        "lidar2ego_translation": np.array([float(value) for value in info["lidar2ego_translation"]]),
        "lidar2ego_rotation": [float(value) for value in info["lidar2ego_rotation"]],
        "ego_dynamic_state": [float(value) for value in (*can_bus[13:15], *can_bus[7:9])],
        "driving_command": np.array([0, 1, 0, 0]),
        "lidar_path": "",  # The artefact has no point clouds.
        "cams": {
            name: {
                "data_path": camera["data_path"].removeprefix("sensor_blobs/"),
                "sensor2lidar_rotation": np.array(camera["sensor2lidar_rotation"]),
                "sensor2lidar_translation": np.array(camera["sensor2lidar_translation"]),
                "cam_intrinsic": np.array(camera["cam_intrinsic"]),
                "distortion": np.array(DISTORTION),
            }
            for name, camera in info["cams"].items()
        },
        "anns": {
            "gt_boxes": boxes,
            "gt_names": np.array([str(name) for name in info["gt_names"]]),
            "gt_velocity_3d": velocity,
            "instance_tokens": tracks,
            "track_tokens": tracks,
        },
    }
