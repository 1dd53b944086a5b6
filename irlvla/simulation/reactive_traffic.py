"""Reactive traffic: vehicles that follow their lane by the intelligent driver model and brake for the ego vehicle.

The official policy is odd in places, and every oddity is kept: routes are never extended, red lights are ignored, and
the ego vehicle is seen 0.1 s late with its box centered on the rear axle. `irlvla.scoring.reference.reactive_traffic`
does the same, slow and plain: read it first.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from irlvla.data.maps import CityMap
from irlvla.errors import SceneDataError
from irlvla.geometry import box_corners, ego_boxes
from irlvla.simulation.following import FINE, LOST_LANE, NOBODY_TO_SEE, Drivers, Drives, drive_all
from irlvla.simulation.kernels import kernel
from irlvla.simulation.observation import Tracks, boxes_in_world
from irlvla.simulation.strips import lay_lines, write_box
from irlvla.simulation.traffic import Traffic, box_centroid, traffic_from_boxes
from irlvla.types import OBJECT_TYPES, ROLLOUT_STATES, Array, Frame

_VEHICLE = OBJECT_TYPES.index("vehicle")
_MAX_LATERAL_M = 3.0
"""A vehicle further off its lane's center line does not follow it."""
_STANDING_MPS = 0.1
_DEFAULT_SPEED_MPS = 10.0
EGO_KEY = "ego"
"""Token of the ego vehicle among those of the vehicles."""
FAILURES = {
    LOST_LANE: "a vehicle of the reactive traffic lost its lane; score it non-reactive",
    NOBODY_TO_SEE: "the token of whatever is in a vehicle's way is part of that vehicle's own token, for which the "
    "official policy fails; score it non-reactive",
}


@dataclass(frozen=True)
class Rail:
    """Center line of a lane or connector, as a vehicle follows it."""

    progress_m: Array
    """[K] distance along the line, from 0, strictly increasing."""
    poses: Array
    """[K, 3] x, y (m, world), unwrapped heading (rad)."""


@dataclass(frozen=True)
class Follower:
    """A vehicle that follows its lane, as it starts."""

    row: int
    """Which of the current frame's vehicles it is."""
    rail: Rail
    progress_m: float
    speed_mps: float
    wanted_speed_mps: float
    snapped_box: Array
    """[5] its box, moved onto the center line: center x, y, heading, length, width (m, rad, world)."""

    @property
    def length_m(self) -> float:
        return float(self.snapped_box[3])

    @property
    def width_m(self) -> float:
        return float(self.snapped_box[4])


@dataclass(frozen=True)
class TrafficStart:
    """What reactive traffic starts from; the same for every plan of a scene."""

    token: str
    """The scene's."""
    vehicle_tokens: tuple[str, ...]
    vehicle_boxes: Array
    """[V, 5] vehicles of the current frame: center x, y, heading, length, width (m, rad, world)."""
    vehicle_velocity_mps: Array
    """[V, 2] over ground (world)."""
    followers: tuple[Follower, ...]
    bystanders: tuple[int, ...]
    """Vehicles that stay where they are, unless a follower is in their place: parked off the lanes, or far beside one.
    All other vehicles vanish after the current frame."""
    others: Tracks
    """Everything that is no vehicle, as logged."""

    @cached_property
    def drivers(self) -> Drivers:
        """The followers, for the kernel."""
        followers = self.followers
        tokens = [self.vehicle_tokens[follower.row] for follower in followers]
        # Officially a token is overlooked where it is part of the driver's own, not only where it is the same.
        is_hidden = [[other in token for other in (*tokens, EGO_KEY)] for token in tokens]
        return Drivers(
            lay_lines(
                [follower.rail.progress_m for follower in followers],
                [follower.rail.poses for follower in followers],
                [follower.width_m for follower in followers],
            ),
            np.array([follower.progress_m for follower in followers]),
            np.array([follower.speed_mps for follower in followers]),
            np.array([follower.wanted_speed_mps for follower in followers]),
            np.array([follower.snapped_box for follower in followers]).reshape(-1, 5),
            np.array(is_hidden, dtype=np.bool_).reshape(len(followers), len(followers) + 1),
            np.array([EGO_KEY in token for token in tokens], dtype=np.bool_),
            np.ascontiguousarray(box_corners(self.vehicle_boxes[list(self.bystanders)].reshape(-1, 5))),
        )

    @cached_property
    def others_traffic(self) -> Traffic:
        """`others`, laid out for the scoring kernels."""
        others = self.others
        return traffic_from_boxes(others.boxes, others.present, others.types, others.first_speed_mps)


