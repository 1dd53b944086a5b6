"""Every way a log can be wrong is reported with the frame and the reason."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irlvla.data.logs import FrameFault, load_log, scan_log
from irlvla.data.pickles import load_pickle, write_pickle
from irlvla.errors import DataError
from irlvla.types import Frame

Record = dict[str, Any]


@pytest.fixture
def records(golden: Path) -> list[Record]:
    path = sorted((golden / "alpha" / "navsim_logs" / "test").glob("*.pkl"))[0]
    return load_pickle(path)[:6]


def written(path: Path, records: list[Record]) -> Path:
    write_pickle(path, records)
    return path


@pytest.mark.parametrize("root", ["alpha", "beta"])
def test_every_golden_log_reads_whole(golden: Path, root: str) -> None:
    paths = sorted((golden / root / "navsim_logs" / "test").glob("*.pkl"))
    assert paths
    for path in paths:
        log = load_log(path, golden / root / "sensor_blobs" / "test")
        assert log.name == path.stem
        assert len(log.frames) >= 40
        assert len(log.frames[0].cameras) == 8


def break_pose(record: Record) -> None:
    record["ego2global_translation"] = np.array([math.nan, 0.0, 0.0])


def drop_lights(record: Record) -> None:
    del record["traffic_lights"]


def cut_boxes(record: Record) -> None:
    record["anns"]["gt_boxes"] = record["anns"]["gt_boxes"][:, :6]


def lose_a_name(record: Record) -> None:
    record["anns"]["gt_names"] = record["anns"]["gt_names"][:-1]


def rename_city(record: Record) -> None:
    record["map_location"] = "atlantis"


def invent_type(record: Record) -> None:
    record["anns"]["gt_names"] = np.array(["dragon"] * len(record["anns"]["gt_names"]))


def zero_rotation(record: Record) -> None:
    record["ego2global_rotation"] = [0.0, 0.0, 0.0, 0.0]


def go_back_in_time(record: Record) -> None:
    record["timestamp"] -= 10_000_000


def give_text_for_time(record: Record) -> None:
    record["timestamp"] = "noon"


def shrink_lens(record: Record) -> None:
    record["cams"]["CAM_L1"]["distortion"] = np.zeros(4)


def climb_out(record: Record) -> None:
    record["cams"]["CAM_L1"]["data_path"] = "../../secret.jpg"


def lose_velocity(record: Record) -> None:
    record["anns"]["gt_velocity_3d"] = np.full_like(record["anns"]["gt_velocity_3d"], math.nan)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (break_pose, "'ego2global_translation' holds NaN"),
        (drop_lights, "'traffic_lights' is missing"),
        (cut_boxes, r"'gt_boxes' has shape \(\d+, 6\), expected \(N, 7\)"),
        (lose_a_name, "do not belong together"),
        (rename_city, "unknown map location 'atlantis'"),
        (invent_type, "unknown object type 'dragon'"),
        (zero_rotation, "no rotation"),
        (go_back_in_time, "is not after the frame before it"),
        (give_text_for_time, "'timestamp' is 'noon'"),
        (shrink_lens, "'distortion'"),
        (climb_out, "leaves the sensor folder"),
        (lose_velocity, "the velocity of vehicle .* is NaN"),
    ],
)
def test_fault_of_one_frame_is_named_and_leaves_the_others(
    tmp_path: Path, records: list[Record], damage: Callable[[Record], None], reason: str
) -> None:
    damage(records[3])
    path = written(tmp_path / "log.pkl", records)
    scan = scan_log(path, tmp_path)
    assert [isinstance(frame, FrameFault) for frame in scan.frames] == [False, False, False, True, False, False]
    with pytest.raises(DataError, match=reason) as error:
        load_log(path, tmp_path)
    assert "frame 3" in str(error.value)


def test_velocity_nobody_reads_may_be_missing(tmp_path: Path, records: list[Record]) -> None:
    anns = records[0]["anns"]
    barrier, far_car = 0, 1
    anns["gt_names"] = np.array(["barrier", *["vehicle"] * (len(anns["gt_names"]) - 1)])
    anns["gt_boxes"] = np.array(anns["gt_boxes"])
    anns["gt_boxes"][far_car, 0] = 101.0
    anns["gt_velocity_3d"] = np.array(anns["gt_velocity_3d"])
    anns["gt_velocity_3d"][[barrier, far_car]] = math.nan
    frame = load_log(written(tmp_path / "log.pkl", records)).frames[0]
    np.testing.assert_array_equal(frame.boxes.velocity_mps[[barrier, far_car]], 0.0)
    np.testing.assert_array_equal(frame.boxes.velocity_mps[2:], anns["gt_velocity_3d"][2:])


def test_frame_without_objects_has_empty_boxes(tmp_path: Path, records: list[Record]) -> None:
    records[0]["anns"] = {
        "gt_boxes": np.zeros((0, 7)),
        "gt_names": np.array([]),
        "gt_velocity_3d": np.zeros((0, 3)),
        "instance_tokens": [],
        "track_tokens": [],
    }
    assert len(load_log(written(tmp_path / "log.pkl", records)).frames[0].boxes) == 0


def test_something_else_than_frames_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="list of frame records"):
        load_log(written(tmp_path / "log.pkl", [{"infos": 1}, 2]))
    with pytest.raises(DataError, match="no frames"):
        load_log(written(tmp_path / "log.pkl", []))


def test_heading_is_pyquaternions_yaw(tmp_path: Path, records: list[Record]) -> None:
    quaternion = np.array([0.8514, 0.0158, 0.0108, 0.5241]) * 1.02
    records[0]["ego2global_rotation"] = quaternion.tolist()
    w, x, y, z = quaternion / np.sqrt(np.dot(quaternion, quaternion))
    frame = load_log(written(tmp_path / "log.pkl", records)).frames[0]
    assert frame.ego_pose_world[2] == np.arctan2(2 * (w * z - x * y), 1 - 2 * (y**2 + z**2))


def test_cameras_are_mounted_on_the_ego_through_the_lidar(tmp_path: Path, records: list[Record]) -> None:
    quarter_turn = math.sqrt(0.5)
    records[0]["lidar2ego_rotation"] = [quarter_turn, 0.0, 0.0, quarter_turn]
    records[0]["lidar2ego_translation"] = [1.0, 0.0, 2.0]
    records[0]["cams"]["CAM_F0"]["sensor2lidar_translation"] = np.array([0.5, 0.0, 0.0])
    camera = load_log(written(tmp_path / "log.pkl", records)).frames[0].cameras["CAM_F0"]
    np.testing.assert_allclose(camera.translation_ego, [1.0, 0.5, 2.0], atol=1e-12)
    np.testing.assert_allclose(camera.rotation_ego, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)


def test_log_opened_without_sensors_names_no_files(tmp_path: Path, records: list[Record]) -> None:
    path = written(tmp_path / "log.pkl", records)
    bare: Frame = load_log(path).frames[0]
    assert bare.lidar_path is None
    assert bare.cameras["CAM_F0"].image_path is None
    assert load_log(path, tmp_path).frames[0].cameras["CAM_F0"].image_path is not None
