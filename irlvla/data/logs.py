"""NAVSIM logs: one pickle a drive, a list of frame records at 2 Hz."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irlvla.data.pickles import load_pickle
from irlvla.errors import DataError
from irlvla.geometry import rotation_from_quaternion, yaw_from_quaternion
from irlvla.types import CAMERA_NAMES, OBJECT_TYPES, Array, Boxes, Camera, Frame

MAP_LOCATIONS = ("sg-one-north", "us-ma-boston", "us-nv-las-vegas-strip", "us-pa-pittsburgh-hazelwood")
"""The four cities of nuPlan; NAVSIM knows no others."""

MAX_FRAME_GAP_S = 0.75
"""Frames farther apart than this are not neighbours at 2 Hz: something was lost between them."""

_AGENTS = 3
_AGENT_REACH_M = 100.0


@dataclass(frozen=True)
class FrameFault:
    """A frame of a log that cannot be used, and why; scenes that need it cannot either."""

    token: str
    reason: str


@dataclass(frozen=True)
class LogScan:
    """A log as it is, faults included.

    Frames keep their places, so windows over them are NAVSIM's windows.
    """

    name: str
    frames: tuple[Frame | FrameFault, ...]
    map_locations: tuple[str, ...]
    """City of each frame; empty where the frame is at fault."""


@dataclass(frozen=True)
class Log:
    """One drive, every frame of it sound."""

    name: str
    map_location: str
    frames: tuple[Frame, ...]


def load_log(path: Path, sensor_root: Path | None = None) -> Log:
    """Read one drive.

    Args:
        path: A log pickle of NAVSIM's layout.
        sensor_root: Folder that the log's image and point-cloud paths are relative to; None leaves them out.
    Raises:
        DataError: The file is damaged, or a frame of it is; `scan_log` reads what can be read.
    """
    scan = scan_log(path, sensor_root)
    frames = []
    for index, frame in enumerate(scan.frames):
        if isinstance(frame, FrameFault):
            raise DataError(f"{path}: frame {index} ({frame.token}): {frame.reason}")
        frames.append(frame)
    if not frames:
        raise DataError(f"{path}: the log holds no frames")
    return Log(scan.name, scan.map_locations[0], tuple(frames))


def scan_log(path: Path, sensor_root: Path | None = None) -> LogScan:
    """Read one drive and set aside the frames at fault.

    Raises:
        DataError: The file as a whole is missing, damaged, or no list of frame records.
    """
    records = load_pickle(path)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path}: a log is a list of frame records, this is a {type(records).__name__}")
    frames: list[Frame | FrameFault] = []
    locations = []
    previous_us: int | None = None
    for record in records:
        frame: Frame | FrameFault
        location = ""
        try:
            frame = _frame(record, sensor_root)
            location = _map_location(record)
            if previous_us is not None and frame.time_us <= previous_us:
                raise _Fault(f"its time {frame.time_us} us is not after the frame before it ({previous_us} us)")
            previous_us = frame.time_us
        except _Fault as fault:
            frame = FrameFault(str(record.get("token", "")), str(fault))
        frames.append(frame)
        locations.append(location if isinstance(frame, Frame) else "")
    return LogScan(path.stem, tuple(frames), tuple(locations))


def frame_from_record(record: Mapping[str, Any], sensor_root: Path | None) -> Frame:
    """One keyframe of a log, from its record alone.

    Args:
        record: A frame dictionary of NAVSIM's log layout.
        sensor_root: Folder that its image and point-cloud paths are relative to; None leaves them out.
    Raises:
        DataError: A field is missing or malformed.
    """
    try:
        return _frame(record, sensor_root)
    except _Fault as fault:
        raise DataError(f"frame {record.get('token', '')}: {fault}") from fault


def frame_from_synthetic(record: Mapping[str, Any], sensor_root: Path | None) -> Frame:
    """One keyframe of a synthetic follow-up scene; like a log's, with other names for the same things.

    Raises:
        DataError: A field is missing or malformed.
    """
    try:
        ego = _field(record, "ego_status")
        annotations = _field(record, "annotations")
        pose = _numbers(ego, "ego_pose", (3,))
        lidar_path = _field(record, "lidar_path")
        return Frame(
            token=str(_field(record, "token")),
            time_us=_time_us(record),
            ego_pose_world=pose,
            ego_velocity_mps=_single_precision(_numbers(ego, "ego_velocity", (2,))),
            ego_acceleration_mps2=_single_precision(_numbers(ego, "ego_acceleration", (2,))),
            command=_command(ego),
            roadblock_ids=_roadblock_ids(record),
            traffic_lights=_traffic_lights(record),
            boxes=_boxes(annotations, "boxes", "names", "velocity_3d"),
            cameras=_cameras(_field(record, "camera_dict"), np.eye(3), np.zeros(3), sensor_root),
            lidar_path=None if lidar_path is None else _sensor_path(str(lidar_path), sensor_root),
        )
    except _Fault as fault:
        raise DataError(f"frame {record.get('token', '')}: {fault}") from fault


class _Fault(Exception):
    """What is wrong with one frame record."""


def _frame(record: Mapping[str, Any], sensor_root: Path | None) -> Frame:
    translation = _numbers(record, "ego2global_translation", (3,))
    heading = _heading(_numbers(record, "ego2global_rotation", (4,)))
    dynamic = _single_precision(_numbers(record, "ego_dynamic_state", (4,)))
    rotation_lidar, translation_lidar = _lidar_mount(record)
    lidar_path = _field(record, "lidar_path")
    return Frame(
        token=str(_field(record, "token")),
        time_us=_time_us(record),
        ego_pose_world=np.array([translation[0], translation[1], heading]),
        ego_velocity_mps=dynamic[:2],
        ego_acceleration_mps2=dynamic[2:],
        command=_command(record),
        roadblock_ids=_roadblock_ids(record),
        traffic_lights=_traffic_lights(record),
        boxes=_boxes(_field(record, "anns"), "gt_boxes", "gt_names", "gt_velocity_3d"),
        cameras=_cameras(_field(record, "cams"), rotation_lidar, translation_lidar, sensor_root),
        lidar_path=None if lidar_path is None else _sensor_path(str(lidar_path), sensor_root),
    )


def _field(record: Mapping[str, Any], key: str) -> Any:
    if not isinstance(record, Mapping):
        raise _Fault(f"expected a record with {key!r}, found a {type(record).__name__}")
    if key not in record:
        raise _Fault(f"{key!r} is missing")
    return record[key]


def _numbers(record: Mapping[str, Any], key: str, shape: tuple[int, ...], *, finite: bool = True) -> Array:
    """A numeric field as float64; -1 in `shape` stands for any length."""
    try:
        numbers = np.asarray(_field(record, key), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _Fault(f"{key!r} is not numeric") from error
    if numbers.size == 0 and shape[0] == -1:
        return numbers.reshape(0, *shape[1:])
    free = shape[0] == -1
    if numbers.ndim != len(shape) or numbers.shape[free:] != shape[free:]:
        raise _Fault(f"{key!r} has shape {numbers.shape}, expected {shape}".replace("-1", "N"))
    if finite and not np.isfinite(numbers).all():
        raise _Fault(f"{key!r} holds NaN or infinite values")
    return numbers


def _single_precision(numbers: Array) -> Array:
    # NAVSIM keeps velocity and acceleration in float32; the scorer's figures carry that rounding.
    return numbers.astype(np.float32).astype(np.float64)


def _heading(quaternion_wxyz: Array) -> float:
    # pyquaternion normalises unless the square sum is within 1e-14 of one; do it at the same moments.
    square_sum = float(np.dot(quaternion_wxyz, quaternion_wxyz))
    if not 0.5 < square_sum < 2.0:
        raise _Fault(f"'ego2global_rotation' has norm {math.sqrt(square_sum):.3g}, it is no rotation")
    if abs(1.0 - square_sum) > 1e-14:
        quaternion_wxyz = quaternion_wxyz / np.sqrt(square_sum)
    return float(yaw_from_quaternion(quaternion_wxyz))


def _time_us(record: Mapping[str, Any]) -> int:
    time_us = _field(record, "timestamp")
    if not isinstance(time_us, int | np.integer):
        raise _Fault(f"'timestamp' is {time_us!r}, expected integer microseconds")
    return int(time_us)


def _map_location(record: Mapping[str, Any]) -> str:
    location = str(_field(record, "map_location"))
    if location not in MAP_LOCATIONS:
        raise _Fault(f"unknown map location {location!r}, known are {', '.join(MAP_LOCATIONS)}")
    return location


def _command(record: Mapping[str, Any]) -> NDArray[np.int64]:
    return _numbers(record, "driving_command", (4,)).astype(np.int64)


def _sequence(record: Mapping[str, Any], key: str) -> Sequence[Any]:
    items = _field(record, key)
    if not isinstance(items, list | tuple | np.ndarray):
        raise _Fault(f"{key!r} is a {type(items).__name__}, expected a list")
    return list(items)


def _roadblock_ids(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(roadblock) for roadblock in _sequence(record, "roadblock_ids"))


def _traffic_lights(record: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    lights = _sequence(record, "traffic_lights")
    if any(not isinstance(light, list | tuple) or len(light) != 2 for light in lights):
        raise _Fault("'traffic_lights' holds something else than (lane connector, is red) pairs")
    return tuple((str(connector), bool(is_red)) for connector, is_red in lights)


def _boxes(annotations: Mapping[str, Any], boxes_key: str, names_key: str, velocity_key: str) -> Boxes:
    boxes = _numbers(annotations, boxes_key, (-1, 7))
    velocity = _numbers(annotations, velocity_key, (-1, 3), finite=False)
    names = [str(name) for name in _sequence(annotations, names_key)]
    tracks = [str(track) for track in _sequence(annotations, "track_tokens")]
    if not len(boxes) == len(velocity) == len(names) == len(tracks):
        raise _Fault(
            f"{len(boxes)} boxes, {len(names)} names, {len(velocity)} velocities and {len(tracks)} track tokens "
            "do not belong together"
        )
    # The ego vehicle is listed in some exports; it is no object.
    keep = [i for i, name in enumerate(names) if name != "ego"]
    unknown = {names[i] for i in keep} - set(OBJECT_TYPES)
    if unknown:
        raise _Fault(f"unknown object type {sorted(unknown)[0]!r}, known are {', '.join(OBJECT_TYPES)}")
    types = np.array([OBJECT_TYPES.index(names[i]) for i in keep], dtype=np.int64)
    boxes, velocity, tracks = boxes[keep], velocity[keep], [tracks[i] for i in keep]
    unmeasured = np.asarray(~np.isfinite(velocity).all(axis=-1))
    if unmeasured.any():
        # Nothing reads the velocity of a static object, nor that of an agent out of the scorer's reach.
        matters = unmeasured & (types < _AGENTS) & (np.hypot(boxes[:, 0], boxes[:, 1]) <= _AGENT_REACH_M)
        if matters.any():
            i = int(np.argmax(matters))
            raise _Fault(f"the velocity of {OBJECT_TYPES[types[i]]} {tracks[i]} is NaN")
        velocity = np.where(unmeasured[:, None], 0.0, velocity)
    return Boxes(boxes, types, velocity, tuple(tracks))


def _lidar_mount(record: Mapping[str, Any]) -> tuple[Array, Array]:
    """Rotation [3, 3] and translation [3] from LiDAR into ego axes; the identity where the log names none."""
    if "lidar2ego_rotation" not in record or "lidar2ego_translation" not in record:
        return np.eye(3), np.zeros(3)
    quaternion = _numbers(record, "lidar2ego_rotation", (4,))
    if not 0.5 < float(np.dot(quaternion, quaternion)) < 2.0:
        raise _Fault("'lidar2ego_rotation' is no rotation")
    return rotation_from_quaternion(quaternion), _numbers(record, "lidar2ego_translation", (3,))


def _cameras(
    records: Any, rotation_lidar: Array, translation_lidar: Array, sensor_root: Path | None
) -> dict[str, Camera]:
    """Cameras by name. NAVSIM mounts them on the LiDAR frame; a synthetic scene's empty records are left out."""
    if not isinstance(records, Mapping):
        raise _Fault(f"cameras are a {type(records).__name__}, expected records by camera name")
    named = {str(key).upper(): record for key, record in records.items() if record}
    named = {name: record for name, record in named.items() if name in CAMERA_NAMES}
    if not named:
        return {}
    mounts = rotation_lidar @ _stacked(named, "sensor2lidar_rotation", (3, 3))
    origins = _stacked(named, "sensor2lidar_translation", (3,)) @ rotation_lidar.T + translation_lidar
    intrinsics = _stacked(named, "cam_intrinsic", (3, 3))
    distortions = _stacked(named, "distortion", (5,))
    return {
        name: Camera(
            name=name,
            image_path=_sensor_path(str(_field(record, "data_path")), sensor_root),
            rotation_ego=mounts[row],
            translation_ego=origins[row],
            intrinsic=intrinsics[row],
            distortion=distortions[row],
        )
        for row, (name, record) in enumerate(named.items())
    }


def _stacked(records: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> Array:
    """One numeric field of all cameras, [C, *shape]."""
    return _numbers({key: [_field(record, key) for record in records.values()]}, key, (len(records), *shape))


def _sensor_path(relative: str, sensor_root: Path | None) -> Path | None:
    if sensor_root is None or not relative:
        return None
    if relative.startswith("/") or ".." in relative.split("/"):
        raise _Fault(f"sensor path {relative!r} leaves the sensor folder")
    return sensor_root / relative