def _outline(box: Array) -> Any:
    return shapely.Polygon(box_corners(box))


@lru_cache(maxsize=8)
def _connector_tree(city_map: CityMap) -> tuple[shapely.STRtree, NDArray[np.int64]]:
    connectors = np.array(list(city_map.connector_polygons), dtype=np.int64)
    return shapely.STRtree(list(city_map.connector_polygons.values())), connectors


def _lanes_at(city_map: CityMap, point: shapely.Point) -> tuple[list[int], bool]:
    """Lanes that hold a point, else its connectors within an intersection; and whether it is in any of the two."""

    def holding(tree: shapely.STRtree, ids: NDArray[np.int64]) -> list[int]:
        return [int(fid) for fid in ids[np.sort(tree.query(point, predicate="within"))]]

    lanes = holding(city_map.lanes.tree, city_map.lanes.ids)
    if lanes:
        return lanes, True
    if not holding(city_map.intersections.tree, city_map.intersections.ids):
        return [], False
    return holding(*_connector_tree(city_map)), True


def _nearest_pose(line: Any, point: shapely.Point) -> tuple[float, tuple[float, float, float]]:
    """Progress (m) of the point of a center line nearest to a position, and its x, y, heading."""
    progress_m = float(line.project(point))
    here, ahead = line.interpolate(progress_m), line.interpolate(progress_m + 0.5)
    if here == ahead:
        behind = line.interpolate(progress_m - 0.5)
        return progress_m, (here.x, here.y, math.atan2(here.y - behind.y, here.x - behind.x))
    return progress_m, (here.x, here.y, math.atan2(ahead.y - here.y, ahead.x - here.x))


def _rail(path: Array, scene_token: str, lane: int) -> Rail:
    """Rail of a lane's center line [V, 3]. Its last vertex is lost, as it is officially."""
    steps_m = np.hypot(*np.diff(path[:, :2], axis=0).T)
    progress_m = np.concatenate([[0.0], np.cumsum(steps_m)])
    keep = np.flatnonzero(~np.isclose(np.diff(progress_m), 0.0))
    if len(keep) < 2:
        raise SceneDataError(
            scene_token,
            f"reactive traffic cannot follow lane {lane}: its center line has {len(path)} vertices, it takes three",
        )
    headings = np.unwrap(path[keep, 2])
    poses = np.column_stack([path[keep, :2], headings])
    return Rail(progress_m[keep], poses)


