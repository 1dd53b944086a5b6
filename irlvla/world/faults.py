"""Where the human driver was at fault: measured on what was driven, whatever the reason for it."""

from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from shapely.geometry.base import BaseGeometry

from irlvla.data.faults import HumanFault, write_faults
from irlvla.geometry import EGO_FRONT_M, box_corners, ego_boxes, world_to_ego, wrap_angle
from irlvla.types import PLAN_POSES
from irlvla.world.city import City, Lane
from irlvla.world.drives import FRAME_STEPS, LATE_YELLOW_S, Drive, TrafficIndex, is_red, yellow_s
from irlvla.world.logs import KeyFrame, object_type
from irlvla.world.motion import STEP_S

Array = NDArray[np.float64]

HARD_BRAKING_MPS2 = 3.0
TAILGATING_S = 0.8
TAILGATING_MPS = 4.0
STOP_LINE_M = 0.3
CUT_CORNER_M = 1.1
OVER_LINE_M = 0.1
OVER_KERB_M = 0.05

_SHORTEST_S = {"hard braking": 0.3, "tailgating": 1.0, "over the line": 0.3, "cut corner": 0.2}
_TURN_RAD = np.radians(50.0)
_LANE_CHANGE_STEPS = 40
# Half the length of road works, and the way into the lane beside them and back.
_EVADING_M = 45.0


def label_faults(root: Path, data_split: str, name: str, frames: list[KeyFrame], faults: dict[str, Array]) -> None:
    """Write the faults in the four seconds after every keyframe of a log whose future is known.

    Args:
        faults: As `find_faults` gives them.
    """
    rows = []
    horizon = PLAN_POSES * FRAME_STEPS
    for number in range(len(frames) - PLAN_POSES):
        first = number * FRAME_STEPS
        found = []
        for kind, amounts in faults.items():
            window = amounts[first : first + horizon + 1]
            for run in _runs(window > 0.0):
                # A small time gap is the bad one.
                worst = window[run].min() if kind == "tailgating" else window[run].max()
                found.append(
                    HumanFault(
                        kind,
                        round(float(run[0]) * STEP_S, 1),
                        round(float(run[-1]) * STEP_S, 1),
                        round(float(worst), 2),
                    )
                )
        rows.append((frames[number].token, tuple(found)))
    write_faults(root, data_split, name, rows)


def find_faults(city: City, index: TrafficIndex, drive: Drive, obstacles: Array | None = None) -> dict[str, Array]:
    """Kind of fault -> [T] how bad it is at every 0.1 s of a drive, 0 where it does not happen.

    Args:
        drive: A drive of the traffic that `index` knows.
        obstacles: [N, 2] world points of what stands in the way; who makes way for it may cross a line.
    """
    track = index.traffic.tracks[drive.track_index]
    steps = np.arange(drive.first_step, drive.first_step + (drive.frames - 1) * FRAME_STEPS + 1)
    local = steps - track.first_step
    poses = np.stack([index.ego_pose(drive.track_index, int(step)) for step in steps])
    speed = track.speed_mps[local]
    lanes = [str(track.lanes[k]) for k in local]
    found = {
        "hard braking": _above(-np.gradient(gaussian_filter1d(speed, 1.0), STEP_S), HARD_BRAKING_MPS2),
        "tailgating": _tailgating(index, drive, steps, poses, speed),
        **_at_lights(city, index, track.lanes, local, steps, poses, speed),
        "cut corner": _cut_corners(city, lanes, poses),
        "over the line": _over_line(city, lanes, poses, np.zeros((0, 2)) if obstacles is None else obstacles),
        "over the kerb": _over_kerb(city, poses),
    }
    for kind, seconds in _SHORTEST_S.items():
        for run in _runs(found[kind] > 0.0):
            if len(run) < round(seconds / STEP_S):
                found[kind][run] = 0.0
    return found


def _above(values: Array, bound: float) -> Array:
    return np.where(values > bound, values, 0.0)


