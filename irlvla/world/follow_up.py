"""Follow-up scenes: where plans may lead four seconds on, in NAVSIM's two-stage layout.

A first-stage scene is followed by several synthetic ones. Each starts near where a plan may end: on the human's way,
but early or late, beside it, crooked, too fast or too slow. Its past is the drive that led there; its traffic goes on
as it was simulated. As in the first stage, scenes come in pairs half a second apart.
"""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from shapely.geometry import Polygon

from irlvla.data.pickles import DevkitObject, devkit_object, write_pickle
from irlvla.data.splits import TwoStageGroup
from irlvla.geometry import box_corners, ego_boxes, ego_to_world, wrap_angle
from irlvla.types import COMMANDS, HISTORY_FRAMES, OBJECT_TYPES, PLAN_POSES
from irlvla.world.city import City, Connector
from irlvla.world.drives import FRAME_STEPS, Drive, TrafficIndex, is_red, route_edges
from irlvla.world.logs import (
    FRAME_US,
    KeyFrame,
    SceneObject,
    Surroundings,
    boxes_ego,
    camera_record,
    token_of,
    track_token,
    vehicle_number,
)
from irlvla.world.motion import STEP_S
from irlvla.world.presets import WorldPreset
from irlvla.world.rig import cameras_of
from irlvla.world.scenery import Scenery
from irlvla.world.sensors import SensorSuite
from irlvla.world.splits import two_stage_folder

Array = NDArray[np.float64]

HORIZON_STEPS = PLAN_POSES * FRAME_STEPS
"""Traffic steps from a scene to those that follow it: the length of a plan (4 s)."""
SPACING_FRAMES = 4
"""First-stage scenes of one log are at least this many keyframes apart."""

ROOM_M = 0.2
"""Air around the ego vehicle on its way to a start."""
APART_M = 0.4
"""Starts of one scene are at least this far apart; NAVSIM weighs them with a spread of 0.32 m."""
BESIDE_SHARE = 0.25
"""Of the starts, those that lie 0.9 to 2 m beside the human's way, mostly across a lane's edge."""
_TRIES = 80
_MIN_STARTS = 2
_LONGITUDINAL_ACCELERATION = (-4.0, 2.4)
_YAW_RATE = 0.8
_LATERAL_ACCELERATION = 3.6
_BRAKING_MPS2 = (0.0, 1.5, 3.5)
_NEAR_M = 14.0
_ONWARD_S = 3.0
"""The human must drive on for at least this long after the follow-up scenes begin, so that the route goes on."""

_STATE = "nuplan.common.actor_state.state_representation"
_MAPS = "nuplan.common.maps.maps_datatypes"
_GREEN, _RED = 0, 2
_AGENT_KINDS = 3


StartKind = Literal["close", "plain", "beside"]


@dataclass(frozen=True)
class LogToFollow:
    """A finished log, and what it was made of."""

    name: str
    number: int
    """Decides its random numbers."""
    drive: Drive
    start_us: int
    route: tuple[str, ...]
    """Roadblock ids."""


@dataclass(frozen=True)
class StartError:
    """How a start differs from where the human was, as seen from the human's way."""

    ahead_m: float
    faster_mps: float
    left_m: float
    heading_rad: float
    """Counter-clockwise."""


@dataclass(frozen=True)
class Approach:
    """A drive of four seconds that ends in a start, every STEP_S from the first-stage scene on; T = 41."""

    poses: Array
    """[T, 3] rear axle, world."""
    progress_m: Array
    """[T] along the human's way."""
    speed_mps: Array
    """[T]"""
    acceleration_mps2: Array
    """[T] along the heading."""
    yaw_rate: Array
    """[T]"""


