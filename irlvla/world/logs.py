"""Drives as NAVSIM logs: one pickled list of keyframe records each, with stable tokens."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irlvla.geometry import GROUND_Z_M, wrap_angle
from irlvla.types import COMMANDS
from irlvla.world.city import City, Connector
from irlvla.world.drives import Drive, TrafficIndex, is_red, route_edges
from irlvla.world.motion import STEP_S, Track
from irlvla.world.presets import WorldPreset
from irlvla.world.rig import MountedCamera, cameras_of
from irlvla.world.scenery import Scenery

Array = NDArray[np.float64]

OBJECT_REACH_M = 80.0
MAX_ROAD_USERS = 60
STATIC_REACH_M = 60.0
SIGNAL_REACH_M = 150.0
COMMAND_REACH_M = 25.0
_TURN_RAD = np.radians(30.0)
FRAME_US = 500_000
"""Time between keyframes."""
_BASE_TIME_US = 1_630_000_000_000_000
INDICATOR_AHEAD_S = 3.0
_INDICATED_TURN_RAD = np.radians(20.0)
VEHICLES = 40
"""How many vehicles drive the logs of a world."""


@dataclass(frozen=True)
class SceneObject:
    """Something annotated in one frame, in the ego frame."""

    track: str
    """Name in the traffic or the scenery."""
    type: str
    """One of irlvla.types.OBJECT_TYPES."""
    kind: str
    """SUMO vehicle type where it is traffic, else its type."""
    box: Array
    """[7] center x, y, z, length, width, height, heading; z above the street, see `boxes_ego`."""
    velocity_mps: Array
    """[2] over ground, ego axes."""
    braking: bool
    indicator: int = 0
    """1 where it signals to the left, -1 to the right."""


@dataclass(frozen=True)
class KeyFrame:
    """One keyframe of a drive as it will be logged, rendered and described."""

    token: str
    step: int
    time_us: int
    ego_pose: Array
    """[3] rear axle, world."""
    speed_mps: float
    acceleration_mps2: float
    yaw_rate: float
    command: int
    """Index into irlvla.types.COMMANDS."""
    objects: tuple[SceneObject, ...]
    lights: tuple[tuple[Connector, bool, str], ...]
    """(connector, is red, SUMO's state letter) of every light near the ego."""


def token_of(*parts: object, length: int = 16) -> str:
    """Hexadecimal characters that depend on nothing but the parts; 17 of them mark what no log recorded."""
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=(length + 1) // 2).hexdigest()[:length]


def track_token(name: str, seed: int, track: str) -> str:
    """Token of an object's track, the same in all frames of a log and in what follows from it."""
    return token_of(name, seed, track)


def log_name(location: str, number: int, seed: int) -> str:
    """A log name in nuPlan's fashion, unique within a world."""
    hour, minute = 10 + number // 3600, number // 60 % 60
    return f"2021.{1 + seed % 12:02d}.{1 + number % 28:02d}.{hour}.{minute:02d}.{number % 60:02d}_veh-00_{location}"


def vehicle_number(name: str) -> int:
    """Which vehicle drives a log."""
    return int(token_of(name, "vehicle"), 16) % VEHICLES


def object_type(kind: str) -> str:
    """NAVSIM's name for a SUMO vehicle type."""
    if kind == "pedestrian":
        return "pedestrian"
    return "bicycle" if kind.startswith("bicycle") else "vehicle"


def key_frames(
    city: City, scenery: Scenery, index: TrafficIndex, drive: Drive, name: str, start_us: int
) -> list[KeyFrame]:
    """Everything known of a drive at its keyframes.

    Args:
        name: Log name; tokens derive from it.
        start_us: Time of the first frame.
    """
    track = index.traffic.tracks[drive.track_index]
    yaw_rate = np.gradient(track.rear_axle[:, 2], STEP_S)
    acceleration = np.gradient(track.speed_mps, STEP_S)
    surroundings = Surroundings(city, scenery, index, drive)
    frames = []
    for number, step in enumerate(drive.steps()):
        local = step - track.first_step
        frames.append(
            surroundings.key_frame(
                token_of(name, number),
                step,
                start_us + number * FRAME_US,
                index.ego_pose(drive.track_index, step),
                (float(track.speed_mps[local]), float(acceleration[local]), float(yaw_rate[local])),
                str(track.lanes[local]),
            )
        )
    return frames


class Surroundings:
    """What a vehicle has around it in a drive's traffic, wherever it stands; the drive's own vehicle is left out."""

    def __init__(self, city: City, scenery: Scenery, index: TrafficIndex, drive: Drive) -> None:
        self._index = index
        self._drive = drive
        self._scenery = scenery
        self._statics = np.array([item.pose for item in scenery.objects]).reshape(-1, 3)
        self._signalled = [c for c in city.connectors if c.signal is not None]
        self._signal_xy = np.array([c.baseline[0] for c in self._signalled]).reshape(-1, 2)
        self._compass = RouteCompass(city, route_edges(city, index.traffic, drive))

    def key_frame(
        self, token: str, step: int, time_us: int, pose: Array, motion: tuple[float, float, float], sumo_lane: str
    ) -> KeyFrame:
        """The keyframe of an ego vehicle.

        Args:
            step: Step of the recorded traffic.
            pose: [3] rear axle, world.
            motion: Speed (m/s), acceleration along the heading (m/s²), yaw rate (rad/s).
            sumo_lane: Lane the front bumper is on; decides the driving command.
        """
        command = self._compass.command(sumo_lane, pose)
        return KeyFrame(token, step, time_us, pose, *motion, command, self.objects(step, pose), self.lights(step, pose))

    def objects(self, step: int, pose: Array) -> tuple[SceneObject, ...]:
        """What is annotated around a pose [3] (world), road users first and nearest first among them."""
        return _objects(self._index, self._drive, self._scenery, self._statics, step, pose)

    def lights(self, step: int, pose: Array) -> tuple[tuple[Connector, bool, str], ...]:
        """(connector, is red, SUMO's state letter) of every light near a pose [3] (world)."""
        near = np.flatnonzero(np.hypot(*(self._signal_xy - pose[:2]).T) < SIGNAL_REACH_M)
        signalled, traffic = self._signalled, self._index.traffic
        return tuple(
            (signalled[i], is_red(signalled[i], traffic, step), _state(signalled[i], self._index, step)) for i in near
        )


def _state(connector: Connector, index: TrafficIndex, step: int) -> str:
    assert connector.signal is not None
    light, link = connector.signal
    states = index.traffic.signals.get(light)
    return states[min(step, len(states) - 1)][link] if states else "O"


def _objects(
    index: TrafficIndex, drive: Drive, scenery: Scenery, statics: Array, step: int, pose: Array
) -> tuple[SceneObject, ...]:
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    to_ego = np.array([[cos, sin], [-sin, cos]])
    found: list[tuple[float, SceneObject]] = []
    for number in index.present(step):
        if number == drive.track_index:
            continue
        track = index.traffic.tracks[number]
        local = step - track.first_step
        x, y = to_ego @ (track.center[local, :2] + index.offset - pose[:2])
        distance = float(np.hypot(x, y))
        if distance > OBJECT_REACH_M:
            continue
        length, width, height = track.size_m
        heading = float(wrap_angle(track.center[local, 2] - pose[2]))
        ahead = track.speed_mps[max(0, local - 1)] - track.speed_mps[min(len(track) - 1, local + 1)]
        braking = ahead / (2 * STEP_S) > 0.5 or track.speed_mps[local] < 0.3
        found.append(
            (
                distance,
                SceneObject(
                    track.name,
                    object_type(track.kind),
                    track.kind,
                    np.array([x, y, height / 2, length, width, height, heading]),
                    to_ego @ track.velocity_mps[local],
                    bool(braking),
                    _indicator(track, local),
                ),
            )
        )
    return nearest_objects(found, scenery, statics, pose)


def nearest_objects(
    found: list[tuple[float, SceneObject]], scenery: Scenery, statics: Array, pose: Array
) -> tuple[SceneObject, ...]:
    """What a frame annotates: the nearest road users, then the furniture around.

    Args:
        found: Distance (m) and object of every road user in reach.
        statics: [N, 3] poses of the scenery's objects.
        pose: [3] rear axle, world.
    """
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    to_ego = np.array([[cos, sin], [-sin, cos]])
    found = sorted(found, key=lambda item: (item[0], item[1].track))[:MAX_ROAD_USERS]
    for i in np.flatnonzero(np.hypot(*(statics[:, :2] - pose[:2]).T) < STATIC_REACH_M):
        item = scenery.objects[i]
        x, y = to_ego @ (statics[i, :2] - pose[:2])
        length, width, height = item.size_m
        heading = float(wrap_angle(statics[i, 2] - pose[2]))
        box = np.array([x, y, height / 2, length, width, height, heading])
        found.append((float(np.hypot(x, y)), SceneObject(item.name, item.type, item.type, box, np.zeros(2), False)))
    return tuple(item for _, item in found)


def _indicator(track: Track, local: int) -> int:
    """Which way a vehicle is about to turn: 1 left, -1 right, 0 neither."""
    if track.kind == "pedestrian":
        return 0
    later = min(len(track) - 1, local + round(INDICATOR_AHEAD_S / STEP_S))
    turn = float(track.center[later, 2] - track.center[local, 2])
    return 0 if abs(turn) < _INDICATED_TURN_RAD else int(np.sign(turn))


class RouteCompass:
    """The driving command: which way the route turns next."""

    def __init__(self, city: City, edges: tuple[str, ...]) -> None:
        self._edges = edges
        self._lane = {lane.sumo_id: lane for lane in city.lanes}
        self._of_inner = {inner: c for c in city.connectors for inner in c.sumo_lanes}
        self._turn: dict[tuple[str, str], int] = {}
        self._length: dict[tuple[str, str], float] = {}
        for c in city.connectors:
            pair = (c.from_lane.sumo_id.rsplit("_", 1)[0], c.to_lane.sumo_id.rsplit("_", 1)[0])
            self._turn[pair] = _turn_command(c)
            self._length[pair] = _length(c.baseline)

    def command(self, sumo_lane: str, ego_pose: Array) -> int:
        """Index into COMMANDS for an ego whose front bumper is on a SUMO lane."""
        straight = COMMANDS.index("straight")
        if sumo_lane.startswith(":"):
            connector = self._of_inner.get(sumo_lane)
            if connector is None:
                return straight
            # Past the bend only what is left of it counts.
            left = _heading(connector.baseline[-2:]) - ego_pose[2]
            turn = _turn_command(connector)
            if turn != straight and abs(wrap_angle(np.array(left))) > np.radians(12.0):
                return turn
            edge, ahead = connector.to_lane.sumo_id.rsplit("_", 1)[0], 3.0 + _length(connector.to_lane.baseline)
        elif sumo_lane in self._lane:
            lane = self._lane[sumo_lane]
            nearest = int(np.argmin(np.hypot(*(lane.baseline - ego_pose[:2]).T)))
            edge, ahead = sumo_lane.rsplit("_", 1)[0], _length(lane.baseline[nearest:])
        else:
            return straight
        if edge not in self._edges:
            return COMMANDS.index("unknown")
        for here, there in zip(
            self._edges[self._edges.index(edge) :], self._edges[self._edges.index(edge) + 1 :], strict=False
        ):
            if ahead > COMMAND_REACH_M:
                break
            if self._turn.get((here, there), straight) != straight:
                return self._turn[(here, there)]
            following = next((lane for name, lane in self._lane.items() if name.rsplit("_", 1)[0] == there), None)
            ahead += self._length.get((here, there), 0.0) + (_length(following.baseline) if following else 0.0)
        return straight


def _length(line: Array) -> float:
    return float(np.hypot(*np.diff(line, axis=0).T).sum())


def _heading(pair: Array) -> float:
    return float(np.arctan2(pair[-1, 1] - pair[0, 1], pair[-1, 0] - pair[0, 0]))


def _turn_command(connector: Connector) -> int:
    into = _heading(connector.from_lane.baseline[-3:])
    out = _heading(connector.to_lane.baseline[:3])
    change = float(wrap_angle(np.array(out - into)))
    if change > _TURN_RAD:
        return COMMANDS.index("left")
    return COMMANDS.index("right") if change < -_TURN_RAD else COMMANDS.index("straight")


def boxes_ego(objects: tuple[SceneObject, ...]) -> Array:
    """[N, 7] annotated boxes in the ego frame, whose origin is not on the street."""
    boxes = np.array([item.box for item in objects]).reshape(-1, 7)
    boxes[:, 2] += GROUND_Z_M
    return boxes


def frame_records(
    frames: list[KeyFrame], city: City, route: list[str], name: str, preset: WorldPreset, seed: int
) -> list[dict[str, Any]]:
    """NAVSIM's frame dictionaries of one log.

    Args:
        route: Roadblock ids of the whole log.
    """
    vehicle = vehicle_number(name)
    vehicle_name = f"veh-{vehicle:02d}"
    cameras = cameras_of(preset, vehicle)
    scene_token = token_of(name, "scene")
    records: list[dict[str, Any]] = []
    for number, frame in enumerate(frames):
        x, y, heading = frame.ego_pose
        cos, sin = np.cos(heading), np.sin(heading)
        to_world = np.eye(4)
        to_world[:2, :2] = [[cos, -sin], [sin, cos]]
        to_world[:2, 3] = x, y
        objects = frame.objects
        can_bus = np.zeros(18)
        can_bus[:3] = x, y, 0.0
        can_bus[3:7] = np.cos(heading / 2), 0.0, 0.0, np.sin(heading / 2)
        can_bus[7] = frame.acceleration_mps2
        can_bus[12] = frame.yaw_rate
        can_bus[13] = frame.speed_mps
        can_bus[16:] = heading, np.degrees(heading) % 360.0
        command = np.zeros(4, dtype=np.int64)
        command[frame.command] = 1
        records.append(
            {
                "token": frame.token,
                "frame_idx": number,
                "timestamp": frame.time_us,
                "log_name": name,
                "log_token": token_of(name, "log"),
                "scene_name": f"log-{name}",
                "scene_token": scene_token,
                "map_location": city.location,
                "roadblock_ids": list(route),
                "vehicle_name": vehicle_name,
                "can_bus": can_bus,
                "lidar_path": f"{name}/MergedPointCloud/{frame.token}.pcd",
                "lidar2ego_translation": np.zeros(3),
                "lidar2ego_rotation": [1.0, 0.0, 0.0, 0.0],
                "ego2global_translation": np.array([x, y, 0.0]),
                "ego2global_rotation": [float(np.cos(heading / 2)), 0.0, 0.0, float(np.sin(heading / 2))],
                "ego_dynamic_state": [
                    frame.speed_mps, 0.0, frame.acceleration_mps2, frame.speed_mps * frame.yaw_rate
                ],
                "traffic_lights": [(connector.fid, red) for connector, red, _ in frame.lights],
                "driving_command": command,
                "cams": {
                    camera.name: camera_record(camera, name, frame.token, rendered=camera.name in preset.cameras)
                    for camera in cameras.values()
                },
                "sample_prev": frames[number - 1].token if number else "",
                "sample_next": frames[number + 1].token if number + 1 < len(frames) else "",
                "ego2global": to_world,
                "lidar2ego": np.eye(4),
                "lidar2global": to_world.copy(),
                "anns": {
                    "gt_boxes": boxes_ego(objects),
                    "gt_names": np.array([item.type for item in objects], dtype="<U16"),
                    "gt_velocity_3d": np.array([[*item.velocity_mps, 0.0] for item in objects]).reshape(-1, 3),
                    "instance_tokens": [token_of(frame.token, item.track) for item in objects],
                    "track_tokens": [track_token(name, seed, item.track) for item in objects],
                },
            }
        )  # fmt: skip
    return records


def camera_record(camera: MountedCamera, name: str, token: str, *, rendered: bool) -> dict[str, Any]:
    """Where an image lies and how its camera is mounted, in the fields of a log."""
    return {
        "data_path": f"{name}/{camera.name}/{token}.jpg" if rendered else "",
        "sensor2lidar_rotation": camera.rotation_ego.copy(),
        "sensor2lidar_translation": camera.translation_ego.copy(),
        "cam_intrinsic": camera.intrinsic.copy(),
        "distortion": camera.distortion.copy(),
    }


def start_time_us(number: int) -> int:
    """Time of a log's first frame; logs of one world never overlap in time."""
    return _BASE_TIME_US + number * 600_000_000