def _runs(happens: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Indices of each stretch of True."""
    at = np.flatnonzero(happens)
    return [run for run in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(run)]


def _tailgating(index: TrafficIndex, drive: Drive, steps: NDArray[np.int64], poses: Array, speed: Array) -> Array:
    """Time gap (s) to a vehicle straight ahead where it is too small, else 0."""
    gaps = np.zeros(len(steps))
    for k, step in enumerate(steps):
        if speed[k] < TAILGATING_MPS:
            continue
        others = [
            i
            for i in index.present(int(step))
            if i != drive.track_index and object_type(index.traffic.tracks[i].kind) == "vehicle"
        ]
        boxes = index.boxes(others, int(step))
        near = boxes[np.hypot(*(boxes[:, :2] - poses[k, :2]).T) < 25.0]
        if not len(near):
            continue
        x, y, turned = world_to_ego(near[:, :3], poses[k]).T
        gap_m = x - near[:, 3] / 2 - EGO_FRONT_M
        ahead = (np.abs(y) < 1.2) & (np.abs(turned) < 0.5) & (gap_m > 0.0)
        if ahead.any():
            gap_s = float(gap_m[ahead].min()) / speed[k]
            gaps[k] = gap_s if gap_s < TAILGATING_S else 0.0
    return gaps


def _at_lights(
    city: City,
    index: TrafficIndex,
    lanes: NDArray[np.object_],
    local: NDArray[np.int64],
    steps: NDArray[np.int64],
    poses: Array,
    speed: Array,
) -> dict[str, Array]:
    """Crossing a stop line on late yellow, and standing beyond one at red."""
    late, beyond = np.zeros(len(steps)), np.zeros(len(steps))
    front = poses[:, :2] + EGO_FRONT_M * np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=1)
    signalled = {c.sumo_lanes[0]: c for c in city.connectors if c.signal is not None and c.sumo_lanes}
    entering = [k for k in range(1, len(lanes)) if str(lanes[k]) in signalled and lanes[k] != lanes[k - 1]]
    for entered in entering:
        connector = signalled[str(lanes[entered])]
        start = connector.from_lane.end
        along = connector.from_lane.baseline[-1] - connector.from_lane.baseline[-2]
        ahead_m = (front - start) @ (along / np.hypot(*along))
        # Wheels and SUMO's front bumper pass the line within a second or two of each other.
        near = np.abs(local - entered) < 40
        crossed = np.flatnonzero(near & (ahead_m > 0.0))
        if not len(crossed):
            continue
        crossing = int(crossed[0])
        yellow = yellow_s(connector, index.traffic, int(steps[crossing]))
        if crossing > 0 and yellow >= LATE_YELLOW_S:
            late[crossing] = yellow
        stands = near & (ahead_m > STOP_LINE_M) & (ahead_m < 3.0) & (speed < 0.2) & (local < entered)
        for k in np.flatnonzero(stands):
            if is_red(connector, index.traffic, int(steps[k])):
                beyond[k] = ahead_m[k]
    return {"late yellow": late, "over the stop line": beyond}


def _cut_corners(city: City, lanes: list[str], poses: Array) -> Array:
    """How far the ego's centre is on the inner side of a left turn's centerline, where that is far."""
    inside = np.zeros(len(lanes))
    connectors = {name: c for c in city.connectors for name in c.sumo_lanes}
    centers = ego_boxes(poses)[:, :2]
    for connector in {lane: connectors[lane] for lane in lanes if lane in connectors}.values():
        line = connector.baseline
        heading = np.arctan2(*np.diff(line, axis=0).T[::-1])
        if wrap_angle(heading[-1] - heading[0]) < _TURN_RAD:
            continue
        path = shapely.LineString(line)
        at = shapely.line_locate_point(path, shapely.points(centers))
        middle = (at > 0.15 * path.length) & (at < 0.85 * path.length)
        within = shapely.distance(path, shapely.points(centers)) < 4.0
        foot = shapely.get_coordinates(shapely.line_interpolate_point(path, at))
        along = shapely.get_coordinates(shapely.line_interpolate_point(path, at + 0.5)) - foot
        aside = centers - foot
        left_m = (along[:, 0] * aside[:, 1] - along[:, 1] * aside[:, 0]) / np.maximum(np.hypot(*along.T), 1e-9)
        on_it = np.isin(lanes, connector.sumo_lanes)
        # The centre reaches the turn after the front bumper has, and leaves it later.
        on_it |= np.roll(on_it, 10) & (np.arange(len(lanes)) >= 10)
        inside = np.maximum(inside, np.where(middle & within & on_it, _above(left_m, CUT_CORNER_M), 0.0))
    return inside


def _over_line(city: City, lanes: list[str], poses: Array, obstacles: Array) -> Array:
    """How far the body reaches beyond its lane's edge, away from junctions, lane changes and obstacles."""
    over = np.zeros(len(lanes))
    lane_of: dict[str, Lane] = {lane.sumo_id: lane for lane in city.lanes}
    changes = [k for k in range(1, len(lanes)) if lanes[k] != lanes[k - 1]]
    corners = box_corners(ego_boxes(poses))
    evades = (np.hypot(*(poses[:, None, :2] - obstacles).transpose(2, 0, 1)) < _EVADING_M).any(axis=1)
    for name in set(lanes):
        lane = lane_of.get(name)
        if lane is None:
            continue
        steps = np.flatnonzero((np.array(lanes) == name) & ~evades)
        near = [min((abs(int(k) - c) for c in changes), default=99) for k in steps]
        steps = steps[np.array(near) > _LANE_CHANGE_STEPS]
        if not len(steps):
            continue
        line = shapely.LineString(lane.baseline)
        points = shapely.points(corners[steps])
        at = shapely.line_locate_point(line, points)
        beside = ((at > 1.0) & (at < line.length - 1.0)).all(axis=1)
        reach = shapely.distance(line, points).max(axis=1) - lane.width_m / 2
        over[steps] = np.where(beside, _above(reach, OVER_LINE_M), 0.0)
    return over


def _over_kerb(city: City, poses: Array) -> Array:
    drivable: BaseGeometry = city.drivable_area()
    shapely.prepare(drivable)
    return _above(shapely.distance(drivable, shapely.points(box_corners(ego_boxes(poses)))).max(axis=1), OVER_KERB_M)