class HumanWay:
    """The way the human drives from one keyframe on: a smooth path, and when they were where along it.

    Args:
        index: Traffic with the drive's own vehicle.
        drive: Whose way.
        step: Traffic step of the keyframe.
    """

    def __init__(self, index: TrafficIndex, drive: Drive, step: int) -> None:
        track = index.traffic.tracks[drive.track_index]
        begin = step - track.first_step
        xy = track.rear_axle[begin:, :2] + index.offset
        heading = track.rear_axle[begin:, 2]
        self.progress_m = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
        self._lanes = track.lanes[begin:]
        # A spline through points that stand closer than this would swing.
        apart_m, onward_m = 0.5, np.arange(1.0, 9.0)
        knots = [0]
        for k in range(1, len(xy)):
            if self.progress_m[k] - self.progress_m[knots[-1]] >= apart_m:
                knots.append(k)
        ahead = xy[knots[-1]] + onward_m[:, None] * np.array([np.cos(heading[knots[-1]]), np.sin(heading[knots[-1]])])
        at = np.concatenate([self.progress_m[knots], self.progress_m[knots[-1]] + onward_m])
        self.length_m = float(at[-1])
        self._curve = CubicSpline(at, np.concatenate([xy[knots], ahead]))

    def poses(self, progress_m: Array, left_m: Array, slope: Array) -> Array:
        """Poses [..., 3] beside the way; `slope` is the change of `left_m` per metre of progress."""
        tangent, bend = self._curve(progress_m, 1), self._curve(progress_m, 2)
        norm = np.hypot(*np.moveaxis(tangent, -1, 0))
        tangent = tangent / norm[..., None]
        curvature = (tangent[..., 0] * bend[..., 1] - tangent[..., 1] * bend[..., 0]) / norm**2
        normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
        heading = np.arctan2(tangent[..., 1], tangent[..., 0]) + np.arctan2(slope, 1 - curvature * left_m)
        return np.concatenate([self._curve(progress_m) + left_m[..., None] * normal, heading[..., None]], axis=-1)

    def lane(self, progress_m: float) -> str:
        """SUMO lane of the human's front bumper where they had come this far."""
        return str(self._lanes[min(int(np.searchsorted(self.progress_m, progress_m)), len(self._lanes) - 1)])


def _ease(end: float, slope: float, at: Array) -> tuple[Array, Array]:
    """A curve over [0, 1] that leaves zero without a jerk and reaches `end` with `slope`, and its derivative."""
    a, b, c = 10 * end - 4 * slope, -15 * end + 7 * slope, 6 * end - 3 * slope
    past = np.maximum(at - 1, 0.0)
    at = np.minimum(at, 1.0)
    value = at**3 * (a + at * (b + at * c)) + slope * past
    return value, at**2 * (3 * a + at * (4 * b + at * 5 * c))


def approach(way: HumanWay, error: StartError) -> Approach | None:
    """The drive along the human's way that ends with an error; None where no car drives like that."""
    # Two steps more, so that the derivatives at the start are central ones.
    time_s: Array = np.arange(HORIZON_STEPS + 3, dtype=np.float64) * STEP_S
    horizon_s = HORIZON_STEPS * STEP_S
    late, _ = _ease(error.ahead_m, error.faster_mps * horizon_s, time_s / horizon_s)
    progress = way.progress_m[: len(time_s)] + late
    end_m = float(progress[HORIZON_STEPS])
    if np.diff(progress).min() < -1e-3 or progress[-1] > way.length_m:
        return None
    left, slope = np.zeros_like(progress), np.zeros_like(progress)
    if error.left_m or error.heading_rad:
        left, slope = _ease(error.left_m, float(np.tan(error.heading_rad)) * end_m, progress / end_m)
        slope = slope / end_m
    poses = way.poses(progress, left, slope)
    poses[:, 2] = np.unwrap(poses[:, 2])
    velocity = np.gradient(poses[:, :2], STEP_S, axis=0)
    speed = np.maximum(velocity[:, 0] * np.cos(poses[:, 2]) + velocity[:, 1] * np.sin(poses[:, 2]), 0.0)
    acceleration, yaw_rate = np.gradient(speed, STEP_S), np.gradient(poses[:, 2], STEP_S)
    kept = slice(0, HORIZON_STEPS + 1)
    found = Approach(poses[kept], progress[kept], speed[kept], acceleration[kept], yaw_rate[kept])
    low, high = _LONGITUDINAL_ACCELERATION
    # The human's own first moments are not ours to judge.
    judged = slice(5, None)
    is_drivable = (
        low < found.acceleration_mps2[judged].min()
        and found.acceleration_mps2[judged].max() < high
        and np.abs(found.yaw_rate[judged]).max() < _YAW_RATE
        and np.abs(found.yaw_rate * found.speed_mps)[judged].max() < _LATERAL_ACCELERATION
    )
    return found if is_drivable else None


