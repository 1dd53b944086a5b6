"""Choosing drives: which vehicle, from when, becomes the ego of a log; and checking that it drives well."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from irlvla.geometry import EGO_WHEEL_BASE_M, box_corners, ego_boxes
from irlvla.types import HISTORY_FRAMES, PLAN_POSES
from irlvla.world.city import City, Connector
from irlvla.world.motion import STEP_S, Track
from irlvla.world.scenery import Scenery
from irlvla.world.traffic import EGO_TYPE_PREFIX, RecordedTraffic

Array = NDArray[np.float64]

FRAME_STEPS = 5
"""Traffic steps between keyframes (0.5 s)."""

# What no person does, be it in an emergency.
BEARABLE_ACCELERATION_MPS2 = 6.0
BEARABLE_LATERAL_MPS2 = 4.0
BEARABLE_YAW_RATE_RADPS = 0.7
MAX_STEERING_RAD = 0.8
MAX_STEERING_RATE_RADPS = 0.9
LATE_YELLOW_S = 2.0
"""Entering a junction so long after its light turned yellow is a fault."""
KERB_GRAZE_M = 0.3
"""A human's corner may leave the drivable area by this much and be labelled for it; beyond, no log is made of it."""

_STANDING_MPS = 0.3
_MAX_STANDING_SHARE = 0.45


@dataclass(frozen=True)
class Drive:
    """One log to be written: a vehicle over a stretch of time."""

    track_index: int
    """Into RecordedTraffic.tracks."""
    first_step: int
    frames: int

    def steps(self) -> range:
        """Traffic steps of the keyframes."""
        return range(self.first_step, self.first_step + self.frames * FRAME_STEPS, FRAME_STEPS)


class TrafficIndex:
    """Who is where at a step, in world coordinates."""

    def __init__(self, traffic: RecordedTraffic, offset: Array) -> None:
        self.traffic = traffic
        self.offset = offset
        self._present: list[list[int]] = [[] for _ in range(traffic.steps + 1)]
        for index, track in enumerate(traffic.tracks):
            for step in range(max(0, track.first_step), min(traffic.steps, track.last_step) + 1):
                self._present[step].append(index)

    def present(self, step: int) -> list[int]:
        """Indices of the tracks that exist at a step."""
        return self._present[step]

    def boxes(self, indices: list[int], step: int) -> Array:
        """[N, 5] center x, y, heading, length, width of tracks at a step."""
        rows = np.empty((len(indices), 5))
        for row, index in zip(rows, indices, strict=True):
            track = self.traffic.tracks[index]
            row[:3] = track.center[step - track.first_step]
            row[3:] = track.size_m[:2]
        rows[:, :2] += self.offset
        return rows

    def ego_pose(self, index: int, step: int) -> Array:
        """[3] rear axle of a track at a step."""
        track = self.traffic.tracks[index]
        pose = track.rear_axle[step - track.first_step].copy()
        pose[:2] += self.offset
        return pose


def is_red(connector: Connector, traffic: RecordedTraffic, step: int) -> bool:
    """Whether a connector's light forbids entering at a step; yellow does not."""
    if connector.signal is None:
        return False
    light, link = connector.signal
    states = traffic.signals.get(light)
    return states is not None and states[min(step, len(states) - 1)][link] in "rRu"


def yellow_s(connector: Connector, traffic: RecordedTraffic, step: int) -> float:
    """For how long a connector's light has been yellow at a step; 0 where it is not."""
    if connector.signal is None or connector.signal[0] not in traffic.signals:
        return 0.0
    light, link = connector.signal
    states = traffic.signals[light]
    first = min(step, len(states) - 1)
    since = first
    while since >= 0 and states[since][link] in "yY":
        since -= 1
    return (first - since) * STEP_S


def route_edges(city: City, traffic: RecordedTraffic, drive: Drive) -> tuple[str, ...]:
    """SUMO edges of the ego's route, from two edges behind the log's start to its destination."""
    track = traffic.tracks[drive.track_index]
    route = traffic.routes.get(track.name, ())
    start = drive.first_step - track.first_step
    driven = [lane.rsplit("_", 1)[0] for lane in track.lanes[start:] if not str(lane).startswith(":")]
    if not driven or driven[0] not in route:
        return ()
    return route[max(0, route.index(driven[0]) - 3) :]


