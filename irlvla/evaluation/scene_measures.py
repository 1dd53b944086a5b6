"""What happens in a scene, in figures: how the ego vehicle moves, what is around it, and with whom it has to do.

Everything is measured at the present frame and over the four seconds that the human drove. The *way ahead* is the path
driven, continued along the route's centerline, or straight on where there is none. Distances are along that way; gaps
are measured from the front bumper.

The thresholds are ours; NAVSIM publishes no such figures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from irlvla.data.language import meta_action
from irlvla.data.maps import CityMap
from irlvla.data.scenes import human_plan
from irlvla.geometry import EGO_FRONT_M, EGO_WIDTH_M, box_corners, world_to_ego, wrap_angle
from irlvla.simulation.observation import boxes_in_world
from irlvla.types import COMMANDS, OBJECT_TYPES, PLAN_POSES, Array, Scene

OBJECT_REACH_M = 50.0
"""Objects are counted up to this distance of their centre from the rear axle."""
LEADER_REACH_M = 50.0
LIGHT_REACH_M = 50.0
FOLLOWING_S = 3.0
"""Whoever drives follows a leader that is at most this far ahead ..."""
QUEUE_GAP_M = 8.0
"""... and whoever stands one that is at most this far ahead."""
CROSSING_REACH_M = 30.0
PEDESTRIAN_REACH_M = 25.0
PEDESTRIAN_BESIDE_M = 3.0
ONCOMING_REACH_M = 45.0
ONCOMING_BESIDE_M = 15.0
MOVING_MPS = 1.0
STANDING_MPS = 0.5

INTERACTIONS = (
    "follows a leader",
    "red light",
    "yields to crossing traffic",
    "pedestrian near the way",
    "oncoming traffic while turning",
    "passes a standing vehicle",
    "passes road works",
)
"""What a scene may hold, several at once:

- follows a leader: a vehicle or bicycle ahead in the way, FOLLOWING_S or QUEUE_GAP_M away at most;
- red light: the next light on the way is red, and the human waits, stops or slows down;
- yields to crossing traffic: somebody moves across the way, at most CROSSING_REACH_M ahead, while the human waits,
  stops, slows down or starts, and no red light is the reason;
- pedestrian near the way: at most PEDESTRIAN_BESIDE_M beside it and PEDESTRIAN_REACH_M ahead;
- oncoming traffic while turning: moves towards the ego vehicle on the side that it turns to;
- passes a standing vehicle, passes road works: the human drives past a vehicle that stands all the time, or past cones,
  barriers or signs, that leave no room for it on the route's centerline.
"""

LIGHTS = ("red", "green", "none")
_HALF_WIDTH_M = EGO_WIDTH_M / 2
_WAY_STEP_M = 0.5
_WAY_M = EGO_FRONT_M + LEADER_REACH_M + 10.0
_LEAST_WAY_M = 25.0
_JOINS_CENTERLINE_M = 3.0
_JOINS_CENTERLINE_RAD = np.radians(60)
_CURVE_STEP_M = 1.0
_SAME_WAY_RAD = np.radians(60)
_ACROSS_RAD = np.radians((45, 135))
_ONCOMING_RAD = np.radians(135)
_STAYS_M = 1.0
_STOP_LINE_BESIDE_M = 1.75
_STOP_LINE_RAD = np.radians(35)
_VEHICLE, _PEDESTRIAN, _BICYCLE = (OBJECT_TYPES.index(name) for name in ("vehicle", "pedestrian", "bicycle"))
_ROAD_WORKS = [OBJECT_TYPES.index(name) for name in ("traffic_cone", "barrier", "czone_sign")]


@dataclass(frozen=True)
class SceneMeasures:
    """One scene in figures; None where a figure does not apply."""

    token: str
    log_name: str
    location: str
    roadblock: int
    """First block of the route, which tells networks of one location apart."""
    speed_mps: float
    acceleration_mps2: float
    """Along the heading, as logged."""
    travel_m: float
    """Path length of the next four seconds."""
    curvature_per_m: float | None
    """Sharpest of the next four seconds' steps of at least one metre, without sign; None where there is none."""
    gap_m: float | None
    """To the rear of the leader; None where nobody is ahead within LEADER_REACH_M."""
    time_gap_s: float | None
    """The gap at the present speed; None without leader or below MOVING_MPS."""
    objects: tuple[int, ...]
    """How many of each of OBJECT_TYPES are within OBJECT_REACH_M."""
    light: str
    """Next light on the way, at most LIGHT_REACH_M ahead: one of LIGHTS. Yellow counts as green, as in the logs."""
    command: str
    """One of COMMANDS."""
    speed_word: str
    path_word: str
    interactions: tuple[str, ...]
    """Which of INTERACTIONS hold, in that order."""