class StartChooser:
    """Finds starts that a plan may lead to and that can be driven on from.

    Args:
        city, scenery, index, drive: The place, its traffic, and whose log is followed.
    """

    def __init__(self, city: City, scenery: Scenery, index: TrafficIndex, drive: Drive) -> None:
        self._index = index
        self._drive = drive
        self._drivable = city.drivable_area()
        shapely.prepare(self._drivable)
        self._statics = np.array([[*item.pose, *item.size_m[:2]] for item in scenery.objects]).reshape(-1, 5)
        blocks = set(city.route_roadblocks(route_edges(city, index.traffic, drive)))
        self._signalled = [c for c in city.connectors if c.signal and str(c.roadblock_connector) in blocks]

    def choose(self, way: HumanWay, step: int, count: int, rng: np.random.Generator) -> list[Approach]:
        """Approaches from a first-stage scene, the first of them close to what the human did.

        Args:
            way: The human's way from that scene on.
            step: Traffic step of that scene.
            count: Approaches wanted; fewer are returned where there is no room for so many.
        """
        chosen: list[Approach] = []
        beside = 0
        for _ in range(_TRIES):
            if len(chosen) == count:
                break
            kind: StartKind = "close" if not chosen else "beside" if beside < BESIDE_SHARE * count else "plain"
            found = approach(way, _draw_error(way, kind, rng))
            if found is None or not self._is_sound(way, found, step):
                continue
            away_m = [np.hypot(*(found.poses[-1, :2] - other.poses[-1, :2])) for other in chosen]
            if min(away_m, default=np.inf) < APART_M:
                continue
            chosen.append(found)
            beside += kind == "beside"
        return chosen

    def _is_sound(self, way: HumanWay, found: Approach, step: int) -> bool:
        """Whether the past touches nothing and stays on the road, no red light is run, and there is a way on."""
        steps = step + np.arange(HORIZON_STEPS + 1)
        past = slice(HORIZON_STEPS - HISTORY_FRAMES * FRAME_STEPS, None, 2)
        if not self._is_clear(found.poses[past], steps[past], ROOM_M):
            return False
        for at in (-1 - FRAME_STEPS, -1):
            outline = Polygon(box_corners(ego_boxes(found.poses[at])))
            if any(
                is_red(c, self._index.traffic, int(steps[at])) and c.polygon.intersects(outline)
                for c in self._signalled
            ):
                return False
        return any(self._is_clear(*_way_on(way, found, step, braking), 0.0) for braking in _BRAKING_MPS2)

    def _is_clear(self, poses: Array, steps: NDArray[np.int64], room_m: float) -> bool:
        boxes = ego_boxes(poses)
        outlines = shapely.polygons(box_corners(boxes))
        if not shapely.contains(self._drivable, outlines).all():
            return False
        for box, outline, step in zip(boxes, outlines, steps.tolist(), strict=True):
            others = [i for i in self._index.present(step) if i != self._drive.track_index]
            around = np.concatenate([self._index.boxes(others, step), self._statics])
            near = around[np.hypot(around[:, 0] - box[0], around[:, 1] - box[1]) < _NEAR_M]
            if len(near) and shapely.intersects(outline.buffer(room_m), shapely.polygons(box_corners(near))).any():
                return False
        return True


def _draw_error(way: HumanWay, kind: StartKind, rng: np.random.Generator) -> StartError:
    travelled = float(way.progress_m[HORIZON_STEPS])
    speed = (travelled - float(way.progress_m[HORIZON_STEPS - 1])) / STEP_S
    scale = 0.25 if kind == "close" else 1.0
    ahead = scale * rng.normal(0.0, 0.5 + 0.07 * travelled)
    # Who got farther was faster, and mostly still is.
    faster = 0.35 * ahead + scale * rng.normal(0.0, 0.3 + 0.08 * speed)
    left, heading = scale * rng.normal(0.0, 0.35), scale * rng.normal(0.0, np.radians(3.5))
    side, beside = rng.choice([-1.0, 1.0]), rng.uniform(0.9, 2.0)
    if kind == "beside":
        left = side * beside
    # Who has hardly moved cannot have come off the way.
    room = np.clip((travelled + ahead - 3.0) / 12.0, 0.0, 1.0)
    return StartError(float(ahead), float(faster), float(left * room), float(heading * room))