def choose_drives(
    city: City,
    scenery: Scenery,
    traffic: RecordedTraffic,
    count: int,
    frames: int,
    seed: int,
    obstacles: Array | None = None,
    *,
    onward_steps: int = 0,
    dropped: Counter[str] | None = None,
) -> list[Drive]:
    """Pick eventful drives, balanced between braking, speeding up, turning, following and passing obstacles.

    A drive is a car of the ego's outline over a log's length, not standing for most of it, picked by what happens in
    it (`_EVENT_WORTH`), never by how it scores. Discomfort and faults stay in, to be labelled by `irlvla.world.faults`;
    only what no person would have driven, or nobody around could have seen happen, is dropped (`_fault`).

    Args:
        count: Drives wanted; fewer are returned where the traffic does not offer more.
        frames: Keyframes per drive.
        obstacles: [N, 2] world points of what stands in the way.
        onward_steps: For so many steps after a drive its vehicle and the traffic must go on.
        dropped: Counts why drives that were picked could not stand.
    """
    rng = np.random.default_rng([seed, 41])
    index = TrafficIndex(traffic, city.offset)
    drivable = city.drivable_area()
    shapely.prepare(drivable)
    span = (frames - 1) * FRAME_STEPS
    candidates: list[Drive] = []
    events: list[Array] = []
    for number, track in enumerate(traffic.tracks):
        if not track.kind.startswith(EGO_TYPE_PREFIX):
            continue
        for start in range(track.first_step + 10, track.last_step - span - onward_steps - 12, 10):
            if start < 0 or start + span + onward_steps >= traffic.steps:
                continue
            drive = Drive(number, start, frames)
            happens = _events(track, drive)
            if happens is not None:
                candidates.append(drive)
                events.append(happens)
    if not candidates:
        return []
    kind_worth = _EVENT_WORTH
    gain = np.array(events) * rng.uniform(0.8, 1.2, (len(events), 1))
    if obstacles is not None and len(obstacles):
        passes = [_passes(traffic.tracks[drive.track_index], drive, obstacles - city.offset) for drive in candidates]
        gain = np.concatenate([gain, np.array(passes)[:, None]], axis=1)
        kind_worth = np.append(kind_worth, _PASSING_WORTH)
    chosen: list[Drive] = []
    seen = np.zeros(gain.shape[1])
    open_ = np.ones(len(candidates), dtype=bool)
    while len(chosen) < count and open_.any():
        # Each further scene of one kind is worth less, so that the kinds stay in balance.
        worth = (kind_worth * (np.sqrt(seen + gain) - np.sqrt(seen))).sum(axis=1)
        best = int(np.argmax(np.where(open_, worth, -np.inf)))
        drive = candidates[best]
        open_[best] = False
        fault = _fault(city, scenery, index, drive, span, drivable)
        if fault is not None and dropped is not None:
            dropped[fault] += 1
        if fault is None:
            chosen.append(drive)
            seen += gain[best]
            for i, other in enumerate(candidates):
                if other.track_index == drive.track_index and abs(other.first_step - drive.first_step) <= span:
                    open_[i] = False
    return chosen


# Worth of a scene in which the driver brakes, speeds up, turns left, turns right, waits, or does nothing of note.
# About a fifth of the scenes are turns, several times what the traffic itself offers.
_EVENT_WORTH = np.array([1.0, 1.0, 0.5, 0.45, 0.3, 1.3])
_PASSING_WORTH = 0.6
# The next lane of one's own direction is nearer than this, the oncoming one is not.
_PASSING_M = 4.3


def _passes(track: Track, drive: Drive, obstacles: Array) -> float:
    """Scenes of a drive in whose four seconds the ego vehicle comes past one of the obstacles (network coordinates)."""
    begin = drive.first_step - track.first_step
    now = begin + FRAME_STEPS * np.arange(HISTORY_FRAMES - 1, drive.frames - 10)
    gap = np.hypot(*(track.center[:, None, :2] - obstacles).transpose(2, 0, 1)).min(axis=1)
    beside = np.concatenate([[0], np.cumsum(gap < _PASSING_M)])
    return float((beside[now + PLAN_POSES * FRAME_STEPS] > beside[now]).sum())


def _events(track: Track, drive: Drive) -> Array | None:
    """Scenes of a drive by what happens in the four seconds after them, in the order of _EVENT_WORTH.

    None for a drive that mostly stands.
    """
    begin = drive.first_step - track.first_step
    now = begin + FRAME_STEPS * np.arange(HISTORY_FRAMES - 1, drive.frames - 10)
    speed, heading = track.speed_mps, track.rear_axle[:, 2]
    horizon = PLAN_POSES * FRAME_STEPS
    span = drive.frames * FRAME_STEPS
    if np.mean(speed[begin : begin + span] < _STANDING_MPS) > _MAX_STANDING_SHARE:
        return None
    change = speed[now + horizon] - speed[now]
    turned = heading[now + horizon] - heading[now]
    waits = (speed[now] < _STANDING_MPS) & (speed[now + horizon] < _STANDING_MPS)
    kinds = np.stack([change < -2.0, change > 2.0, turned > 0.6, turned < -0.6, waits], axis=1)
    kinds = np.concatenate([kinds, ~kinds.any(axis=1, keepdims=True)], axis=1)
    return kinds.sum(axis=0).astype(np.float64)