def start_traffic(token: str, now: Frame, tracks: Tracks, ego_pose_world: Array, city_map: CityMap) -> TrafficStart:
    """Decide which vehicles of the current frame will follow which lane.

    Args:
        token: The scene's.
        now: Current frame.
        tracks: Everything as logged over the next four seconds; vehicles among it are not replayed.
        ego_pose_world: [3] rear axle now.
        city_map: The city the scene lies in.
    Raises:
        SceneDataError: A vehicle stands on a lane whose center line is too short to follow.
    Source: navsim `build_idm_agents_on_map_rails`, `NavsimIDMAgents.get_observation`; nuplan-devkit v1.2
        `get_starting_segment`, `IDMAgent`.
    """
    is_vehicle = now.boxes.types == _VEHICLE
    boxes, velocity = (values[is_vehicle] for values in boxes_in_world(now))
    names = [name for name, wanted in zip(now.boxes.track_tokens, is_vehicle, strict=True) if wanted]
    taken = [_outline(ego_boxes(ego_pose_world))]
    wanted_speed_mps = _DEFAULT_SPEED_MPS
    followers, bystanders = [], []
    for row, (box, speed_mps) in enumerate(zip(boxes, np.hypot(velocity[:, 0], velocity[:, 1]).tolist(), strict=True)):
        point = shapely.Point(box[:2])
        lanes, is_on_road = _lanes_at(city_map, point)
        if not lanes:
            if speed_mps < _STANDING_MPS and not is_on_road:
                bystanders.append(row)
            continue
        nearest = [_nearest_pose(city_map.baseline(lane), point) for lane in lanes]
        # Headings are compared unwrapped, as officially: across +-pi the wrong lane can win.
        choice = int(np.argmin([abs(pose[2] - box[2]) for _, pose in nearest]))
        lane, (progress_m, pose) = lanes[choice], nearest[choice]
        if math.hypot(pose[0] - box[0], pose[1] - box[1]) > _MAX_LATERAL_M:
            bystanders.append(row)
            continue
        snapped_box = np.array([*pose, *box[3:]])
        outline = _outline(snapped_box)
        if shapely.intersects(outline, taken).any():
            continue
        taken.append(outline)
        # A lane without a speed limit hands on the limit that the vehicle before used.
        wanted_speed_mps = city_map.speed_limit_mps(lane) or wanted_speed_mps
        rail = _rail(city_map.discrete_path(lane), token, lane)
        followers.append(Follower(row, rail, progress_m, speed_mps, wanted_speed_mps, snapped_box))
    others = tracks.select(tracks.types != _VEHICLE)
    present = others.present.copy()
    # A track with a single sighting is replayed throughout, but the current step shows what was there.
    present[:, 0] = [other in now.boxes.track_tokens for other in others.tokens]
    return TrafficStart(
        token, tuple(names), boxes, velocity, tuple(followers), tuple(bystanders), replace(others, present=present)
    )


def tracks_from_vehicles(start: TrafficStart, boxes: Array, velocity_mps: Array, present: NDArray[np.bool_]) -> Tracks:
    """Vehicles of the current frame in its order, then everything else.

    Args:
        start: Where traffic started from.
        boxes: [V, 41, 5] center x, y, heading, length, width (m, rad, world).
        velocity_mps: [V, 41, 2] (world).
        present: [V, 41].
    """
    others = start.others
    return Tracks(
        start.vehicle_tokens + others.tokens,
        np.concatenate([np.full(len(boxes), _VEHICLE), others.types]),
        np.concatenate([boxes, others.boxes]),
        np.concatenate([velocity_mps, others.velocity_mps]),
        np.concatenate([present, others.present]),
    )


def drive(start: TrafficStart, rollouts: Array) -> Drives:
    """What followers and bystanders do beside rollouts [C, 41, 11] of the ego vehicle, each by itself.

    Raises:
        SceneDataError: A vehicle lost its lane, for which the official policy fails as well.
    Source: navsim `NavsimIDMTrafficAgents`, `NavsimIDMAgentManager.propagate_agents`.
    """
    plans, count = len(rollouts), len(start.followers)
    drives = Drives(
        np.zeros((plans, count, ROLLOUT_STATES, 3)),
        np.zeros((plans, count, ROLLOUT_STATES)),
        np.zeros((plans, count, ROLLOUT_STATES), dtype=np.bool_),
        np.zeros((plans, len(start.bystanders), ROLLOUT_STATES), dtype=np.bool_),
    )
    failure = drive_all(start.drivers, np.ascontiguousarray(rollouts), drives)
    if failure != FINE:
        raise SceneDataError(start.token, FAILURES[failure])
    return drives