def _way_on(way: HumanWay, found: Approach, step: int, braking_mps2: float) -> tuple[Array, NDArray[np.int64]]:
    """Poses [T, 3] and traffic steps of a return to the human's way after a start, braking all the while."""
    time_s = STEP_S * np.arange(0, HORIZON_STEPS + 1, 2)
    speed = float(found.speed_mps[-1])
    moving_s = np.minimum(time_s, speed / braking_mps2 if braking_mps2 else np.inf)
    gone = speed * moving_s - braking_mps2 * moving_s**2 / 2
    gone = gone[found.progress_m[-1] + gone <= way.length_m]
    here = way.poses(found.progress_m[-1:], np.zeros(1), np.zeros(1))[0]
    left = float((found.poses[-1, :2] - here[:2]) @ np.array([-np.sin(here[2]), np.cos(here[2])]))
    slope = float(np.tan(wrap_angle(found.poses[-1, 2] - here[2])))
    back_m = max(8.0, 2.0 * speed)
    # A way back is a way off, run backwards.
    beside, change = _ease(left, -slope * back_m, np.maximum(1 - gone / back_m, 0.0))
    poses = way.poses(found.progress_m[-1] + gone, beside, -change / back_m)
    return poses, step + HORIZON_STEPS + 2 * np.arange(len(poses))


def onward_steps(frames: int) -> int:
    """Traffic steps that must be recorded after a log of so many keyframes, if its first scenes are to be followed."""
    # The first pair of scenes, what follows them four seconds later, and four seconds after that.
    needed = HISTORY_FRAMES * FRAME_STEPS + 2 * HORIZON_STEPS + 1
    return max(0, needed - (frames - 1) * FRAME_STEPS)


def first_stage_frames(log: LogToFollow, index: TrafficIndex, tokens: Set[str], count: int) -> list[int]:
    """Numbers of the keyframes of a log that follow-up scenes are made for, in order.

    Args:
        tokens: Scenes worth planning in. A frame needs its own and the earlier one's.
        count: Frames wanted, spread over the log; fewer where traffic or the human's way end too early.
    """
    track = index.traffic.tracks[log.drive.track_index]
    usable: list[int] = []
    for number, step in enumerate(log.drive.steps()):
        pair = {token_of(log.name, number), token_of(log.name, number - 1)}
        start = step + HORIZON_STEPS
        goes_on = start + HORIZON_STEPS < index.traffic.steps and track.last_step >= start + round(_ONWARD_S / STEP_S)
        apart = not usable or number - usable[-1] >= SPACING_FRAMES
        if pair <= tokens and goes_on and apart and number + PLAN_POSES < log.drive.frames:
            usable.append(number)
    spread = np.unique(np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int))
    return [usable[k] for k in spread]


def write_follow_ups(
    root: Path,
    log: LogToFollow,
    place: tuple[City, Scenery, TrafficIndex, SensorSuite],
    tokens: Set[str],
    preset: WorldPreset,
    seed: int,
    appearance: np.random.Generator,
) -> list[TwoStageGroup]:
    """Write the follow-up scenes of a log: their files, and the images of every frame in them.

    Args:
        root: Data root.
        log: Log of the first stage.
        place: City, scenery, traffic and sensors.
        tokens: Scenes of the data split that are worth planning in.
        appearance: As given to the log's own sensors, so that the weather stays the same.
    Returns:
        Two-stage groups (scene, scene 0.5 s earlier, pairs of scenes that follow the two).
    """
    assert preset.follow_ups is not None
    city, scenery, index, sensors = place
    surroundings = Surroundings(city, scenery, index, log.drive)
    chooser = StartChooser(city, scenery, index, log.drive)
    writer = _SceneWriter(log, city, surroundings, preset, seed)
    folder = two_stage_folder(root)
    groups: list[TwoStageGroup] = []
    rendered: list[KeyFrame] = []
    for number in first_stage_frames(log, index, tokens, preset.follow_ups.scenes_per_log):
        step = log.drive.steps()[number]
        way = HumanWay(index, log.drive, step)
        rng = np.random.default_rng([seed, log.number, number, 83])
        starts = chooser.choose(way, step, preset.follow_ups.starts_per_scene, rng)
        if len(starts) < _MIN_STARTS:
            continue
        pairs = []
        for k, found in enumerate(starts):
            frames = _frames(log, surroundings, way, found, number, k)
            rendered += frames
            # The earlier scene of a pair is the same drive half a second before.
            now, earlier = frames[1:], frames[:-1]
            for history, original in ((now, number), (earlier, number - 1)):
                travelled_m = float(found.progress_m[history[-1].step - step])
                content = writer.scene(history, way, travelled_m, token_of(log.name, original + PLAN_POSES))
                write_pickle(folder / "synthetic_scene_pickles" / f"{history[-1].token}.pkl", content)
            pairs.append((now[-1].token, earlier[-1].token))
        groups.append((token_of(log.name, number), token_of(log.name, number - 1), tuple(pairs)))
    if rendered:
        # NAVSIM's own follow-up scenes have no point clouds.
        sensors.write(rendered, folder / "sensor_blobs" / log.name, appearance, log.name, lidar=False)
    return groups