def _fault(
    city: City,
    scenery: Scenery,
    index: TrafficIndex,
    drive: Drive,
    span: int,
    drivable: BaseGeometry,
) -> str | None:
    """Why a drive cannot stand as a human's: hits something, leaves the road, runs a light, has no route left.

    A human driver may graze the kerb and may be caught by red after entering on late yellow. Who was caught because
    they waited in the junction did no wrong, but the score knows no difference, and NAVSIM's logs hardly show it.
    """
    traffic = index.traffic
    if not _is_bearable(traffic.tracks[drive.track_index], drive, span):
        return "harder than a person would drive"
    edges = route_edges(city, traffic, drive)
    if len(edges) < 2 or not city.route_roadblocks(edges):
        return "no route"
    track = traffic.tracks[drive.track_index]
    last_edge = str(track.lanes[drive.first_step - track.first_step + span]).rsplit("_", 1)[0]
    ahead = edges[edges.index(last_edge) :] if last_edge in edges else edges[-3:]
    if len(ahead) < 2:
        return "route ends"
    blocks = set(city.route_roadblocks(edges))
    if len(blocks) < 2 * len(edges) - 1:
        return "route has gaps"
    on_route = [c for c in city.connectors if str(c.roadblock_connector) in blocks and c.signal is not None]
    statics = np.array([[*item.pose, *item.size_m[:2]] for item in scenery.objects]).reshape(-1, 5)
    driven = {str(lane) for lane in track.lanes}
    touched: set[int] = set()
    entered_at_yellow_s: dict[int, float] = {}
    for step, ego, outline in _ego_outlines(index, drive, span):
        if not drivable.contains(outline) and _beyond(drivable, outline) > KERB_GRAZE_M:
            return "off the drivable area"
        others = [i for i in index.present(step) if i != drive.track_index]
        boxes = np.concatenate([index.boxes(others, step), statics])
        near = boxes[np.hypot(boxes[:, 0] - ego[0], boxes[:, 1] - ego[1]) < 14.0]
        # A hand's breadth of air, since boxes of logs are never exact.
        if len(near) and shapely.intersects(outline.buffer(0.12), shapely.polygons(box_corners(near))).any():
            return "touches something"
        frame_step = drive.first_step + (step - drive.first_step) // FRAME_STEPS * FRAME_STEPS
        for connector in on_route:
            if not connector.polygon.intersects(outline):
                continue
            if not is_red(connector, traffic, frame_step):
                if (
                    connector.fid not in touched
                    and step > drive.first_step
                    and driven.intersection(connector.sumo_lanes)
                ):
                    entered_at_yellow_s[connector.intersection] = yellow_s(connector, traffic, step)
                touched.add(connector.fid)
            elif entered_at_yellow_s.get(connector.intersection, 0.0) < LATE_YELLOW_S:
                return "on a connector at red"
    return None


def _is_bearable(track: Track, drive: Drive, span: int) -> bool:
    """Whether a person would drive like this at all, be it in an emergency."""
    begin = drive.first_step - track.first_step
    window = slice(begin - 2, begin + span + 3)
    speed, heading = track.speed_mps[window], track.rear_axle[window, 2]
    yaw_rate = np.gradient(heading, STEP_S)
    steering = np.arctan(EGO_WHEEL_BASE_M * yaw_rate / np.maximum(speed, 1.0))
    return bool(
        np.abs(np.gradient(speed, STEP_S)).max() < BEARABLE_ACCELERATION_MPS2
        and np.abs(yaw_rate * speed).max() < BEARABLE_LATERAL_MPS2
        and np.abs(yaw_rate).max() < BEARABLE_YAW_RATE_RADPS
        and np.abs(steering).max() < MAX_STEERING_RAD
        and np.abs(np.gradient(steering, STEP_S)).max() < MAX_STEERING_RATE_RADPS
    )


def _beyond(drivable: BaseGeometry, outline: Polygon) -> float:
    """How far (m) the farthest corner of an outline lies off the drivable area."""
    corners = shapely.points(shapely.get_coordinates(outline)[:4])
    return float(shapely.distance(drivable, corners).max())


def _ego_outlines(index: TrafficIndex, drive: Drive, span: int) -> Iterator[tuple[int, Array, Polygon]]:
    for step in range(drive.first_step, drive.first_step + span + 1, 2):
        pose = index.ego_pose(drive.track_index, step)
        box = ego_boxes(pose[None])[0]
        yield step, box[:2], Polygon(box_corners(box))