@dataclass(frozen=True)
class _Way:
    """A polyline every half metre from the rear axle on, in the ego frame."""

    points: Array
    """[P, 2] m."""
    headings: Array
    """[P] rad."""

    def project(self, points: Array) -> tuple[Array, Array, Array]:
        """Distance along the way, offset to its left (m) and its heading (rad) where points [..., 2] are nearest to it.

        Beyond an end the way goes on straight.
        """
        flat = points.reshape(-1, 2)
        squared = (flat[:, :1] - self.points[:, 0]) ** 2 + (flat[:, 1:] - self.points[:, 1]) ** 2
        nearest = squared.argmin(axis=1)
        heading = self.headings[nearest]
        dx, dy = (flat - self.points[nearest]).T
        along = nearest * _WAY_STEP_M + dx * np.cos(heading) + dy * np.sin(heading)
        beside = -dx * np.sin(heading) + dy * np.cos(heading)
        shape = points.shape[:-1]
        return along.reshape(shape), beside.reshape(shape), heading.reshape(shape)


@dataclass(frozen=True)
class _Around:
    """Objects of the present frame in the ego frame."""

    types: NDArray[np.int64]
    """[N]"""
    boxes: Array
    """[N, 5] center x, y, heading, length, width (m, rad)."""
    speed_mps: Array
    """[N]"""


@dataclass(frozen=True)
class _Seen:
    """Moving objects of now and the eight frames after, one row a sighting, in the present ego frame."""

    types: NDArray[np.int64]
    frame: NDArray[np.int64]
    """0 is now."""
    poses: Array
    """[M, 3]"""
    speed_mps: Array


def measure_scene(scene: Scene, city_map: CityMap, centerline_world: Array) -> SceneMeasures:
    """Measure one scene.

    Args:
        scene: History, now, and at least eight future frames.
        city_map: The city it lies in.
        centerline_world: [L, 3] the route's centerline from the ego vehicle's lane on, as the scoring context holds it.
    Raises:
        SceneDataError: The scene is synthetic or too short: no human drove on.
    """
    now = scene.now
    plan = human_plan(scene)
    driven = np.concatenate([np.zeros((1, 3)), plan])
    steps_m = np.hypot(*np.diff(driven[:, :2], axis=0).T)
    driven_m = np.concatenate([[0.0], np.cumsum(steps_m)])
    speed_mps = float(np.hypot(*now.ego_velocity_mps))
    speed_word, path_word = meta_action(plan, speed_mps)
    centerline = world_to_ego(centerline_world, now.ego_pose_world)
    way = _way_ahead(driven, centerline)
    around = _Around(now.boxes.types, now.boxes.boxes[:, [0, 1, 6, 3, 4]], np.hypot(*now.boxes.velocity_mps[:, :2].T))
    gap_m = _leader_gap_m(way, around)
    light = _next_light(way, scene, city_map)
    time_gap_s = None if gap_m is None or speed_mps < MOVING_MPS else gap_m / speed_mps
    is_slow = speed_word in ("wait", "stop", "slow down")
    seen = _sightings(scene)
    across, pedestrian = _on_the_way(way, seen, driven_m)
    vehicle, works = _passed(way, _lane_ahead(centerline), around, float(driven_m[-1]), scene)
    near = np.hypot(around.boxes[:, 0], around.boxes[:, 1]) <= OBJECT_REACH_M
    found = (
        gap_m is not None and (gap_m <= QUEUE_GAP_M if time_gap_s is None else time_gap_s <= FOLLOWING_S),
        light == "red" and is_slow,
        across and light != "red" and (is_slow or speed_word == "start"),
        pedestrian,
        path_word.startswith("turn") and _has_oncoming(seen, 1.0 if path_word == "turn left" else -1.0),
        vehicle,
        works,
    )
    return SceneMeasures(
        token=scene.token,
        log_name=scene.log_name,
        location=scene.map_location,
        roadblock=int(now.roadblock_ids[0]),
        speed_mps=speed_mps,
        acceleration_mps2=float(now.ego_acceleration_mps2[0]),
        travel_m=float(driven_m[-1]),
        curvature_per_m=_sharpest(driven, steps_m),
        gap_m=gap_m,
        time_gap_s=time_gap_s,
        objects=tuple(np.bincount(around.types[near], minlength=len(OBJECT_TYPES)).tolist()),
        light=light,
        command=COMMANDS[int(np.argmax(now.command))],
        speed_word=speed_word,
        path_word=path_word,
        interactions=tuple(name for name, holds in zip(INTERACTIONS, found, strict=True) if holds),
    )