def _frames(
    log: LogToFollow, surroundings: Surroundings, way: HumanWay, found: Approach, number: int, k: int
) -> list[KeyFrame]:
    """The five keyframes of a pair of scenes: the last four are the later one's past, the first four the earlier's."""
    step = log.drive.steps()[number]
    frames = []
    for back in range(HISTORY_FRAMES, -1, -1):
        at = HORIZON_STEPS - back * FRAME_STEPS
        frames.append(
            surroundings.key_frame(
                token_of(log.name, number, "follow-up", k, back, length=17),
                step + at,
                log.start_us + (number + PLAN_POSES - back) * FRAME_US,
                np.array([*found.poses[at, :2], float(wrap_angle(found.poses[at, 2]))]),
                (float(found.speed_mps[at]), float(found.acceleration_mps2[at]), float(found.yaw_rate[at])),
                way.lane(float(found.progress_m[at])),
            )
        )
    return frames


class _SceneWriter:
    """Synthetic scenes in the layout that `navsim.common.dataclasses.Scene.save_to_disk` gives them."""

    def __init__(
        self, log: LogToFollow, city: City, surroundings: Surroundings, preset: WorldPreset, seed: int
    ) -> None:
        self._log = log
        self._city = city
        self._surroundings = surroundings
        self._preset = preset
        self._seed = seed
        self._cameras = cameras_of(preset, vehicle_number(log.name))

    def scene(self, history: Sequence[KeyFrame], way: HumanWay, progress_m: float, original: str) -> dict[str, Any]:
        """Content of a scene's file.

        Args:
            history: Four keyframes, the last is the start.
            way, progress_m: The human's way, and where along it the start lies.
            original: Token of the log's frame at the time of the start.
        """
        now = history[-1]
        detections, lights = self._continuation(now, way, progress_m)
        return {
            "scene_metadata": {
                "log_name": self._log.name,
                "scene_token": now.token,
                "map_name": self._city.location,
                "initial_token": now.token,
                "num_history_frames": HISTORY_FRAMES,
                "num_future_frames": 0,
                "corresponding_original_scene": original,
                "corresponding_original_initial_token": original,
            },
            "frames": [self._frame(frame) for frame in history],
            "extended_traffic_light_data": lights,
            "extended_detections_tracks": detections,
        }

    def _frame(self, frame: KeyFrame) -> dict[str, Any]:
        objects = frame.objects
        velocity = [[*item.velocity_mps, 0.0] for item in objects]
        command = np.zeros(len(COMMANDS), dtype=np.int64)
        command[frame.command] = 1
        return {
            "token": frame.token,
            "timestamp": frame.time_us,
            "roadblock_ids": list(self._log.route),
            "traffic_lights": [(connector.fid, red) for connector, red, _ in frame.lights],
            "annotations": {
                "boxes": boxes_ego(objects).astype(np.float32),
                "names": [item.type for item in objects],
                "velocity_3d": np.array(velocity, dtype=np.float32).reshape(-1, 3),
                "instance_tokens": [token_of(frame.token, item.track) for item in objects],
                "track_tokens": [track_token(self._log.name, self._seed, item.track) for item in objects],
            },
            "ego_status": {
                "ego_pose": np.array(frame.ego_pose, dtype=np.float64),
                "ego_velocity": np.array([frame.speed_mps, 0.0], dtype=np.float32),
                "ego_acceleration": np.array(
                    [frame.acceleration_mps2, frame.speed_mps * frame.yaw_rate], dtype=np.float32
                ),
                "driving_command": command,
                "in_global_frame": True,
            },
            "lidar_path": None,
            "camera_dict": {
                name.lower(): camera_record(camera, self._log.name, frame.token, rendered=True)
                if name in self._preset.cameras
                else {}
                for name, camera in self._cameras.items()
            },
        }

    def _continuation(
        self, now: KeyFrame, way: HumanWay, progress_m: float
    ) -> tuple[list[DevkitObject], list[DevkitObject]]:
        """Traffic and lights every half second after a start, as recorded.

        What is near is judged from a vehicle that goes on along the human's way as fast as it starts.
        """
        seen: list[tuple[int, Array, tuple[SceneObject, ...]]] = []
        for frame in range(1, PLAN_POSES + 1):
            step = now.step + frame * FRAME_STEPS
            onward_m = now.speed_mps * frame * FRAME_STEPS * STEP_S
            pose = way.poses(np.array([min(progress_m + onward_m, way.length_m)]), np.zeros(1), np.zeros(1))[0]
            seen.append((step, pose, self._surroundings.objects(step, pose)))
        sightings = Counter(item.track for *_, objects in seen for item in objects)
        sightings.update(item.track for item in now.objects)
        detections, lights = [], []
        for frame, (step, pose, objects) in enumerate(seen, start=1):
            time_us = now.time_us + frame * FRAME_US
            # The official scorer takes what it sees once for something that stands there all the time.
            lasting = [item for item in objects if sightings[item.track] > 1]
            detections.append(self._detections(lasting, pose, time_us, now.token))
            lights.append(_light_statuses(self._surroundings.lights(step, now.ego_pose), time_us))
        return detections, lights

    def _detections(self, objects: Sequence[SceneObject], pose: Array, time_us: int, token: str) -> DevkitObject:
        kinds = [OBJECT_TYPES.index(item.type) for item in objects]
        # The devkit sorts its tracks by type when it makes such a list, and relies on it.
        order = sorted(range(len(objects)), key=lambda i: kinds[i])
        tracked = [self._tracked(objects[i], kinds[i], pose, time_us, token) for i in order]
        return devkit_object(
            "nuplan.planning.simulation.observation.observation_type.DetectionsTracks",
            tracked_objects=devkit_object(
                "nuplan.common.actor_state.tracked_objects.TrackedObjects", tracked_objects=tracked
            ),
        )

    def _tracked(self, item: SceneObject, kind: int, pose: Array, time_us: int, token: str) -> DevkitObject:
        x, y, heading = ego_to_world(item.box[[0, 1, 6]], pose).tolist()
        length, width, height = item.box[3:6].tolist()
        shared = {
            "_metadata": devkit_object(
                "nuplan.common.actor_state.scene_object.SceneObjectMetadata",
                timestamp_us=time_us,
                token=token_of(token, time_us, item.track),
                track_id=None,
                track_token=track_token(self._log.name, self._seed, item.track),
                category_name=None,
            ),
            "instance_token": None,
            "_tracked_object_type": devkit_object(
                "nuplan.common.actor_state.tracked_objects_types.TrackedObjectType", kind
            ),
            "_box": devkit_object(
                "nuplan.common.actor_state.oriented_box.OrientedBox",
                _center=devkit_object(f"{_STATE}.StateSE2", x=x, y=y, heading=heading),
                _length=length,
                _width=width,
                _height=height,
            ),
        }
        if kind >= _AGENT_KINDS:
            return devkit_object(
                "nuplan.common.actor_state.static_object.StaticObject",
                **shared,
                predictions=None,
                past_trajectory=None,
                velocity=_vector(0.0, 0.0),
            )
        cos, sin = np.cos(pose[2]), np.sin(pose[2])
        vx, vy = item.velocity_mps
        return devkit_object(
            "nuplan.common.actor_state.agent.Agent",
            _initial_time_stamp=devkit_object(f"{_STATE}.TimePoint", time_us=time_us),
            _predictions=[],
            _past_trajectory=None,
            **shared,
            _velocity=_vector(float(cos * vx - sin * vy), float(sin * vx + cos * vy)),
            _angular_velocity=None,
        )


def _vector(x: float, y: float) -> DevkitObject:
    return devkit_object(f"{_STATE}.StateVector2D", _x=x, _y=y, _array=np.array([x, y]))


def _light_statuses(lights: Sequence[tuple[Connector, bool, str]], time_us: int) -> DevkitObject:
    return devkit_object(
        f"{_MAPS}.TrafficLightStatuses",
        traffic_lights=[
            devkit_object(
                f"{_MAPS}.TrafficLightStatusData",
                status=devkit_object(f"{_MAPS}.TrafficLightStatusType", _RED if red else _GREEN),
                lane_connector_id=connector.fid,
                timestamp=time_us,
            )
            for connector, red, _ in lights
        ],
    )