def react(start: TrafficStart, ego_states: Array) -> Tracks:
    """What everything around the ego vehicle does while it drives through given states.

    Args:
        start: Where traffic starts from.
        ego_states: [41, 11] simulated states.
    Returns:
        Vehicles of the current frame in its order, then everything else.
    Raises:
        SceneDataError: A vehicle lost its lane, for which the official policy fails as well.
    """
    drives = drive(start, ego_states[None])
    boxes = np.repeat(start.vehicle_boxes[:, None], ROLLOUT_STATES, axis=1)
    velocity = np.repeat(start.vehicle_velocity_mps[:, None], ROLLOUT_STATES, axis=1)
    present = np.zeros(boxes.shape[:2], dtype=np.bool_)
    rows = [follower.row for follower in start.followers]
    present[rows] = drives.present[0]
    present[list(start.bystanders)] = drives.bystanders_present[0]
    present[:, 0] = True
    heading, speed_mps = drives.poses[0, :, 1:, 2], drives.speed_mps[0, :, 1:]
    boxes[rows, 1:, :3] = drives.poses[0, :, 1:]
    velocity[rows, 1:] = np.stack([speed_mps * np.cos(heading), speed_mps * np.sin(heading)], axis=-1)
    return tracks_from_vehicles(start, boxes, velocity, present)


@kernel
def _lay_vehicles(
    drives: Drives,
    now: Array,
    sizes: Array,
    follower: NDArray[np.int64],
    bystander: NDArray[np.int64],
    traffic: Traffic,
) -> None:
    """Lay out what vehicles with corners `now` [V, 4, 2] do beside each rollout, plan by plan.

    `follower` and `bystander` [V] say which follower or bystander a vehicle is; -1 for none.
    """
    for plan in range(len(drives.poses)):
        for vehicle in range(len(now)):
            track = plan * len(now) + vehicle
            traffic.corners[track, :], traffic.present[track, 0] = now[vehicle], True
            box_centroid(now[vehicle], traffic.centroid[track, 0])
            traffic.centroid[track, 1:] = traffic.centroid[track, 0]
            if bystander[vehicle] >= 0:
                traffic.present[track, 1:] = drives.bystanders_present[plan, bystander[vehicle], 1:]
            if follower[vehicle] < 0:
                continue
            length_m, width_m = sizes[vehicle, 0], sizes[vehicle, 1]
            for step in range(1, drives.poses.shape[2]):
                if not drives.present[plan, follower[vehicle], step]:
                    break
                traffic.present[track, step] = True
                pose = drives.poses[plan, follower[vehicle], step]
                write_box(traffic.corners[track, step], pose[0], pose[1], pose[2], length_m, width_m)
                box_centroid(traffic.corners[track, step], traffic.centroid[track, step])


def reactive_vehicles(start: TrafficStart, rollouts: Array) -> Traffic:
    """Vehicles of the current frame beside each of the rollouts [C, 41, 11], for the scoring kernels.

    Returns:
        C times V tracks, plan by plan. What is no vehicle is the same for every plan: `TrafficStart.others_traffic`.
    Raises:
        SceneDataError: A vehicle lost its lane, for which the official policy fails as well.
    """
    drives = drive(start, rollouts)
    count = len(start.vehicle_tokens)
    follower, bystander = np.full(count, -1), np.full(count, -1)
    follower[[f.row for f in start.followers]] = np.arange(len(start.followers))
    bystander[list(start.bystanders)] = np.arange(len(start.bystanders))
    tracks = len(rollouts) * count
    traffic = Traffic(
        np.empty((tracks, ROLLOUT_STATES, 4, 2)),
        np.empty((tracks, ROLLOUT_STATES, 2)),
        np.zeros((tracks, ROLLOUT_STATES), dtype=np.bool_),
        np.zeros(tracks, dtype=np.bool_),
        np.tile(np.hypot(*start.vehicle_velocity_mps.T), len(rollouts)),
    )
    now = np.ascontiguousarray(box_corners(start.vehicle_boxes))
    _lay_vehicles(drives, now, np.ascontiguousarray(start.vehicle_boxes[:, 3:]), follower, bystander, traffic)
    return traffic