def _sharpest(driven: Array, steps_m: Array) -> float | None:
    moving = steps_m >= _CURVE_STEP_M
    if not moving.any():
        return None
    turned = np.abs(wrap_angle(np.diff(driven[:, 2])))
    return float((turned[moving] / steps_m[moving]).max())


def _way_ahead(driven: Array, centerline: Array) -> _Way:
    """The path driven [T, 3], and beyond its end the centerline [L, 3], kept at the offset that the end has to it."""
    kept = [driven[0]]
    for pose in driven[1:]:
        if np.hypot(*(pose[:2] - kept[-1][:2])) >= _WAY_STEP_M:
            kept.append(pose)
    way, end = np.array(kept)[:, :2], kept[-1]
    nearest = int(np.argmin(np.hypot(*(centerline[:, :2] - end[:2]).T)))
    heading = centerline[nearest, 2]
    dx, dy = end[:2] - centerline[nearest, :2]
    beside = -dx * np.sin(heading) + dy * np.cos(heading)
    turned = abs(float(wrap_angle(heading - end[2])))
    if abs(beside) <= _JOINS_CENTERLINE_M and turned <= _JOINS_CENTERLINE_RAD:
        onward = centerline[nearest:]
        normals = np.stack([-np.sin(onward[:, 2]), np.cos(onward[:, 2])], axis=-1)
        onward = onward[:, :2] + beside * normals
        # Vertices that lie behind the end would make the way turn back.
        ahead = (onward - end[:2]) @ np.array([np.cos(end[2]), np.sin(end[2])]) > _WAY_STEP_M
        way = np.concatenate([way, onward[int(np.argmax(ahead)) :] if ahead.any() else onward[:0]])
    length_m = float(np.hypot(*np.diff(way, axis=0).T).sum())
    if length_m < _LEAST_WAY_M:
        direction = end[2] if len(way) == len(kept) else np.arctan2(*(way[-1] - way[-2])[::-1])
        rest = (_LEAST_WAY_M - length_m) * np.array([np.cos(direction), np.sin(direction)])
        way = np.concatenate([way, way[-1:] + rest])
    return _every_half_metre(way)


def _lane_ahead(centerline: Array) -> _Way:
    """The centerline [L, 3] from where it is nearest to the ego vehicle."""
    nearest = int(np.argmin(np.hypot(centerline[:, 0], centerline[:, 1])))
    # Its last vertex alone would be no line.
    return _every_half_metre(centerline[min(nearest, len(centerline) - 2) :, :2])


def _every_half_metre(line: Array) -> _Way:
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    grid = np.arange(0.0, max(min(along[-1], _WAY_M), 2 * _WAY_STEP_M), _WAY_STEP_M)
    points = np.stack([np.interp(grid, along, line[:, axis]) for axis in (0, 1)], axis=-1)
    directions = np.diff(points, axis=0)
    headings = np.arctan2(directions[:, 1], directions[:, 0])
    return _Way(points, np.append(headings, headings[-1]))


def _extents(way: _Way, boxes: Array) -> tuple[Array, Array, Array]:
    """Rear end along the way, and right and left edge beside it, of boxes [N, 5]."""
    along, beside, _ = way.project(box_corners(boxes))
    return along.min(axis=1), beside.min(axis=1), beside.max(axis=1)


def _leader_gap_m(way: _Way, around: _Around) -> float | None:
    users = np.isin(around.types, (_VEHICLE, _BICYCLE))
    boxes = around.boxes[users]
    if not len(boxes):
        return None
    rear, right, left = _extents(way, boxes)
    along, _, heading = way.project(boxes[:, :2])
    in_the_way = (right < _HALF_WIDTH_M) & (left > -_HALF_WIDTH_M)
    same_way = np.abs(wrap_angle(boxes[:, 2] - heading)) < _SAME_WAY_RAD
    gaps = rear - EGO_FRONT_M
    leads = in_the_way & same_way & (along > EGO_FRONT_M) & (gaps <= LEADER_REACH_M)
    return max(0.0, float(gaps[leads].min())) if leads.any() else None


def _next_light(way: _Way, scene: Scene, city_map: CityMap) -> str:
    """State of the nearest light whose connector begins on the way; of several from one lane, of the one it follows."""
    states = {int(connector): red for connector, red in scene.now.traffic_lights if connector.isdecimal()}
    lanes = [lane for lane in states if lane in city_map.lane_connectors]
    if not lanes:
        return "none"
    starts = np.array([city_map.discrete_path(lane)[0] for lane in lanes])
    starts = world_to_ego(starts, scene.now.ego_pose_world)
    along, beside, heading = way.project(starts[:, :2])
    ahead_m = along - EGO_FRONT_M
    turned = np.abs(wrap_angle(starts[:, 2] - heading))
    # A bumper may stand a little over its stop line.
    on_way = (ahead_m > -1.0) & (ahead_m <= LIGHT_REACH_M)
    on_way &= (np.abs(beside) < _STOP_LINE_BESIDE_M) & (turned < _STOP_LINE_RAD)
    if not on_way.any():
        return "none"
    first_m = ahead_m[on_way].min()
    chosen, least_m = lanes[0], np.inf
    for row in np.flatnonzero(on_way & (ahead_m < first_m + 1.0)):
        path = world_to_ego(city_map.discrete_path(lanes[row]), scene.now.ego_pose_world)
        along, beside, _ = way.project(path[:, :2])
        known = along <= len(way.points) * _WAY_STEP_M
        off_m = float(np.abs(beside[known]).mean()) if known.any() else 0.0
        if off_m < least_m:
            chosen, least_m = lanes[row], off_m
    return "red" if states[chosen] else "green"


def _sightings(scene: Scene) -> _Seen:
    frames = (scene.now, *scene.future[:PLAN_POSES])
    in_world = [boxes_in_world(frame) for frame in frames]
    boxes = np.concatenate([boxes for boxes, _ in in_world])
    velocity = np.concatenate([velocity for _, velocity in in_world])
    types = np.concatenate([frame.boxes.types for frame in frames])
    counts = [len(frame.boxes) for frame in frames]
    users = types <= _BICYCLE
    return _Seen(
        types[users],
        np.repeat(np.arange(len(frames)), counts)[users],
        world_to_ego(boxes[users, :3], scene.now.ego_pose_world),
        np.hypot(velocity[users, 0], velocity[users, 1]),
    )


def _on_the_way(way: _Way, seen: _Seen, driven_m: Array) -> tuple[bool, bool]:
    """Whether somebody moves across the way ahead, and whether a pedestrian is near it, at any time."""
    along, beside, heading = way.project(seen.poses[:, :2])
    ahead_m = along - driven_m[seen.frame] - EGO_FRONT_M
    turned = np.abs(wrap_angle(seen.poses[:, 2] - heading))
    across = (seen.types != _PEDESTRIAN) & (seen.speed_mps > MOVING_MPS)
    across &= (turned > _ACROSS_RAD[0]) & (turned < _ACROSS_RAD[1])
    across &= (np.abs(beside) < _HALF_WIDTH_M + 1.0) & (ahead_m > -1.0) & (ahead_m < CROSSING_REACH_M)
    walks = (seen.types == _PEDESTRIAN) & (np.abs(beside) <= PEDESTRIAN_BESIDE_M)
    walks &= (ahead_m > -1.0) & (ahead_m <= PEDESTRIAN_REACH_M)
    return bool(across.any()), bool(walks.any())


def _has_oncoming(seen: _Seen, side: float) -> bool:
    """Whether somebody comes towards the ego vehicle on one side, 1 for left and -1 for right."""
    x, y, heading = seen.poses.T
    oncoming = (seen.types != _PEDESTRIAN) & (seen.speed_mps > MOVING_MPS) & (np.abs(heading) > _ONCOMING_RAD)
    return bool((oncoming & (x > 0) & (x < ONCOMING_REACH_M) & (y * side > 0) & (y * side < ONCOMING_BESIDE_M)).any())


def _passed(way: _Way, lane: _Way, around: _Around, travel_m: float, scene: Scene) -> tuple[bool, bool]:
    """Whether the human drives past a standing vehicle, or past road works, that block the route's lane."""
    stands = (around.types == _VEHICLE) & (around.speed_mps < STANDING_MPS)
    works = np.isin(around.types, _ROAD_WORKS)
    rows = np.flatnonzero(stands | works)
    if not len(rows):
        return False, False
    boxes = around.boxes[rows]
    _, right, left = _extents(lane, boxes)
    in_the_way = (right < _HALF_WIDTH_M) & (left > -_HALF_WIDTH_M)
    along, beside, _ = way.project(boxes[:, :2])
    passed = in_the_way & (along > 0.0) & (along < travel_m + EGO_FRONT_M) & (np.abs(beside) < ONCOMING_BESIDE_M)
    return any(_stays(scene, int(row)) for row in rows[passed & stands[rows]]), bool((passed & works[rows]).any())


def _stays(scene: Scene, row: int) -> bool:
    """Whether an object of the present frame is still in its place where it is last seen within the four seconds."""
    token = scene.now.boxes.track_tokens[row]
    here = boxes_in_world(scene.now)[0][row, :2]
    for frame in reversed(scene.future[:PLAN_POSES]):
        if token in frame.boxes.track_tokens:
            there = boxes_in_world(frame)[0][frame.boxes.track_tokens.index(token), :2]
            return float(np.hypot(*(there - here))) < _STAYS_M
    return True
